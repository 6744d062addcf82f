"""Image-classification datasets as uint8 tensors: decoded once, memory-mapped, split reproducibly."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from hf_rws.errors import FormatError, NotFoundError, OptionError

if TYPE_CHECKING:
    import datasets

TRAIN_NAMES = ("train",)
TEST_NAMES = ("test", "validation", "valid", "val")  # in this order: some datasets publish no labelled test split


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one size.

    Attributes:
        images: uint8 tensor of shape (N, 3, H, W), on any device; may be memory-mapped.
        labels: int64 tensor of shape (N,), values 0 .. len(classes) - 1, on the CPU.
        classes: Class names by label.
        name: What the images are called in tables and cards, e.g. "uoft-cs/cifar10".
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = ""

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise OptionError(
                f"images must be uint8 of shape (N, 3, H, W), got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise OptionError(f"{len(self.images)} images but labels of shape {tuple(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor | slice) -> "ImageSet":
        """The images at `indices`, in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over all pixels, on the [0, 1] scale."""
        total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for chunk in self.images.split(1000):
            values = chunk.to(torch.float32).div(255)
            total += values.mean((2, 3), dtype=torch.float64).sum(0).cpu()
            squares += values.square().mean((2, 3), dtype=torch.float64).sum(0).cpu()
        mean = total / len(self)
        std = (squares / len(self) - mean**2).clamp(min=0).sqrt()
        return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


@dataclass(frozen=True)
class Splits:
    """The three disjoint parts of a study; models are chosen on `validation`, and `test` is used once, at the end."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet


def load_splits(
    dataset: str,
    *,
    classes: str | Sequence[int] | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    config: str | None = None,
    revision: str | None = None,
    image_size: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    test_split: str | None = None,
    cache_dir: str | Path | None = None,
    limit: int | None = None,
) -> Splits:
    """Load a dataset and draw a validation split from its training set.

    Args:
        dataset: Hub id ("uoft-cs/cifar10") or a folder of parquet files or of images sorted by class.
        classes: Classes to keep, as "0-49,60" or a sequence of numbers; labels are renumbered from 0.
        validation: Share of the training set that becomes the validation split, in (0, 1).
        split_seed: Seed of that draw; the same seed gives the same split everywhere.
        config: Name of the configuration, of a dataset that has several.
        revision: Revision of a Hub dataset.
        image_size: Resize the shorter side to this and crop the centre; needed where images differ in size.
        image_column: Name of the image column where the features leave a choice.
        label_column: Name of the label column; by default the class label with the most classes.
        test_split: Name of the test split; by default the first of `TEST_NAMES` that there is.
        cache_dir: Where decoded images are kept; by default beside the other caches of `datasets`.
        limit: Keep only so many training images, drawn at random after the split (for trials).

    Returns:
        Train, validation and test images as uint8 tensors; they are decoded once, into files that are memory-mapped.

    Raises:
        NotFoundError: There is no such dataset, split or column.
        OptionError: An option makes no sense for this dataset.
        FormatError: An image or a label cannot be used.
    """
    if not 0 < validation < 1:
        raise OptionError(f"validation must be a share between 0 and 1, got {validation!r}")
    if limit is not None and limit < 1:
        raise OptionError(f"limit must be at least 1, got {limit!r}")
    options: dict[str, Any] = {
        "image_size": image_size,
        "image_column": image_column,
        "label_column": label_column,
        "cache_dir": cache_dir,
    }
    loaded = open_dataset(dataset, config=config, revision=revision)
    train_split = _pick(loaded, TRAIN_NAMES, dataset, "training")
    chosen_test = _pick(loaded, (test_split,) if test_split else TEST_NAMES, dataset, "test")
    train, test = (_decoded(loaded[split], split, dataset, **options) for split in (train_split, chosen_test))
    if len(train.classes) != len(test.classes):  # classes without names are counted, and a split may miss the last
        names = max(train.classes, test.classes, key=len)
        train, test = replace(train, classes=names), replace(test, classes=names)
    if classes is not None:
        kept = parse_classes(classes, len(train.classes))
        train, test = keep_classes(train, kept), keep_classes(test, kept)
    if not len(test):
        raise OptionError(f"{dataset}: no test images are left of the classes {classes}")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(split_seed))
    held_out = max(1, round(len(train) * validation))
    if held_out >= len(train):
        raise OptionError(f"{dataset} has {len(train)} training images: too few for a validation split")
    train_indices, validation_indices = order[held_out:][:limit].sort().values, order[:held_out].sort().values
    return Splits(train.subset(train_indices), train.subset(validation_indices), test)


