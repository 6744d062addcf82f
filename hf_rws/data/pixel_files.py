"""Pixels of many images in a file: written as they come, then mapped into memory, so that they take none of it.

A file that is kept holds two arrays in NumPy's format, one after the other: the images, uint8 of shape (N, 3, H, W),
and the numbers of the rows that they are of, int64 of shape (N,); the second is left out where these are 0 to N - 1.
"""

import math
import mmap
import os
import platform
import shutil
import sys
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hf_rws._files import writing
from hf_rws.errors import AccessError, FormatError, OptionError

_MOST_IN_MEMORY = 2**28  # bytes of images that come one after the other: fewer are worth no file
_ELSEWHERE = "The environment variable HF_DATASETS_CACHE names another place"
Block: TypeAlias = tuple[Sequence[int], np.ndarray]  # row numbers, and their images: uint8 of shape (n, 3, H, W)

# Python knows the flag from 3.13 on; this is its number on these machines.
_NUMBERED = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if _NUMBERED else 0)


def pixel_folder(cache_dir: str | Path | None = None) -> Path:
    """Where decoded images are kept: by default beside the other caches of `datasets`."""
    import datasets

    return Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "hf_rws")


def write_pixels(path: Path, blocks: Iterable[Block], most: int, title: str) -> None:
    """Write a file of images: all of it, or nothing.

    Args:
        path: The file.
        blocks: The images in their order, at least one block.
        most: How many images there will be at the most.
        title: What they are called in errors.

    Raises:
        AccessError: The file cannot be written; or the disk has no room for so many, before any but the first block.
        RWSError: Those of `blocks`.
    """
    number = np.random.default_rng().integers(2**63)
    temporary = path.with_suffix(f".{number}.tmp")
    try:
        with _keeping(path.parent, title):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:  # not as mapped memory: there a full disk kills the process
                _write(file, blocks, most, path.parent, title)
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _write(file: BinaryIO, blocks: Iterable[Block], most: int, folder: Path, title: str) -> None:
    written = array("q")
    shape: tuple[int, ...] = ()
    for rows, pixels in blocks:
        if not shape:
            shape = pixels.shape[1:]
            _check_room(folder, most * math.prod(shape), title)
            _write_header(file, 0, shape)
        file.write(np.ascontiguousarray(pixels).data)
        written.extend(rows)
    numbers = np.frombuffer(written, np.int64)
    if not np.array_equal(numbers, np.arange(len(numbers))):
        np.save(file, numbers)
    file.seek(0)
    _write_header(file, len(numbers), shape)


def _write_header(file: BinaryIO, count: int, shape: tuple[int, ...]) -> None:
    """NumPy's header; its length does not depend on `count`."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)})


def _check_room(folder: Path, size: int, title: str) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise AccessError(
            f"the decoded images of {title} need {size / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB left. "
            + _ELSEWHERE
        )


def read_pixels(path: Path) -> tuple[Tensor, Tensor]:
    """The images in a file, memory-mapped, and the numbers of their rows.

    Raises:
        AccessError: The file cannot be read.
        FormatError: It is damaged.
    """
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, turned, dtype = np.lib.format.read_array_header_1_0(file)
            if turned or dtype != np.uint8 or len(shape) != 4:
                raise ValueError(f"{dtype} of shape {shape}")
            pixels = _mapped(file, shape, file.tell())
            end = file.seek(pixels.nbytes, os.SEEK_CUR)
            more = os.fstat(file.fileno()).st_size > end
            return pixels, torch.from_numpy(np.load(file)) if more else torch.arange(len(pixels))
    except OSError as error:
        raise AccessError(f"the decoded images in {path} cannot be read: {error}") from error
    except (ValueError, EOFError) as error:
        raise FormatError(f"the decoded images in {path} are damaged ({error}): delete that file") from error


def spooled(batches: Iterable[Tensor], title: str, *, limit: int | None = None, seed: int = 0) -> Tensor:
    """Images that come in batches as one tensor: of many, a memory-mapped file without a name, which ends with it.

    Args:
        batches: uint8 tensors of shape (n, C, H, W).
        title: What they are called in errors.
        limit: At most so many, drawn at random as they come (reservoir sampling); no others are kept.
        seed: Of that draw.

    Returns:
        The images in the order in which they came.

    Raises:
        AccessError: They cannot be kept on the disk.
        OptionError: There are none, or their sizes differ.
        RWSError: Those of `batches`.
    """
    folder, shape, count = pixel_folder(), None, 0
    chosen = array("q")  # by place: which of the images it holds
    generator = torch.Generator().manual_seed(seed)
    with _keeping(folder, title), closing(_Spool(folder)) as spool:
        for batch in batches:
            shape = shape or batch.shape[1:]
            if batch.shape[1:] != shape:
                raise OptionError(f"{title}: their sizes differ")
            for image in batch.cpu().numpy():
                full = limit is not None and count >= limit
                place = int(torch.randint(count + 1, (), generator=generator)) if full else count
                count += 1
                if limit is not None and place >= limit:
                    continue
                chosen[place : place + 1] = array("q", [count])
                spool.put(place, image)
        if not chosen:
            raise OptionError(f"{title}: there are none")
        return spool.images(np.argsort(chosen))


class _Spool:
    """Images of one shape, each in a place: in memory while they are few, then in a file without a name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[np.ndarray] = []
        self._file: Any = None

    def put(self, place: int, image: np.ndarray) -> None:
        """Keep an image in the next place, or instead of the one in an earlier place."""
        if self._file is not None:
            self._write(place, image)
            return
        self._held[place : place + 1] = [image.copy()]
        if len(self._held) * image.nbytes > _MOST_IN_MEMORY:
            self._file = self._new_file()
            for number, one in enumerate(self._held):
                self._write(number, one)
            self._held.clear()

    def images(self, order: np.ndarray) -> Tensor:
        """The images, those in the places of `order` one after the other."""
        if self._file is None:
            return torch.from_numpy(np.stack([self._held[place] for place in order]))
        self._file.flush()
        mapped = _mapped(self._file, (len(order), *self._shape), 0)
        if np.array_equal(order, np.arange(len(order))):
            return mapped
        with self._new_file() as file:
            for place in order:
                file.write(mapped[place].numpy().data)
            file.flush()
            return _mapped(file, mapped.shape, 0)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _new_file(self) -> Any:
        self._folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._folder)

    def _write(self, place: int, image: np.ndarray) -> None:
        self._shape = image.shape
        self._file.seek(place * image.nbytes)
        self._file.write(np.ascontiguousarray(image).data)


def _keeping(folder: Path, title: str) -> AbstractContextManager[None]:
    return writing(f"keep the decoded images of {title} in {folder}", _ELSEWHERE)


def _mapped(file: Any, shape: tuple[int, ...], offset: int) -> Tensor:
    """Copy-on-write: torch wants writable memory, and nothing must reach the file.

    No memory is set aside for such copies: the system would refuse to map what is larger than the machine's memory.
    Windows knows no such choice: it charges the whole of a mapping to the page file, and refuses what that cannot hold.
    """
    if os.name == "posix":
        flags = mmap.MAP_PRIVATE | _NO_RESERVE
        content = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    else:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.from_numpy(np.frombuffer(content, np.uint8, math.prod(shape), offset).reshape(shape))
