"""What moves or merges pixels: elastic transform and pixelate.

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws
from hf_rws.corruptions.filters import GAIN, gaussian_blur, on_device
from hf_rws.corruptions.images import interleaved, suit_pillow
from hf_rws.corruptions.randomness import RandomSource

# alpha, sigma and the farthest affine step, in pixels over the set's unit (244 is what the published code has)
_ELASTIC_UNIT = {CIFAR: 32, TINY_IMAGENET: 64, IMAGENET: 244}
_ELASTIC_ALPHA_SIGMA_AFFINE = {
    CIFAR: ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    TINY_IMAGENET: ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    IMAGENET: ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
}
_PIXELATE_FACTOR = {
    CIFAR: (0.95, 0.9, 0.85, 0.75, 0.65),
    TINY_IMAGENET: (0.9, 0.8, 0.7, 0.6, 0.5),
    IMAGENET: (0.6, 0.5, 0.4, 0.3, 0.25),
}

_TALLEST = 1.5  # images for which all versions of Pillow begin with the rows, in heights by widths


def _pixelate(images: Tensor, draws: Draws, factor: float) -> Tensor:
    """Shrink by means over whole pixels, rounded after each direction, and enlarge by repeating: Pillow's box filter.

    Rows first, as Pillow used to; version 13 begins with the columns of images over twice as high as wide, which makes
    a difference of one grey level here and there.
    """
    height, width = images.shape[2:]
    down, across = int(height * factor), int(width * factor)
    y, x = _nearest(down, height), _nearest(across, width)
    if suit_pillow(images) and height <= _TALLEST * width:
        pixels = _box_with_pillow(images, down, across).take(x, 2).take(y, 1)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)
    narrow = _box_means(images.transpose(2, 3).contiguous().float(), across)
    small = _box_means(narrow.transpose(2, 3).contiguous(), down).to(torch.uint8)
    return small.index_select(3, on_device(x, images.device)).index_select(2, on_device(y, images.device))


def _box_with_pillow(images: Tensor, down: int, across: int) -> np.ndarray:
    """Shrink (N, C, H, W) uint8 images, on the CPU, to (N, down, across, C)."""
    pixels = interleaved(images)
    result = np.empty((len(pixels), down, across, pixels.shape[3]), np.uint8)
    for image, place in zip(pixels, result, strict=True):
        small = Image.fromarray(image.squeeze()).resize((across, down), Image.Resampling.BOX)
        place[...] = np.asarray(small).reshape(place.shape)
    return result


def _box_means(planes: Tensor, reduced: int) -> Tensor:
    """Shrink (N, C, H, W) to (N, C, reduced, W): in this direction whole rows move at once."""
    rows, weights = (on_device(a, planes.device) for a in _box_taps(planes.shape[2], reduced))
    total = torch.zeros_like(planes[:, :, :reduced])
    for row, weight in zip(rows, weights, strict=True):
        total.addcmul_(planes.index_select(2, row), weight[:, None])
    return total.add_(0.5 + 1e-3).floor_()  # means of a few integers are either halves, rounded up, or far from them


def _nearest(size: int, enlarged: int) -> np.ndarray:
    """(enlarged,) int64: which of `size` pixels each is _nearest to, ties rounded as Pillow's doubles have it."""
    return ((np.arange(enlarged) + 0.5) * (size / enlarged)).astype(np.int64)


@lru_cache(maxsize=32)
def _box_taps(size: int, reduced: int) -> tuple[np.ndarray, np.ndarray]:
    """Each output is the mean of the pixels whose centres lie in its window.

    Returns:
        (taps, reduced) int64, the pixels of each window, and (taps, reduced) float32, their weights.
    """
    scale = size / reduced
    centres = (np.arange(reduced)[:, None] + 0.5) * scale
    pixels = np.arange(size)
    distances = (pixels - centres + 0.5) * (1 / scale)
    inside = (distances > -0.5) & (distances <= 0.5)
    # Centres on the border of a window: the rounding of Pillow's doubles decides, in its order of operations.
    first, last = (centres - 0.5 * scale + 0.5).astype(int), (centres + 0.5 * scale + 0.5).astype(int)
    inside &= (pixels >= first) & (pixels < last)
    start, count = inside.argmax(1), inside.sum(1)
    taps = np.arange(count.max())[:, None]
    return (start + taps).clip(max=size - 1), ((taps < count) / count).astype(np.float32)


def _draw_elastic(source: RandomSource, shape: tuple[int, int, int], constants: tuple[float, float, float]) -> Draws:
    """Displacements from -1 to 1: (x, y) of three points, and (x, y) of every pixel."""
    return source.uniform(3, 2) * 2 - 1, source.uniform(2, *shape[1:]) * 2 - 1


def _elastic(images: Tensor, draws: Draws, constants: tuple[float, float, float]) -> Tensor:
    alpha, sigma, affine = constants
    height, width = images.shape[2:]
    size = on_device(np.array((width, height)), images.device)
    positions = _affine_positions(draws[0] * affine, width, height)
    levels = images.float()
    levels = functional.grid_sample(
        levels, positions * 2 / (size - 1) - 1, padding_mode="reflection", align_corners=True
    )
    if alpha:
        steps = gaussian_blur(draws[1], sigma, border="reflect", truncate=3) * alpha
        positions = steps.permute(0, 2, 3, 1) + _pixels(width, height, images.device)
        grid = (positions * 2 + 1) / size - 1
        levels = functional.grid_sample(levels, grid, padding_mode="reflection", align_corners=False)
    return levels.mul_(GAIN)


def _pixels(width: int, height: int, device: torch.device) -> Tensor:
    """(H, W, 2): x and y of every pixel."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack((x, y), 2)


def _affine_positions(moves: Tensor, width: int, height: int) -> Tensor:
    """Where each pixel comes from when three points move.

    Args:
        moves: (N, 3, 2), (x, y) in pixels, of the points c + (q, q), c + (q, -q) and c - (q, q), where c is the centre
            and q a third of the shorter side.
        width: Of the image.
        height: Of the image.

    Returns:
        (N, H, W, 2) float32, (x, y).
    """
    reach = min(width, height) // 3
    corner, right, down = on_device(
        np.array(((width // 2 - reach, height // 2 - reach), (2 * reach, 0), (0, 2 * reach))), moves.device
    )
    # A pixel at corner + 2q (s, t) goes to origin + s along + t across: solve for (s, t).
    origin = (corner + moves[:, 2])[:, None, None]
    along = right + moves[:, 1] - moves[:, 2]
    across = down + moves[:, 0] - moves[:, 1]
    inverse = (
        torch.stack((torch.stack((across[:, 1], -along[:, 1]), 1), torch.stack((-across[:, 0], along[:, 0]), 1)), 1)
        * (2 * reach / (along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0]))[:, None, None]
    )
    offsets = _pixels(width, height, moves.device) - origin
    x, y = offsets[..., 0], offsets[..., 1]
    a = inverse[:, :, :, None, None]
    return torch.stack((x * a[:, 0, 0] + y * a[:, 1, 0], x * a[:, 0, 1] + y * a[:, 1, 1]), 3) + corner


elastic_transform = Corruption(
    "elastic_transform",
    {
        name: tuple(tuple(value * _ELASTIC_UNIT[name] for value in row) for row in rows)
        for name, rows in _ELASTIC_ALPHA_SIGMA_AFFINE.items()
    },
    _elastic,
    _draw_elastic,
)
pixelate = Corruption("pixelate", _PIXELATE_FACTOR, _pixelate, any_layout=True)
