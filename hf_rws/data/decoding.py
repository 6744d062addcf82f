"""Images of a dataset -> uint8 pixels, decoded once by several threads, into a file that is memory-mapped."""

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hf_rws._files import is_file, read_json, write_whole
from hf_rws._progress import bar
from hf_rws._text import one_line
from hf_rws.data.pictures import decoded_array
from hf_rws.data.pixel_files import Block, pixel_folder, read_pixels, write_pixels
from hf_rws.data.preprocessing import Preprocessing
from hf_rws.errors import FormatError, NotFoundError, OptionError, RWSError, warn

if TYPE_CHECKING:
    import datasets

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_ROWS = 32  # read at a time: stored pictures may have several MB each
_COPIED = 2**22  # bytes of pixels at a time
_MOST_THREADS = 8  # each holds a picture of whatever size
_MOST_OF_A_TASK, _BYTES_OF_A_TASK = 32, 2**19  # of pictures as stored: small ones are not worth a change of threads
_DECODED_OF_A_TASK = 2**23  # bytes: small pictures may become large images
_BYTES_OF_A_FILE = 2**17  # as a rule: it is not looked at before it is decoded
_LARGEST_LIST = 2**28  # bytes
_LONGEST_REASON = 300  # characters
_LISTED = 20  # images that are left out, by name


@dataclass(frozen=True)
class _Decoded:
    """Images of some rows of a split.

    Attributes:
        pixels: uint8 tensor of shape (N, 3, H, W), memory-mapped.
        rows: Numbers of their rows in the split, int64 of shape (N,).
    """

    pixels: Tensor
    rows: Tensor


def decoded_pixels(
    split: "datasets.Dataset",
    split_name: str,
    dataset: str,
    *,
    rows: Tensor | None = None,
    preprocessing: Preprocessing | None = None,
    image_column: str | None = None,
    skip_broken: bool = False,
    cache_dir: str | Path | None = None,
) -> _Decoded:
    """Decode images of a split once, and no others.

    Those that are in a file already are not decoded again: where they lie in it one after the other, they are taken
    from there, else copied to a file of their own.

    Args:
        split: The split.
        split_name: What to call it in errors.
        dataset: Likewise.
        rows: Numbers of the rows that are wanted, in any order, each once; None is all.
        preprocessing: How images come to one size.
        image_column: The column, where there are several.
        skip_broken: Leave out what cannot be decoded, with a warning that lists it.
        cache_dir: Where the file is kept.

    Returns:
        The images in the order of `rows`.

    Raises:
        RWSError: As in `load_splits`.
    """
    image_column = find_image_column(split, image_column, dataset)
    folder, title = pixel_folder(cache_dir), f"{dataset} {split_name}".strip()
    everything = torch.arange(len(split))
    rows = everything if rows is None else rows
    kin = _digest(f"{split._fingerprint}-{image_column}-{preprocessing!r}--False".encode(), 24)
    path = folder / f"{kin}.npy"  # of all images
    if skip_broken or not torch.equal(rows, everything):
        path = folder / f"{kin}-{_digest(rows.numpy().tobytes() + bytes([skip_broken]), 16)}.npy"
    if path.is_file():
        kept = _Kept.read(path)
    elif (found := _among(folder, kin, rows, skip_broken=skip_broken)) is None:
        broken: dict[int, str] = {}
        source = _Source(split, image_column, rows, title, preprocessing, skip_broken)
        kept = _keep(path, source.blocks(broken), broken, title, "decoding", len(rows))
    elif found.lie_together:
        kept = found.run
    else:
        kept = _keep(path, found.blocks(), found.broken, title, "copying", len(found.positions))
    if kept.broken:
        listed = "; ".join(list(kept.broken.values())[:_LISTED]) + ("; ..." if len(kept.broken) > _LISTED else "")
        warn(f"{len(kept.broken)} of {len(rows):,} images are left out: {listed}")
    return _Decoded(kept.pixels, kept.rows)


