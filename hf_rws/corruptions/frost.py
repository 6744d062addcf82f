"""Frost: photographs of frosted glass over the image.

The photographs are not ours to ship. They are read from the package `torch-uncertainty-assets` (the extra
`hf-rws[frost]`), or from the folder that the environment variable `HF_RWS_FROST` names: the first five pictures in the
order of their names.

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py.
"""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from hf_rws.corruptions._caching import keep_within
from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws
from hf_rws.corruptions.images import UNREADABLE
from hf_rws.corruptions.randomness import RandomSource
from hf_rws.errors import FormatError, MissingExtraError, NotFoundError

FOLDER_VARIABLE = "HF_RWS_FROST"
_ASSET_PACKAGE = "torch_uncertainty_assets"
_MOST_PICTURES = 5
_KEPT_BYTES = 2**27
_PICTURE_ENDINGS = (".jpg", ".jpeg", ".png")


class _Frost(NamedTuple):
    """Weights of the image and of the frost, and by what the pictures are resized."""

    image: float
    frost: float
    resize: float


_FROST = {
    CIFAR: tuple(_Frost(w, f, 0.2) for w, f in ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    TINY_IMAGENET: tuple(_Frost(w, f, 0.3) for w, f in ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55))),
    IMAGENET: tuple(_Frost(w, f, 1) for w, f in ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
}


class _Album(NamedTuple):
    """Pictures of different sizes in one tensor.

    Attributes:
        pixels: (3, all pixels) uint8.
        starts: (pictures,) int64, where each begins.
        heights: (pictures,) int64.
        widths: (pictures,) int64.
    """

    pixels: Tensor
    starts: Tensor
    heights: Tensor
    widths: Tensor


def picture_paths() -> tuple[Path, ...]:
    """The pictures in use. A folder is looked into once.

    Raises:
        MissingExtraError: Neither the folder variable is set nor the asset package installed.
        NotFoundError: The folder does not exist or holds no pictures.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    return _pictures_in(_asset_folder(_ASSET_PACKAGE) if folder is None else folder)


@lru_cache(maxsize=1)
def _asset_folder(package: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "frost needs photographs of frost, which are not part of this library: pip install 'hf-rws[frost]', "
            f"or set {FOLDER_VARIABLE} to a folder of your own pictures."
        )
    return str(Path(spec.submodule_search_locations[0], "frost"))


@lru_cache(maxsize=8)
def _pictures_in(folder: str) -> tuple[Path, ...]:
    paths = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in _PICTURE_ENDINGS)
    if not paths:
        raise NotFoundError(f"No pictures for frost in {folder} ({', '.join(_PICTURE_ENDINGS)}).")
    return tuple(paths[:_MOST_PICTURES])


def has_pictures() -> bool:
    """Whether frost can be used here."""
    try:
        return bool(picture_paths())
    except (MissingExtraError, NotFoundError):
        return False


@lru_cache(maxsize=8)
def _sizes(paths: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    """Height and width of each picture."""
    return tuple(_read(path).shape[:2] for path in paths)


@keep_within(_KEPT_BYTES)
def _album(paths: tuple[Path, ...], factors: tuple[float, ...], device: torch.device) -> _Album:
    """Pictures, each resized by its factor."""
    pictures = []
    for path, factor in zip(paths, factors, strict=True):
        picture = torch.from_numpy(_read(path)).permute(2, 0, 1)[None].float()
        if factor != 1:
            picture = functional.interpolate(
                picture, scale_factor=factor, mode="bilinear", align_corners=False
            ).round_()
        pictures.append(picture[0].to(torch.uint8))
    sizes = torch.tensor([picture.shape[1:] for picture in pictures])
    ends = sizes.prod(1).cumsum(0)
    pixels = torch.cat([picture.flatten(1) for picture in pictures], 1)
    return _Album(*(t.to(device) for t in (pixels, ends - sizes.prod(1), sizes[:, 0], sizes[:, 1])))


def _read(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except UNREADABLE as error:
        raise FormatError(f"{path} is not a picture that can be read: {error}") from error


def _draw_frost(source: RandomSource, shape: tuple[int, int, int], constants: _Frost) -> Draws:
    """Which picture, and how far down and right in it, as shares."""
    return (source.uniform(3),)


def _frost(images: Tensor, draws: Draws, constants: _Frost) -> Tensor:
    height, width = images.shape[2:]
    paths = picture_paths()
    factors = tuple(max(constants.resize, (height + 1) / h, (width + 1) / w) for h, w in _sizes(paths))
    album = _album(paths, factors, images.device)
    picture, top, left = draws[0].unbind(1)
    picture = (picture * len(album.starts)).long()
    strides = album.widths[picture]
    first = album.starts[picture] + (top * (album.heights[picture] - height)).long() * strides
    first += (left * (strides - width)).long()
    rows = torch.arange(height, device=images.device) * strides[:, None] + first[:, None]
    count = album.pixels.shape[1]
    pieces = album.pixels.as_strided((count - width + 1, 3, width), (1, count, 1))  # what begins at each pixel
    cut = pieces.index_select(0, rows.flatten()).view(-1, height, 3, width).transpose(1, 2).float()
    return images.float().mul_(constants.image).add_(cut, alpha=constants.frost)


frost = Corruption("frost", _FROST, _frost, _draw_frost, needs_colour=True)