def load_split(
    dataset: str,
    split: str = "test",
    *,
    classes: str | Sequence[int] | None = None,
    config: str | None = None,
    revision: str | None = None,
    image_size: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    cache_dir: str | Path | None = None,
) -> ImageSet:
    """Load one split of a dataset; "test" stands for the first of `TEST_NAMES` that there is.

    The options, and the errors raised, are those of `load_splits`.
    """
    loaded = open_dataset(dataset, config=config, revision=revision)
    chosen = _pick(loaded, TEST_NAMES if split == "test" else (split,), dataset, split)
    images = _decoded(
        loaded[chosen],
        chosen,
        dataset,
        image_size=image_size,
        image_column=image_column,
        label_column=label_column,
        cache_dir=cache_dir,
    )
    return images if classes is None else keep_classes(images, parse_classes(classes, len(images.classes)))


def parse_classes(classes: str | Sequence[int], count: int) -> tuple[int, ...]:
    """Turn "0-49,60" into class numbers below `count`; OptionError says what is wrong."""
    if isinstance(classes, str):
        numbers: list[int] = []
        for part in classes.split(","):
            match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
            if match is None:
                raise OptionError(f"classes must look like '0-49,60', got {classes!r}")
            first, last = int(match[1]), int(match[2] or match[1])
            numbers.extend(range(first, last + 1))
    else:
        numbers = list(classes)
    if not numbers or len(set(numbers)) != len(numbers):
        raise OptionError(f"classes must name each class once and at least one, got {classes!r}")
    if max(numbers) >= count or min(numbers) < 0:
        raise OptionError(f"classes {classes!r} go beyond the {count} classes (0 to {count - 1}) of the dataset")
    return tuple(numbers)


def keep_classes(images: ImageSet, classes: Sequence[int]) -> ImageSet:
    """Only the images of `classes`, renumbered in that order."""
    renumbered = torch.full((len(images.classes),), -1)
    renumbered[list(classes)] = torch.arange(len(classes))
    labels = renumbered[images.labels]
    kept = labels >= 0
    return ImageSet(images.images[kept], labels[kept], tuple(images.classes[c] for c in classes), images.name)


def open_dataset(dataset: str, *, config: str | None = None, revision: str | None = None) -> "datasets.DatasetDict":
    """All splits of a Hub dataset or a folder, as `datasets` reads them.

    Args:
        dataset: Hub id or folder.
        config: Name of the configuration, of a dataset that has several.
        revision: Revision of a Hub dataset.

    Raises:
        NotFoundError: There is no such dataset.
        OptionError: It has several configurations and none is named, or no such one.
        FormatError: It cannot be read.
    """
    import datasets  # slow to import; only needed when a dataset is read

    local = Path(dataset).is_dir()
    if not local and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset):
        raise NotFoundError(f"dataset {dataset!r}: there is no such folder, and it is no Hub id (user/name)")
    try:
        loaded = datasets.load_dataset(str(dataset), config, revision=None if local else revision)
    except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        where = "the folder" if local else "the Hub (or the cache, when offline)"
        raise NotFoundError(f"dataset {dataset!r} could not be loaded from {where}: {error}") from error
    except (ValueError, RuntimeError, datasets.exceptions.DatasetGenerationError) as error:
        if str(error).startswith(("Config name is missing", "BuilderConfig")):
            what = " ".join(str(error).splitlines()[:2])
            raise OptionError(f"dataset {dataset!r}: choose a configuration by config: {what}") from error
        raise FormatError(f"dataset {dataset!r} could not be read: {error}") from error
    return loaded


def _pick(loaded: "datasets.DatasetDict", names: Sequence[str], dataset: str, role: str) -> str:
    for name in names:
        if name in loaded:
            return name
    raise NotFoundError(f"dataset {dataset!r} has no {role} split; it has: {', '.join(loaded)}")


def _decoded(
    split: "datasets.Dataset",
    split_name: str,
    dataset: str,
    *,
    image_size: int | None,
    image_column: str | None,
    label_column: str | None,
    cache_dir: str | Path | None,
) -> ImageSet:
    image_column = find_image_column(split, image_column, dataset)
    label_column = label_column or _label_column(split, dataset)
    labels = _labels(split, label_column, split_name, dataset)  # first: decoding may take minutes
    pixels = decoded_pixels(
        split, split_name, dataset, image_size=image_size, image_column=image_column, cache_dir=cache_dir
    )
    feature = split.features[label_column]
    classes = tuple(feature.names) if hasattr(feature, "names") else tuple(map(str, range(int(labels.max()) + 1)))
    return ImageSet(pixels, labels, classes, dataset_name(dataset))


