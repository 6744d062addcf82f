"""Images of a dataset -> uint8 pixels, decoded once into a file that is memory-mapped."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hf_rws._progress import bar
from hf_rws.corruptions.images import UNREADABLE
from hf_rws.data.preprocessing import Preprocessing
from hf_rws.errors import AccessError, FormatError, NotFoundError, OptionError, RWSError

if TYPE_CHECKING:
    import datasets

_ROWS = 100  # read at a time


def decoded_pixels(
    split: "datasets.Dataset",
    split_name: str,
    dataset: str,
    *,
    preprocessing: Preprocessing | None = None,
    image_column: str | None = None,
    cache_dir: str | Path | None = None,
) -> Tensor:
    """Decode the images of a split once: uint8 of shape (N, 3, H, W), memory-mapped. Errors as in `load_splits`."""
    import datasets

    image_column = find_image_column(split, image_column, dataset)
    key = f"{split._fingerprint}-{image_column}-{preprocessing!r}"
    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "hf_rws")
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
    if not path.is_file():
        _decode_to(path, split, image_column, preprocessing, f"{dataset} {split_name}".strip())
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
    if len(found) != 1:
        raise OptionError(
            f"dataset {dataset!r} has {len(found)} image columns among {', '.join(split.features)}; "
            "name one by image_column"
        )
    return found[0]


def existing_column(split: "datasets.Dataset", column: str, dataset: str) -> str:
    """The column; NotFoundError if the split does not have it."""
    if column not in split.features:
        raise NotFoundError(f"dataset {dataset!r} has no column {column!r}; it has: {', '.join(split.features)}")
    return column


def _decode_to(
    path: Path, split: "datasets.Dataset", column: str, preprocessing: Preprocessing | None, title: str
) -> None:
    temporary = path.with_suffix(f".{np.random.default_rng().integers(2**63)}.tmp.npy")
    try:
        with _kept_in(path.parent, title):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:  # not as mapped memory: there a full disk kills the process
                _write_pixels(file, split, column, preprocessing, title)
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _write_pixels(
    file: BinaryIO, split: "datasets.Dataset", column: str, preprocessing: Preprocessing | None, title: str
) -> None:
    """Write the images as an array in NumPy's format."""
    first: tuple[int, ...] = ()
    with bar(total=len(split), desc=f"decoding {title}", unit="img", leave=False, delay=2) as shown:
        for number, image in enumerate(_images(split, column, title)):
            array = as_array(image, preprocessing)
            if not number:
                first = array.shape
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(split), *first)}
                np.lib.format.write_array_header_1_0(file, header)
            if array.shape != first:
                raise FormatError(
                    f"{title}: image {number} is {array.shape[2]}x{array.shape[1]}, the first is "
                    f"{first[2]}x{first[1]}; give an image_size to bring them to one size"
                )
            file.write(array.tobytes())
            shown.update()
    if not first:
        raise FormatError(f"{title}: no images")


@contextmanager
def _kept_in(folder: Path, title: str) -> Iterator[None]:
    try:
        yield
    except RWSError:
        raise
    except OSError as error:
        raise AccessError(
            f"the decoded images of {title} cannot be kept in {folder}: {error.strerror}. Choose another place by "
            "cache_dir, or by the environment variable HF_DATASETS_CACHE"
        ) from error


def _images(split: "datasets.Dataset", column: str, title: str) -> Iterator[Image.Image]:
    """Decoded images, in order, whatever format the dataset has been given."""
    number = 0
    for table in split.select_columns([column]).with_format("arrow").iter(_ROWS):
        for value in table[column].to_pylist():
            yield decoded_image(value, split.features[column], f"{title}: image {number}")
            number += 1


def decoded_image(value: Any, feature: "datasets.Image", where: str) -> Image.Image:
    """An image as `datasets` stores it, decoded.

    Args:
        value: Its bytes, or a path.
        feature: What its column holds.
        where: What to call it in errors.

    Raises:
        FormatError: It is missing or cannot be decoded.
    """
    import datasets

    if value is None:
        raise FormatError(f"{where} is missing")
    if isinstance(value, dict) and value.get("path"):
        where = f"{where} ({Path(value['path']).name})"
    with readable(where):
        return datasets.Image(mode=feature.mode).decode_example(value)


@contextmanager
def readable(where: str) -> Iterator[None]:
    """FormatError, naming the image, for what Pillow raises of files that are broken, cut off or far too large."""
    try:
        yield
    except RWSError:
        raise
    except UNREADABLE as error:
        raise FormatError(f"{where} cannot be decoded: {error}") from error


def as_array(image: Image.Image, preprocessing: Preprocessing | None) -> np.ndarray:
    """An image as RGB, uint8 of shape (3, H, W)."""
    image = image.convert("RGB")
    if preprocessing is not None:
        image = preprocessing(image)
    return np.asarray(image).transpose(2, 0, 1)
