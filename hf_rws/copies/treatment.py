"""What happens to each image of a copy: read, corrupted, encoded."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hf_rws.corruptions import corrupt
from hf_rws.corruptions.images import MIN_SIDE
from hf_rws.corruptions.registry import find
from hf_rws.data.pictures import as_rgb, decoded_image, readable
from hf_rws.errors import FormatError, OptionError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_GREY = ("1", "L", "LA")
_DEEP = ("I", "F")  # how Pillow's modes of more than 8 bits begin, which are all grey


@dataclass(frozen=True)
class Treatment:
    """What happens to each image.

    Attributes:
        corruption: One of `CORRUPTIONS` or `BAR`.
        severity: 1 to 5.
        seed: Of the draws.
        parameters: Whose severity constants, as for `corrupt`.
        jpeg_quality: None saves PNG, lossless; a number saves JPEG (ImageNet-C: 85).
    """

    corruption: str
    severity: int
    seed: int
    parameters: str
    jpeg_quality: int | None

    def __post_init__(self) -> None:
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise OptionError(f"jpeg_quality must be from 1 to 100, got {self.jpeg_quality!r}")
        self.apply([Image.new("RGB", (MIN_SIDE, MIN_SIDE))], 0)  # what else is wrong, or missing, is said now

    def apply(self, images: Sequence[Image.Image], first: int) -> list[bytes]:
        """Corrupt images that are numbered from `first` on, and encode them."""
        if find(self.corruption).needs_colour:
            images = [image.convert("RGB") for image in images]
        encoded = []
        for _, pairs in groupby(enumerate(images, first), key=lambda pair: (pair[1].mode, pair[1].size)):
            run = list(pairs)
            pixels = np.stack([np.asarray(image) for _, image in run])
            pixels = pixels if pixels.ndim == 4 else pixels[..., None]
            corrupted = corrupt(
                pixels, self.corruption, self.severity, seed=self.seed, index=run[0][0], parameters=self.parameters
            )
            encoded += [self._encode(array.squeeze(-1) if array.shape[-1] == 1 else array) for array in corrupted]
        return encoded

    def _encode(self, pixels: np.ndarray) -> bytes:
        stream = io.BytesIO()
        if self.jpeg_quality is None:
            Image.fromarray(pixels).save(stream, "PNG")
        else:
            image = Image.fromarray(pixels)
            image.save(stream, "JPEG", qtables=_quantization(self.jpeg_quality, image.mode), optimize=True)
        return stream.getvalue()


@lru_cache(maxsize=8)
def _quantization(quality: int, mode: str) -> dict[int, list[int]]:
    """The tables of a quality. Given the quality itself, Pillow takes a buffer that is too small for noisy images."""
    stream = io.BytesIO()
    Image.new(mode, (8, 8)).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as image:
        return image.quantization


def read_images(table: "pa.Table", feature: "datasets.Image", column: str, first: int, title: str) -> list[Image.Image]:
    """The images of some rows, numbered from `first` on for error messages.

    Raises:
        FormatError: One is missing, broken, smaller than 32 pixels, or of numbers without a known range.
    """
    return [
        _image(value, feature, f"{title}: image {number}")
        for number, value in enumerate(table[column].to_pylist(), first)
    ]


def _image(value: Any, feature: "datasets.Image", where: str) -> Image.Image:
    """An image, RGB or L."""
    image = decoded_image(value, feature, where)
    if min(image.size) < MIN_SIDE:
        raise FormatError(
            f"{where} has {image.width}x{image.height} pixels; corruptions are defined from {MIN_SIDE} on each side: "
            "enlarge the images first"
        )
    if image.mode in _GREY:
        return image.convert("L")
    with readable(where):
        return as_rgb(image).convert("L") if image.mode.startswith(_DEEP) else as_rgb(image)
