"""The published benchmarks as evaluation data: CIFAR-10-C, CIFAR-100-C, Tiny-ImageNet-C, ImageNet-C.

```python
benchmark = hf_rws.data.open_benchmark("CIFAR-10-C")
hf_rws.evaluate(model, benchmark, corruptions="all", severities=[1, 2, 3, 4, 5])
```

Two layouts are known (Hendrycks & Dietterich, ICLR 2019):

- arrays: `<corruption>.npy`, uint8 of shape (5 N, H, W, 3), severities 1 to 5 one after the other, and `labels.npy`;
- images: `<corruption>/<severity>/<class>/*.JPEG`, also with a folder of groups (noise, blur, ...) around them.

Nothing is read before it is needed, and never more than a batch.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hf_rws._at_once import by_area
from hf_rws._choices import BAR, CORRUPTIONS, SEVERITIES
from hf_rws.corruptions.batch import check_severity
from hf_rws.data.pictures import IMAGE_ENDINGS, as_array, readable
from hf_rws.data.preprocessing import Preprocessing, resolve
from hf_rws.data.sets import ImageSet, numbered_classes, parse_classes, some_names, split_names
from hf_rws.errors import FormatError, NotFoundError, OptionError

_LABELS = "labels.npy"
_CPU = torch.device("cpu")


class _Part(Protocol):
    """The images of one corruption and severity."""

    @property
    def labels(self) -> np.ndarray:
        """Numbers of the benchmark's own classes, integers of shape (N,)."""

    def pixels(self, indices: np.ndarray, preprocessing: Preprocessing | None) -> Sequence[np.ndarray]:
        """Some of the images, each uint8 of shape (3, H, W); FormatError if one cannot be decoded."""


class _Layout(Protocol):
    """How the files of a benchmark lie in its folder."""

    corruptions: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their numbers."""

    def part(self, corruption: str, severity: int) -> _Part:
        """Look the files up, and check what can be checked without decoding."""


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Images that were corrupted and published by others, for evaluation.

    Attributes:
        name: What it is called in tables: the folder's name.
        classes: Class names by label, in the model's order.
        corruptions: What it holds, in the order of `CORRUPTIONS` and `BAR`, others after them.
        preprocessing: How images are brought to another size; None leaves them as they are.
    """

    name: str
    classes: tuple[str, ...]
    corruptions: tuple[str, ...]
    preprocessing: Preprocessing | None
    _layout: _Layout
    _label_of: np.ndarray  # label of each class of the files, -1 where it is left out

    def count(self, corruption: str, severity: int) -> int:
        """How many images there are of this corruption and severity, after a look at their files.

        Raises:
            OptionError: The benchmark has no such corruption; severity is not 1 to 5.
            NotFoundError: Files of this corruption and severity are missing.
            FormatError: They are not what they should be: shapes, dtypes, lengths, empty folders.
        """
        return len(self._select(corruption, severity)[1])

    def batches(
        self,
        corruption: str,
        severity: int,
        *,
        batch_size: int | None = None,
        limit: int | None = None,
        device: torch.device = _CPU,
    ) -> Iterator[ImageSet]:
        """The images in the published order, in constant memory; where they lie in folders, one of each class in turn.

        Args:
            corruption: One of `corruptions`.
            severity: 1 to 5.
            batch_size: Images at a time; by default by their size, as many as a network is asked about at once.
            limit: Only the first so many.
            device: Where that network is; images are on the CPU.

        Yields:
            Up to `batch_size` images, uint8 of shape (N, 3, H, W), with labels that are positions in `classes`.

        Raises:
            OptionError: The benchmark has no such corruption; severity is not 1 to 5.
            NotFoundError: Files of this corruption and severity are missing.
            FormatError: They are not what they should be, an image cannot be decoded, or images differ in size.
        """
        part, chosen, labels = self._select(corruption, severity)
        chosen, labels = chosen[:limit], labels[:limit]
        read = [] if batch_size else list(part.pixels(chosen[:1], self.preprocessing))
        batch_size = batch_size or by_area(read[0].shape, device)
        shapes: set[tuple[int, ...]] = set()
        for first in range(0, len(chosen), batch_size):
            where = slice(first, first + batch_size)
            images = [*read, *part.pixels(chosen[where][len(read) :], self.preprocessing)]
            read = []
            shapes.update(image.shape[1:] for image in images)
            if len(shapes) > 1:
                sizes = ", ".join(sorted(f"{width}x{height}" for height, width in shapes))
                raise FormatError(
                    f"{self.name}: images of {corruption}, severity {severity}, differ in size ({sizes}); "
                    "give an image_size to bring them to one size"
                )
            yield ImageSet(torch.from_numpy(np.stack(images)), labels[where], self.classes, self.name)

    def load(self, corruption: str, severity: int, *, limit: int | None = None) -> ImageSet:
        """The images of one corruption and severity in memory; the errors are those of `batches`."""
        parts = list(self.batches(corruption, severity, limit=limit))
        images, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
        return ImageSet(images, labels, self.classes, self.name)

    def _select(self, corruption: str, severity: int) -> tuple[_Part, np.ndarray, Tensor]:
        """The files, the numbers of the images whose class is kept, and their labels."""
        if corruption not in self.corruptions:
            raise OptionError(f"{self.name} has no corruption {corruption!r}; it has: {', '.join(self.corruptions)}")
        part = self._layout.part(corruption, check_severity(severity))
        labels = self._label_of[part.labels]
        chosen = np.flatnonzero(labels >= 0)
        if not len(chosen):
            raise OptionError(
                f"{self.name}: of {corruption}, severity {severity}, no images of these classes are there"
            )
        return part, chosen, torch.from_numpy(labels[chosen])