def find_image_column(split: "datasets.Dataset", named: str | None, dataset: str) -> str:
    """The image column: the one named or the only one; NotFoundError or OptionError if there is none."""
    import datasets

    found = [name for name, feature in split.features.items() if isinstance(feature, datasets.Image)]
    if named is not None:
        if existing_column(split, named, dataset) not in found:
            raise OptionError(f"column {named!r} of dataset {dataset!r} holds no images but {split.features[named]}")
        return named
    if len(found) > 1:
        raise OptionError(f"dataset {dataset!r} has several image columns: {', '.join(found)}; choose by image_column")
    if not found:
        raise OptionError(f"dataset {dataset!r} has no image column; its columns are: {', '.join(split.features)}")
    return found[0]


def existing_column(split: "datasets.Dataset", column: str, dataset: str) -> str:
    """The column; NotFoundError if the split does not have it."""
    if column not in split.features:
        raise NotFoundError(f"dataset {dataset!r} has no column {column!r}; it has: {', '.join(split.features)}")
    return column


# --- files of decoded images ---


@dataclass(frozen=True)
class _Kept:
    """Images in a file, the rows that they are of, and the rows that are left out as broken, and why."""

    pixels: Tensor
    rows: Tensor
    broken: dict[int, str]

    @classmethod
    def read(cls, path: Path) -> "_Kept":
        return cls(*read_pixels(path), _read_broken(path))


