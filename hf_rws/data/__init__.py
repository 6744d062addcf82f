"""Images: labelled sets of one size, datasets of the Hub and of folders, published benchmarks."""

from hf_rws.data.benchmarks import Benchmark, open_benchmark
from hf_rws.data.datasets import TEST_NAMES, TRAIN_NAMES, load_split, load_splits
from hf_rws.data.preprocessing import Preprocessing
from hf_rws.data.sets import ImageSet, Splits
from hf_rws.data.unlabelled import as_images

__all__ = [
    "TEST_NAMES",
    "TRAIN_NAMES",
    "Benchmark",
    "ImageSet",
    "Preprocessing",
    "Splits",
    "as_images",
    "load_split",
    "load_splits",
    "open_benchmark",
]