def is_benchmark(folder: str | Path) -> bool:
    """Whether a folder looks like a published benchmark: files or folders with names of corruptions."""
    places = (
        path
        for name in CORRUPTIONS + BAR
        for pattern in (f"{name}.npy", name, f"*/{name}")
        for path in Path(folder).glob(pattern)
    )
    return any(path.suffix == ".npy" or _has_severities(path) for path in places)


def open_benchmark(
    folder: str | Path,
    *,
    classes: str | Sequence[int] | Sequence[str] | None = None,
    image_size: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> Benchmark:
    """Open a published benchmark: a folder of CIFAR-10-C's or of ImageNet-C's layout.

    Labels are the published ones, or the positions of the class folders in the order of their names: for ImageNet-C the
    order of timm's ImageNet-1k models.

    Args:
        folder: Where it was unpacked.
        classes: For models that know other classes or another order: names of the model's classes in its order, as the
            class folders are called, e.g. `timm.data.ImageNetInfo().label_names()` to show Tiny-ImageNet-C to an
            ImageNet-1k model; or numbers of the benchmark's classes, as "0-49,60". Images of others are left out.
        image_size: Resize the shorter side to this (bicubic) and crop the centre.
        preprocessing: How to bring images to another size instead. The published images of ImageNet-C are cut already:
            a `crop_pct` below 1 cuts once more.

    Raises:
        NotFoundError: There is no such folder, it holds no benchmark, or labels.npy is missing.
        FormatError: labels.npy is not what it should be.
        OptionError: `classes` names none of the benchmark's, or `image_size` makes no sense.
    """
    folder = Path(folder)
    preprocessing = resolve(preprocessing, image_size)
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {str(folder)!r}")
    layout: _Layout
    if _array_names(folder):
        layout = _Arrays(folder)
    elif _corruption_folders(folder):
        layout = _ImageFolders(folder)
    else:
        raise NotFoundError(
            f"{folder} holds no benchmark: neither <corruption>.npy nor <corruption>/<severity>/<class>/ is there"
        )
    names, label_of = _chosen_classes(classes, layout.classes, folder.resolve().name)
    return Benchmark(folder.resolve().name, names, layout.corruptions, preprocessing, layout, label_of)


def _chosen_classes(
    wanted: str | Sequence[int] | Sequence[str] | None, classes: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the labels, and the label of each of the benchmark's classes (-1: left out)."""
    if wanted is None:
        return classes, np.arange(len(classes))
    if isinstance(wanted, str) and not re.fullmatch(r"[\d\s,-]*", wanted):
        wanted = split_names(wanted, classes)
    if not isinstance(wanted, str) and wanted and all(isinstance(name, str) for name in wanted):
        names = tuple(map(str, wanted))
    else:
        names = tuple(classes[number] for number in parse_classes(wanted, classes))
    position = {name: label for label, name in enumerate(names)}
    if len(position) < len(names):
        raise OptionError("classes must name each class once")
    label_of = np.array([position.get(name, -1) for name in classes])
    if label_of.max() < 0:
        raise OptionError(f"{where} has none of the classes {some_names(names)}; it has: {some_names(classes)}")
    return names, label_of


# --- arrays: CIFAR-10-C, CIFAR-100-C ---


class _Arrays:
    """`<corruption>.npy` with the five severities one after the other, and `labels.npy`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corruptions = _in_order(_array_names(folder))
        self.labels = _map_array(folder / _LABELS)
        if self.labels.dtype.kind not in "iu" or self.labels.ndim != 1 or not len(self.labels):
            raise FormatError(
                f"{folder / _LABELS} must hold integers of shape (N,), not {self.labels.dtype} {self.labels.shape}"
            )
        if len(self.labels) % len(SEVERITIES) or self.labels.min() < 0:
            raise FormatError(
                f"{folder / _LABELS} must hold a class number for each image of {len(SEVERITIES)} severities; it holds "
                f"{len(self.labels)} numbers from {self.labels.min()} on"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        return numbered_classes(int(self.labels.max()) + 1, str(self.folder / _LABELS))

    def part(self, corruption: str, severity: int) -> _Part:
        path = self.folder / f"{corruption}.npy"
        images = _map_array(path)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise FormatError(f"{path} must be uint8 of shape (N, H, W, 3), not {images.dtype} {images.shape}")
        if len(images) != len(self.labels):
            raise FormatError(f"{path} holds {len(images)} images, {_LABELS} {len(self.labels)} labels")
        size = len(images) // len(SEVERITIES)
        chosen = slice((severity - 1) * size, severity * size)
        return _ArrayPart(images[chosen], self.labels[chosen].astype(np.int64))


@dataclass(frozen=True)
class _ArrayPart:
    images: np.ndarray
    labels: np.ndarray

    def pixels(self, indices: np.ndarray, preprocessing: Preprocessing | None) -> Sequence[np.ndarray]:
        images = self.images[indices]
        if preprocessing is None:
            return images.transpose(0, 3, 1, 2)
        return [as_array(Image.fromarray(image), preprocessing) for image in images]


def _map_array(path: Path) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is missing: unpack the whole benchmark") from error
    except (OSError, ValueError, EOFError) as error:  # a broken header, or fewer bytes than it promises
        raise FormatError(f"{path} cannot be read, it may be cut off or not an array: {error}") from error


def _array_names(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob("*.npy") if path.name != _LABELS]


# --- folders of images: ImageNet-C, Tiny-ImageNet-C ---


class _ImageFolders:
    """`<corruption>/<severity>/<class>/*.JPEG`."""

    def __init__(self, folder: Path) -> None:
        self.folders = _corruption_folders(folder)
        self.corruptions = _in_order(self.folders)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        first = self.folders[self.corruptions[0]]
        severity = min(path for path in first.iterdir() if _is_severity(path))
        classes = _subfolders(severity)
        if not classes:
            raise FormatError(f"{severity} holds no class folders")
        return classes

    def part(self, corruption: str, severity: int) -> _Part:
        folder = self.folders[corruption] / str(severity)
        if not folder.is_dir():
            there = ", ".join(sorted(path.name for path in folder.parent.iterdir() if _is_severity(path)))
            raise NotFoundError(f"{folder} is missing; of {corruption} there are the severities {there}")
        differing = set(_subfolders(folder)) ^ set(self.classes)
        if differing:
            raise FormatError(
                f"{folder} does not have the class folders of the others: {some_names(sorted(differing))}"
            )
        files = [_image_files(folder / name) for name in self.classes]
        turns = zip_longest(*([(path, label) for path in paths] for label, paths in enumerate(files)))
        listed = [pair for turn in turns for pair in turn if pair]  # so that a limit meets all classes
        return _FolderPart([path for path, _ in listed], np.array([label for _, label in listed]))


@dataclass(frozen=True)
class _FolderPart:
    paths: list[Path]
    labels: np.ndarray

    def pixels(self, indices: np.ndarray, preprocessing: Preprocessing | None) -> Sequence[np.ndarray]:
        with ThreadPoolExecutor() as pool:  # Pillow decodes without the GIL
            return list(pool.map(lambda index: _decoded(self.paths[index], preprocessing), indices))


def _decoded(path: Path, preprocessing: Preprocessing | None) -> np.ndarray:
    with readable(str(path)), Image.open(path) as image:
        return as_array(image, preprocessing)


def _corruption_folders(folder: Path) -> dict[str, Path]:
    """The folders that hold folders of severities, in `folder` or one below."""
    found: dict[str, Path] = {}
    for path in sorted(child for child in folder.iterdir() if child.is_dir()):
        inner = [path] if _has_severities(path) else [child for child in sorted(path.iterdir()) if child.is_dir()]
        for candidate in filter(_has_severities, inner):
            if candidate.name in found:
                raise FormatError(f"{candidate.name} is there twice: {found[candidate.name]} and {candidate}")
            found[candidate.name] = candidate
    return found


def _has_severities(folder: Path) -> bool:
    return any((folder / str(severity)).is_dir() for severity in SEVERITIES)


def _is_severity(path: Path) -> bool:
    return path.is_dir() and path.name in map(str, SEVERITIES)


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _image_files(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    found = sorted(path for path in files if path.suffix.lower() in IMAGE_ENDINGS)
    if not found:
        raise FormatError(f"{folder} holds no images ({', '.join(IMAGE_ENDINGS)})")
    return found


def _in_order(names: Sequence[str] | dict[str, Path]) -> tuple[str, ...]:
    known = [name for name in CORRUPTIONS + BAR if name in names]
    return (*known, *sorted(set(names) - set(known)))