@dataclass(frozen=True)
class _Found:
    """Images that are wanted, among those in a file.

    Attributes:
        kept: What the file holds.
        positions: Where they are in it, int64 of shape (N,).
        broken: Those of them that are left out, by row, and why.
    """

    kept: _Kept
    positions: Tensor
    broken: dict[int, str]

    @property
    def lie_together(self) -> bool:
        first = int(self.positions[0])
        return torch.equal(self.positions, torch.arange(first, first + len(self.positions)))

    @property
    def run(self) -> _Kept:
        """The images as they lie, one after the other."""
        where = slice(int(self.positions[0]), int(self.positions[-1]) + 1)
        return _Kept(self.kept.pixels[where], self.kept.rows[where], self.broken)

    def blocks(self) -> Generator[Block, None, None]:
        for some in self.positions.split(max(1, _COPIED // self.kept.pixels[0].nbytes)):
            yield self.kept.rows[some].tolist(), self.kept.pixels[some].numpy()


def _among(folder: Path, kin: str, rows: Tensor, *, skip_broken: bool) -> _Found | None:
    """The images in another file of the same split: best where they lie together."""
    best = None
    for path in sorted(folder.glob(f"{kin}*.npy"), key=lambda path: (len(path.name), path)):
        try:
            kept = _Kept.read(path)
        except RWSError:  # damaged, or deleted just now
            continue
        found = _look_up(kept, rows, skip_broken=skip_broken)
        if found is not None and found.lie_together:
            return found
        best = best or found
    return best


def _look_up(kept: _Kept, rows: Tensor, *, skip_broken: bool) -> _Found | None:
    """None if an image is missing, but for broken ones that are to be skipped."""
    left_out = torch.isin(rows, torch.tensor(list(kept.broken) if skip_broken else [], dtype=torch.int64))
    wanted = rows[~left_out]
    order = kept.rows.argsort()
    positions = order[torch.searchsorted(kept.rows[order], wanted).clamp(max=len(order) - 1)]
    if not len(wanted) or not torch.equal(kept.rows[positions], wanted):
        return None
    return _Found(kept, positions, {row: kept.broken[row] for row in rows[left_out].tolist()})


def _keep(
    path: Path, blocks: Generator[Block, None, None], broken: dict[int, str], title: str, doing: str, most: int
) -> _Kept:
    """Write images to a file, and beside it a list of those that are broken, which is complete after the last block."""
    with closing(blocks), bar(total=most, desc=f"{doing} {title}", unit="img", leave=False, delay=2) as shown:

        def counted() -> Iterator[Block]:
            for rows, pixels in blocks:
                yield rows, pixels
                shown.update(len(rows))
            if broken:
                write_whole(_list_beside(path), json.dumps(broken))

        write_pixels(path, counted(), most, title)
    return _Kept.read(path)


def _list_beside(path: Path) -> Path:
    return path.with_suffix(".broken.json")


def _read_broken(path: Path) -> dict[int, str]:
    beside = _list_beside(path)
    if not is_file(beside):
        return {}
    return {int(row): str(why) for row, why in read_json(beside, str(beside), limit=_LARGEST_LIST).items()}


def _digest(content: bytes, length: int) -> str:
    return hashlib.sha256(content).hexdigest()[:length]


# --- decoding ---


@dataclass(frozen=True)
class _Source:
    """What is decoded into one file."""

    split: "datasets.Dataset"
    column: str
    rows: Tensor
    title: str
    preprocessing: Preprocessing | None
    skip_broken: bool

    def blocks(self, broken: dict[int, str]) -> Generator[Block, None, None]:
        """The images one by one, whatever format the dataset has been given; or why they are left out."""
        shape: tuple[int, ...] = ()
        expected = (3, *self.preprocessing.size) if self.preprocessing else ()
        with closing(_in_order(self._decoded, self._tasks(lambda: shape or expected))) as tasks:
            for row, image in chain.from_iterable(tasks):
                if isinstance(image, FormatError):
                    if not self.skip_broken:
                        raise FormatError(f"{image.args[0]}; leave such images out by skip_broken=True") from image
                    broken[row] = one_line(image, limit=_LONGEST_REASON)
                    continue
                shape = shape or image.shape
                if image.shape != shape:
                    sizes = [f"{width}x{height}" for _, height, width in (image.shape, shape)]
                    raise FormatError(
                        f"{self.title}: image {row} is {sizes[0]}, the first is {sizes[1]}; give an image_size to "
                        "bring them to one size"
                    )
                yield [row], image[None]
        if not shape:
            raise FormatError(f"{self.title}: no images" + "".join(f"; {why}" for why in list(broken.values())[:1]))

    def _decoded(self, task: list[tuple[int, Any]]) -> list[tuple[int, np.ndarray | FormatError]]:
        feature = self.split.features[self.column]
        found: list[tuple[int, np.ndarray | FormatError]] = []
        for row, value in task:
            try:
                image = decoded_array(value, feature, f"{self.title}: image {row}", self.preprocessing)
            except FormatError as error:
                found.append((row, error))
            else:
                found.append((row, np.ascontiguousarray(image)))
        return found

    def _tasks(self, shape: Callable[[], Sequence[int]]) -> Iterator[list[tuple[int, Any]]]:
        """Rows and what is stored in them, in order; one by one while `shape`, of decoded images, is not known: ()."""
        task: list[tuple[int, Any]] = []
        size = 0
        for row, value in self._values():
            task.append((row, value))
            content = value and value["bytes"]
            size += len(content) if content else _BYTES_OF_A_FILE
            most = min(_MOST_OF_A_TASK, _DECODED_OF_A_TASK // math.prod(shape())) if shape() else 1
            if size >= _BYTES_OF_A_TASK or len(task) >= most:
                yield task
                task, size = [], 0
        if task:
            yield task

    def _values(self) -> Iterator[tuple[int, Any]]:
        columns = self.split.select_columns([self.column])
        whole = torch.equal(self.rows, torch.arange(len(self.split)))
        chosen = columns if whole else columns.select(self.rows.numpy())
        tables = chosen.with_format("arrow").iter(_ROWS)
        for rows, table in zip(self.rows.split(_ROWS), tables, strict=True):
            yield from zip(rows.tolist(), (value.as_py() for value in table[self.column]), strict=True)


def _threads() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return min(_MOST_THREADS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def _in_order(function: Callable[[_In], _Out], items: Iterable[_In]) -> Generator[_Out, None, None]:
    """What a function makes of each item, in order; threads are a few items ahead, no more."""
    threads = _threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="hf-rws-decode")  # Pillow decodes without the GIL
    ahead: deque[Future[_Out]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
