"""Weather: snow and fog (frost, which needs photographs, has a module of its own).

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_rws.corruptions import filters
from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws
from hf_rws.corruptions.randomness import RandomSource

_FOG_AMOUNT_DECAY = {
    CIFAR: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    TINY_IMAGENET: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    IMAGENET: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
}
# location and scale of the flakes' brightness, zoom, threshold, radius and sigma of the motion, share of the image
_SNOW = {
    CIFAR: (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    TINY_IMAGENET: (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    IMAGENET: (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
}
_GREY_WEIGHTS = (0.299, 0.587, 0.114)


def _draw_snow(source: RandomSource, shape: tuple[int, int, int], constants: tuple[float, ...]) -> Draws:
    """Standard normal flakes, and the direction in which they fall in degrees, between -135 and -45."""
    return source.normal(*shape[1:]), source.uniform() * 90 - 135


def _snow(images: Tensor, draws: Draws, constants: tuple[float, ...]) -> Tensor:
    location, scale, zoom, threshold, radius, sigma, share = constants
    normal, angles = draws
    flakes = filters.clipped_zoom((normal * scale + location).permute(1, 2, 0).contiguous(), zoom)
    flakes = torch.threshold_(flakes, threshold, 0).clamp_(max=1).mul_(255).floor_().permute(2, 0, 1)
    snow = filters.line_blur(flakes[:, None], angles, radius, sigma).floor_()
    whitened = torch.maximum(_grey(images).mul_(1.5).add_(127.5), images)
    return (images * filters.number(share)).add_(whitened, alpha=1 - share).add_(snow + snow.rot90(2, (2, 3)))


def _grey(images: Tensor) -> Tensor:
    """Luma, (N, 1, H, W) float32."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = _GREY_WEIGHTS
    return (images[:, :1] * filters.number(red)).add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)


def _draw_fog(source: RandomSource, shape: tuple[int, int, int], constants: tuple[float, float]) -> Draws:
    side = 1 << (max(shape[1:]) - 1).bit_length()
    return (source.uniform(side, side),)


def _fog(images: Tensor, draws: Draws, constants: tuple[float, float]) -> Tensor:
    amount, decay = constants
    height, width = images.shape[2:]
    fog = _diamond_square(draws[0], decay)[:, None, :height, :width]
    brightest = images.amax((1, 2, 3), keepdim=True).float()
    return (fog * (255 * amount) + images).mul_(brightest / (brightest + 255 * amount))


def _diamond_square(uniform: Tensor, decay: float) -> Tensor:
    """Cloud-like fractals by midpoint displacement on a torus.

    Args:
        uniform: (N, S, S) in [0, 1), S a power of two: the displacement of each point, as a share of the amplitude of
            the step that sets it.
        decay: By how much the amplitude's root falls at each step.

    Returns:
        (N, S, S) float32 heights, scaled to [0, 1] in each image.
    """
    moves = uniform * 2 - 1
    grid = torch.zeros_like(moves[:, :1, :1])
    root = 100.0
    while (points := grid.shape[1]) < moves.shape[1]:
        step, amplitude = moves.shape[1] // points, root * root
        half = step // 2
        down, across = _pair(grid, 1, -1), _pair(grid, 2, -1)
        centres = _displaced(moves[:, half::step, half::step], _pair(down, 2, -1), amplitude)
        beside = _displaced(moves[:, ::step, half::step], _pair(centres, 1, 1) + across, amplitude)
        below = _displaced(moves[:, half::step, ::step], _pair(centres, 2, 1) + down, amplitude)
        rows = torch.stack((grid, beside), 3), torch.stack((below, centres), 3)
        grid = torch.stack(rows, 2).view(-1, 2 * points, 2 * points)
        root /= decay
    low, high = grid.amin((1, 2), keepdim=True), grid.amax((1, 2), keepdim=True)
    return grid.sub_(low).div_(high - low)


def _pair(points: Tensor, dim: int, shift: int) -> Tensor:
    return points + torch.roll(points, shift, dim)


def _displaced(moves: Tensor, neighbours: Tensor, amplitude: float) -> Tensor:
    """The mean of four neighbours, moved."""
    return (moves * amplitude).add_(neighbours, alpha=0.25)


snow = Corruption("snow", _SNOW, _snow, _draw_snow)
fog = Corruption("fog", _FOG_AMOUNT_DECAY, _fog, _draw_fog)