def decoded_pixels(
    split: "datasets.Dataset",
    split_name: str,
    dataset: str,
    *,
    image_size: int | None = None,
    image_column: str | None = None,
    cache_dir: str | Path | None = None,
) -> Tensor:
    """Decode the images of a split once: uint8 of shape (N, 3, H, W), memory-mapped. Errors as in `load_splits`."""
    import datasets

    image_column = find_image_column(split, image_column, dataset)
    if image_size is not None and image_size < 1:
        raise OptionError(f"image_size must be at least 1, got {image_size!r}")
    key = f"{split._fingerprint}-{image_column}-{image_size}"
    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "hf_rws")
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
    if not path.is_file():
        _decode_to(path, split, image_column, image_size, f"{dataset} {split_name}")
    # copy-on-write: torch wants writable memory, and nothing must reach the file
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def dataset_name(dataset: str) -> str:
    """What a dataset is called in tables and cards: its id, or the name of its folder, never a path."""
    return Path(dataset).resolve().name if Path(dataset).is_dir() else dataset


def find_image_column(split: "datasets.Dataset", named: str | None, dataset: str) -> str:
    """The image column: the one named or the only one; NotFoundError or OptionError if there is none."""
    import datasets

    found = [name for name, feature in split.features.items() if isinstance(feature, datasets.Image)]
    if named is not None:
        return _existing(split, named, dataset)
    if len(found) != 1:
        raise OptionError(
            f"dataset {dataset!r} has {len(found)} image columns among {', '.join(split.features)}; "
            "name one by image_column"
        )
    return found[0]


def _existing(split: "datasets.Dataset", column: str, dataset: str) -> str:
    if column not in split.features:
        raise NotFoundError(f"dataset {dataset!r} has no column {column!r}; it has: {', '.join(split.features)}")
    return column


def _label_column(split: "datasets.Dataset", dataset: str) -> str:
    import datasets

    labels = {name: f.num_classes for name, f in split.features.items() if isinstance(f, datasets.ClassLabel)}
    if labels:
        return max(labels, key=labels.__getitem__)
    if "label" in split.features:
        return "label"
    raise OptionError(
        f"dataset {dataset!r} has no class label among {', '.join(split.features)}; name one by label_column"
    )


def _labels(split: "datasets.Dataset", column: str, split_name: str, dataset: str) -> Tensor:
    _existing(split, column, dataset)
    where = f"dataset {dataset!r}: column {column!r} of split {split_name!r}"
    if "int" not in getattr(split.features[column], "dtype", ""):
        raise FormatError(
            f"{where} does not hold class numbers but {split.features[column]}; name another label_column"
        )
    values = split.with_format(None)[column][:]
    if any(value is None or value < 0 for value in values):
        raise FormatError(f"{where} leaves images without a label; choose another split by test_split")
    return torch.tensor(values, dtype=torch.int64)


def _decode_to(path: Path, split: "datasets.Dataset", column: str, image_size: int | None, title: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels: np.memmap | None = None
    done = 0
    temporary = path.with_suffix(f".{np.random.default_rng().integers(2**63)}.tmp.npy")
    try:
        with tqdm(total=len(split), desc=f"decoding {title}", unit="img", leave=False, delay=2) as bar:
            for batch in _batches(split, column, title):
                for image in batch:
                    array = as_array(image, image_size)
                    if pixels is None:
                        shape = (len(split), *array.shape)
                        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
                    if array.shape != pixels.shape[1:]:
                        raise FormatError(
                            f"{title}: image {done} is {array.shape[2]}x{array.shape[1]}, the first is "
                            f"{pixels.shape[3]}x{pixels.shape[2]}; give an image_size to bring them to one size"
                        )
                    pixels[done] = array
                    done += 1
                bar.update(len(batch))
        if pixels is None:
            raise FormatError(f"{title}: no images")
        pixels.flush()
        del pixels  # an open file cannot be renamed everywhere
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _batches(split: "datasets.Dataset", column: str, title: str) -> Iterator[list[Image.Image]]:
    """Decoded images, in order."""
    size = 500
    batches = split.select_columns([column]).iter(batch_size=size)
    for first in range(0, len(split), size):
        where = f"{title}: images {first} to {min(first + size, len(split)) - 1}"
        try:
            batch = next(batches)[column]
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises
            raise FormatError(f"{where}: one cannot be decoded ({error})") from error
        if any(image is None for image in batch):
            raise FormatError(f"{where}: one is missing")
        yield batch


def as_array(image: Image.Image, size: int | None) -> np.ndarray:
    """An image as RGB, uint8 of shape (3, H, W); with a `size`, its shorter side resized to it and the centre cut."""
    image = image.convert("RGB")
    if size is not None and image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return np.asarray(image).transpose(2, 0, 1)
