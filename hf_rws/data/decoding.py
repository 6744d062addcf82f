"""Images of a dataset -> uint8 pixels, decoded once into a file that is memory-mapped."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from hf_rws.errors import FormatError, NotFoundError, OptionError

if TYPE_CHECKING:
    import datasets


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
