"""One picture, whatever it is stored as: opened, upright, RGB of 8 bits a channel, and named where that cannot be done.

What is done to it, in this order: it is turned as its EXIF data say; 16 bits are scaled to 8; palettes, grey, CMYK and
the like become RGB, as Pillow computes it; transparency is dropped. Of several frames the first is taken. Numbers
without a known range (32 bits, floating point) are refused.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from hf_rws.corruptions.images import UNREADABLE
from hf_rws.data.preprocessing import Preprocessing
from hf_rws.errors import FormatError, RWSError

if TYPE_CHECKING:
    import datasets

IMAGE_ENDINGS = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")  # where Pillow may call 16 bits "I"
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def open_picture(source: "str | Path | bytes", where: str) -> Image.Image:
    """A picture from a file or its content, decoded; FormatError that begins with `where` if that cannot be done."""
    with readable(where), Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        image.load()
        return _upright(image)


def decoded_image(value: Any, feature: "datasets.Image", where: str) -> Image.Image:
    """An image as `datasets` stores it, decoded.

    Args:
        value: Its bytes, or a path.
        feature: What its column holds.
        where: What to call it in errors; if it is a file, it is called by its path instead.

    Raises:
        FormatError: It is missing or cannot be decoded.
    """
    return _decoded(value, feature, _with_file(where, value))


def decoded_array(value: Any, feature: "datasets.Image", where: str, preprocessing: Preprocessing | None) -> np.ndarray:
    """An image as `datasets` stores it, as `as_array` gives it; arguments and errors as for `decoded_image`."""
    where = _with_file(where, value)
    with readable(where):
        return as_array(_decoded(value, feature, where), preprocessing)


def _with_file(where: str, value: Any) -> str:
    path = value and value.get("path")
    if not path:
        return where
    return path if value["bytes"] is None else f"{where} ({Path(path).name})"


def _decoded(value: Any, feature: "datasets.Image", where: str) -> Image.Image:
    import datasets

    if value is None:
        raise FormatError(f"{where} is missing")
    content, path = value["bytes"], value.get("path")
    if content is None and (path is None or "://" in path):  # of a stream
        with readable(where):
            return datasets.Image(mode=feature.mode).decode_example(value)
    image = open_picture(path if content is None else content, where)
    if feature.mode is None or feature.mode == image.mode:
        return image
    with readable(where):
        return _eight_bits(image).convert(feature.mode)


@contextmanager
def readable(where: str) -> Iterator[None]:
    """FormatError, naming the image, for what Pillow raises of files that are broken, cut off or far too large."""
    try:
        yield
    except RWSError:
        raise
    except UNREADABLE as error:
        unknown = isinstance(error, UnidentifiedImageError)
        why = "it is no image of a kind that is known" if unknown else error  # which would name a place in memory
        raise FormatError(f"{where} cannot be decoded: {why}") from error


def as_array(image: Image.Image, preprocessing: Preprocessing | None) -> np.ndarray:
    """An image as RGB, uint8 of shape (3, H, W); ValueError if its values have no known range (see `readable`)."""
    image = _upright(image)
    image = image if image.mode == "RGB" else as_rgb(image)  # which would be a copy
    if preprocessing is not None:
        image = preprocessing(image)
    return np.asarray(image).transpose(2, 0, 1)


def as_rgb(image: Image.Image) -> Image.Image:
    """An image as RGB of 8 bits a channel, without its transparency; ValueError if its values have no known range."""
    image = _eight_bits(image)
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # without which Pillow warns
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8; Pillow itself would cut off what is above 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BIT_FORMATS):
        raise ValueError(
            f"its numbers (Pillow's mode {image.mode}) may mean anything: save it with 8 or 16 bits a channel"
        )
    values = np.asarray(image).astype(np.int32)  # of either byte order
    return Image.fromarray(((values + 128) // 257).clip(0, 255).astype(np.uint8))


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except UNREADABLE:  # broken EXIF data, of a picture that may be whole
        return image
    if not turned:
        return image
    upright = ImageOps.exif_transpose(image)
    upright.format = image.format
    return upright
