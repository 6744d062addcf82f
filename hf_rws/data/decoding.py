"""Images of a dataset -> uint8 pixels, decoded once into a file that is memory-mapped."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from hf_rws._files import is_file, read_json, write_whole
from hf_rws._progress import bar
from hf_rws._text import one_line
from hf_rws.data.pictures import decoded_array
from hf_rws.data.preprocessing import Preprocessing
from hf_rws.errors import AccessError, FormatError, NotFoundError, OptionError, RWSError, warn

if TYPE_CHECKING:
    import datasets

_ROWS = 100  # read at a time
_LARGEST_LIST = 2**28  # bytes
_LONGEST_REASON = 300  # characters
_LISTED = 20  # images that are left out, by name


@dataclass(frozen=True)
class Decoded:
    """Images of some rows of a split.

    Attributes:
        pixels: uint8 tensor of shape (N, 3, H, W), memory-mapped.
        rows: Numbers of their rows in the split, ascending, int64 of shape (N,).
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
) -> Decoded:
    """Decode images of a split once, and no others.

    Args:
        split: The split.
        split_name: What to call it in errors.
        dataset: Likewise.
        rows: Numbers of the rows that are wanted, ascending; None is all.
        preprocessing: How images come to one size.
        image_column: The column, where there are several.
        skip_broken: Leave out what cannot be decoded, with a warning that lists it.
        cache_dir: Where the file is kept.

    Raises:
        RWSError: As in `load_splits`.
    """
    import datasets

    image_column = find_image_column(split, image_column, dataset)
    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "hf_rws")

    def kept_in(rows: Tensor | None, *, skip_broken: bool) -> Path:
        chosen = "" if rows is None else hashlib.sha256(rows.numpy().tobytes()).hexdigest()
        key = f"{split._fingerprint}-{image_column}-{preprocessing!r}-{chosen}-{skip_broken}"
        return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"

    if rows is None or len(rows) == len(split):
        rows = None
    everything = torch.arange(len(split)) if rows is None else rows
    whole = kept_in(None, skip_broken=False)
    if whole.is_file():
        pixels = _mapped(whole)
        return Decoded(pixels if rows is None else pixels[rows], everything)
    path = kept_in(rows, skip_broken=skip_broken)
    if not path.is_file():
        title = f"{dataset} {split_name}".strip()
        _decode_to(path, _Source(split, image_column, everything, title, preprocessing, skip_broken))
    broken = _read_broken(path) if skip_broken else {}
    if broken:
        listed = "; ".join(list(broken.values())[:_LISTED]) + ("; ..." if len(broken) > _LISTED else "")
        warn(f"{len(broken)} of {len(everything):,} images are left out: {listed}")
        everything = everything[~torch.isin(everything, torch.tensor(list(broken)))]
    return Decoded(_mapped(path), everything)


def _mapped(path: Path) -> Tensor:
    try:  # copy-on-write: torch wants writable memory, and nothing must reach the file
        return torch.from_numpy(np.load(path, mmap_mode="c"))
    except OSError as error:
        raise AccessError(f"the decoded images in {path} cannot be read: {error}") from error
    except (ValueError, EOFError) as error:
        raise FormatError(f"the decoded images in {path} are damaged ({error}): delete that file") from error


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


# --- the file ---


@dataclass(frozen=True)
class _Source:
    """What is decoded into one file."""

    split: "datasets.Dataset"
    column: str
    rows: Tensor
    title: str
    preprocessing: Preprocessing | None
    skip_broken: bool

    def arrays(self, broken: dict[int, str]) -> Iterator[np.ndarray]:
        """The images in order, (3, H, W), whatever format the dataset has been given; or why they are left out."""
        feature = self.split.features[self.column]
        for row, value in zip(self.rows.tolist(), self._values(), strict=True):
            try:
                array = decoded_array(value, feature, f"{self.title}: image {row}", self.preprocessing)
            except FormatError as error:
                if not self.skip_broken:
                    raise FormatError(f"{error.args[0]}; leave such images out by skip_broken=True") from error
                broken[row] = one_line(error, limit=_LONGEST_REASON)
            else:
                yield array

    def _values(self) -> Iterator[object]:
        columns = self.split.select_columns([self.column])
        chosen = columns if len(self.rows) == len(self.split) else columns.select(self.rows.tolist())
        for table in chosen.with_format("arrow").iter(_ROWS):
            yield from table[self.column].to_pylist()


def _decode_to(path: Path, source: _Source) -> None:
    number = np.random.default_rng().integers(2**63)
    temporary = path.with_suffix(f".{number}.tmp.npy")
    try:
        with _kept_in(path.parent, source.title):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:  # not as mapped memory: there a full disk kills the process
                broken = _write_pixels(file, source)
            if broken:
                write_whole(_list_beside(path), json.dumps(broken))
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _write_pixels(file: BinaryIO, source: _Source) -> dict[int, str]:
    """Write the images as an array in NumPy's format; gives the rows that are left out, and why."""
    broken: dict[int, str] = {}
    shape: tuple[int, ...] = ()
    count = 0
    with bar(total=len(source.rows), desc=f"decoding {source.title}", unit="img", leave=False, delay=2) as shown:
        for array in source.arrays(broken):
            if not count:
                shape = array.shape
                _write_header(file, len(source.rows), shape)
            if array.shape != shape:
                row, sizes = int(source.rows[count + len(broken)]), [f"{w}x{h}" for _, h, w in (array.shape, shape)]
                raise FormatError(
                    f"{source.title}: image {row} is {sizes[0]}, the first is {sizes[1]}; give an image_size to bring "
                    "them to one size"
                )
            file.write(array.tobytes())
            count += 1
            shown.update()
    if not count:
        raise FormatError(f"{source.title}: no images" + "".join(f"; {why}" for why in list(broken.values())[:1]))
    if broken:
        file.seek(0)
        _write_header(file, count, shape)
    return broken


def _write_header(file: BinaryIO, count: int, shape: tuple[int, ...]) -> None:
    """NumPy's header; its length does not depend on `count`."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)})


def _list_beside(path: Path) -> Path:
    return path.with_suffix(".broken.json")


def _read_broken(path: Path) -> dict[int, str]:
    """The rows that are not in a file of decoded images, and why."""
    beside = _list_beside(path)
    if not is_file(beside):
        return {}
    return {int(row): str(why) for row, why in read_json(beside, str(beside), limit=_LARGEST_LIST).items()}


@contextmanager
def _kept_in(folder: Path, title: str) -> Iterator[None]:
    try:
        yield
    except RWSError:
        raise
    except OSError as error:
        raise AccessError(
            f"the decoded images of {title} cannot be kept in {folder}: {error.strerror}. The environment "
            "variable HF_DATASETS_CACHE names another place"
        ) from error
