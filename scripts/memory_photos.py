"""Measure the peak memory of evaluating, distilling and training at the size of photographs.

    python scripts/memory_photos.py evaluate distill
    python scripts/memory_photos.py train --model resnet18 --images 500

For each task and number of images a process of its own makes a memory-mapped array of images and a randomly initialised
model, and reads every 10 ms how much anonymous memory it has (Linux only): that of the process, but not the pages of
the file that is mapped, which the kernel takes back when it wants. The numbers include what Python and torch take
themselves. They are written to scripts/results/photos_memory.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

import hf_rws
from hf_rws.data.sets import ImageSet, Splits
from hf_rws.study.provenance import about
from hf_rws.training import TrainingArguments, train

_STATUS = Path("/proc/self/status")


class Peak:
    """The most anonymous memory that this process has had while it is looked at, in bytes."""

    def __init__(self) -> None:
        self.bytes, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon"))
            self.bytes = max(self.bytes, int(line.split()[1]) * 1024)


def mapped(folder: Path, count: int, size: int) -> Tensor:
    """Memory-mapped noise, uint8 of shape (count, 3, size, size)."""
    array = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, 3, size, size))
    some = np.random.default_rng(0).integers(0, 256, (100, 3, size, size), dtype=np.uint8)
    for first in range(0, count, len(some)):
        array[first : first + len(some)] = some[: count - first]
    array.flush()
    return torch.from_numpy(array)


def evaluate(model: nn.Module, images: ImageSet, folder: Path) -> None:
    hf_rws.evaluate(model, images, ["fog"], clean=False)


def distill(model: nn.Module, images: ImageSet, folder: Path) -> None:
    hf_rws.distill(model, images.images, corruption="fog", steps=4, progress=False)


def train_epoch(model: nn.Module, images: ImageSet, folder: Path) -> None:
    few = images.subset(slice(32))
    train(model, Splits(images, few, few), folder / "run", TrainingArguments(corruption=("fog",), epochs=1))


TASKS = {"evaluate": evaluate, "distill": distill, "train": train_epoch}


def peak_bytes(task: str, name: str, count: int, size: int) -> int:
    """Peak of one task in this process."""
    with tempfile.TemporaryDirectory() as folder:
        model = timm.create_model(name, num_classes=1000)
        labels = torch.arange(count) % 1000
        images = ImageSet(mapped(Path(folder), count, size), labels, tuple(map(str, range(1000))))
        with Peak() as peak:
            TASKS[task](model, images, Path(folder))
        return peak.bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--one", action="store_true", help="measure one task on one number of images, in this process")
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.one:
        print(peak_bytes(options.tasks[0], options.model, options.images[0], options.size))
        return

    rows = []
    for task in options.tasks:
        for count in options.images:
            given = [task, f"--images={count}", f"--model={options.model}", f"--size={options.size}", "--one"]
            began = time.perf_counter()
            done = subprocess.run([sys.executable, __file__, *given], stdout=subprocess.PIPE, text=True, check=True)
            megabytes = round(int(done.stdout.split()[-1]) / 1e6)
            rows.append({"task": task, "images": count, "peak_mb": megabytes})
            print(f"{task}, {count} images: {megabytes} MB, {time.perf_counter() - began:.0f} s", flush=True)
    described = {"model": options.model, "size": options.size, "unit": "MB of anonymous memory"}
    record = {"about": about(max(options.images), **described), "rows": rows}
    (options.output_dir / "photos_memory.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
