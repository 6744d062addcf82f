"""Blur: defocus, glass, motion, zoom and Gaussian.

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hf_rws.corruptions import filters
from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws
from hf_rws.corruptions.randomness import RandomSource
from hf_rws.corruptions.rounds import until_stable

_DEFOCUS_RADIUS_ALIAS = {
    CIFAR: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    TINY_IMAGENET: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    IMAGENET: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
}
_GLASS_SIGMA_DELTA_ROUNDS = {
    CIFAR: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    TINY_IMAGENET: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    IMAGENET: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
}
_MOTION_RADIUS_SIGMA = {
    CIFAR: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    TINY_IMAGENET: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    IMAGENET: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
}
_ZOOM_STOP_STEP = {
    CIFAR: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    TINY_IMAGENET: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    IMAGENET: ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
}
_GAUSSIAN_SIGMA = {
    CIFAR: (0.4, 0.6, 0.7, 0.8, 1),
    TINY_IMAGENET: (0.5, 0.75, 1, 1.25, 1.5),
    IMAGENET: (1, 2, 3, 4, 6),
}


def _gaussian(images: Tensor, draws: Draws, sigma: float) -> Tensor:
    return filters.gaussian_blur(images, sigma)


def _defocus(images: Tensor, draws: Draws, constants: tuple[float, float]) -> Tensor:
    return filters.correlate(images, _defocus_kernel(*constants))


@lru_cache(maxsize=32)
def _defocus_kernel(radius: float, alias: float) -> np.ndarray:
    """The image of a point: a disk, its staircase edge softened by a Gaussian of `alias` standard deviation.

    Returns:
        float64 of odd side, without empty margins. It sums to 1, but for radii from 8 on to 1.01: the published code
        mirrors the disk at the border of the kernel when it softens it, and leaves it at that.
    """
    reach = max(8, int(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = x**2 + y**2 <= radius**2
    soft_reach = 1 if radius <= 8 else 2
    side = 2 * reach + 1
    source = filters.border_index(np.arange(side)[:, None] + np.arange(-soft_reach, soft_reach + 1), side, "mirror")
    soft = np.zeros((side, side))
    np.add.at(soft, (np.arange(side)[:, None], source), filters.gaussian_weights(alias, soft_reach))
    kernel = soft @ (disk / disk.sum()) @ soft.T
    used = np.abs(np.argwhere(kernel > filters.NEGLIGIBLE) - reach).max()
    return kernel[reach - used : reach + used + 1, reach - used : reach + used + 1]


def _draw_glass(source: RandomSource, shape: tuple[int, int, int], constants: tuple[float, int, int]) -> Draws:
    """The vertical and the horizontal step of each pixel in each round, as shares of the possible ones."""
    return (source.uniform(2, constants[2], *shape[1:]),)


def _glass(images: Tensor, draws: Draws, constants: tuple[float, int, int]) -> Tensor:
    sigma, delta, _ = constants
    count, channels = images.shape[:2]
    origin = _glass_origins(draws[0], delta)[:, None].expand(count, channels, -1)
    blurred = filters.gaussian_blur(images, sigma).clamp_(0, 255).floor_()
    shuffled = blurred.flatten(2).gather(2, origin).view(images.shape)
    return filters.gaussian_blur(shuffled, sigma)


def _glass_origins(uniform: Tensor, delta: int) -> Tensor:
    """Which pixel each pixel of a glass blur comes from.

    Each round visits the pixels from the last to the first (not those nearer than `delta` to an edge) and copies to
    each a neighbour as it is at that moment: its new value if this round has visited it, its old one otherwise.

    Args:
        uniform: (N, 2, rounds, H, W) in [0, 1): a vertical and a horizontal step from -delta to delta - 1, as shares.
        delta: The farthest step.

    Returns:
        (N, H * W) int64, positions in the flattened image.
    """
    rounds, height, width = uniform.shape[2:]
    places = torch.arange(height * width, device=uniform.device)
    y, x = places // width, places % width
    visited = (y > delta) & (y <= height - delta) & (x > delta) & (x <= width - delta)
    steps = uniform.flatten(3).mul(2 * delta).floor_().sub_(delta).mul_(visited)
    neighbours = (steps[:, 0] * width).add_(steps[:, 1]).long().add_(places)
    origins = _resolve(neighbours[:, 0], places, visited, delta)
    for i in range(1, rounds):
        origins = origins.gather(1, _resolve(neighbours[:, i], places, visited, delta))
    return origins


def _resolve(neighbours: Tensor, places: Tensor, visited: Tensor, delta: int) -> Tensor:
    """Follow copies of copies within one round."""
    if delta == 1:  # steps lead to earlier pixels only, which are visited later
        return neighbours
    renewed = (neighbours > places) & visited[neighbours]
    final = torch.where(renewed, places, neighbours)  # an old value is reached: stop there
    pointers = torch.where(renewed, neighbours, places)  # otherwise go on from the neighbour's new value
    rounds = math.ceil(math.log2(places.numel()))
    pointers = until_stable(lambda p: p.gather(1, p), pointers, rounds)
    return final.gather(1, pointers)


def _draw_angle(source: RandomSource, shape: tuple[int, int, int], constants: tuple[float, float]) -> Draws:
    """Degrees, between -45 and 45."""
    return (source.uniform() * 90 - 45,)


def _motion(images: Tensor, draws: Draws, constants: tuple[float, float]) -> Tensor:
    return filters.line_blur(images, draws[0], *constants)


def _zoom(images: Tensor, draws: Draws, constants: tuple[float, float]) -> Tensor:
    """The mean of the image and of zooms into it."""
    count, channels, height, width = images.shape
    planes = images.float().permute(2, 3, 0, 1).reshape(height, width, -1).contiguous()
    factors = np.arange(1, *constants).tolist()
    total = 2 * planes  # the image itself, and factor 1
    scratch = planes.new_empty(3, *planes.shape)
    for factor in factors[1:]:
        total += filters.clipped_zoom(planes, factor, scratch)
    total *= filters.GAIN / (len(factors) + 1)
    return total.view(height, width, count, channels).permute(2, 3, 0, 1)


gaussian_blur = Corruption("gaussian_blur", _GAUSSIAN_SIGMA, _gaussian)
defocus_blur = Corruption("defocus_blur", _DEFOCUS_RADIUS_ALIAS, _defocus)
glass_blur = Corruption("glass_blur", _GLASS_SIGMA_DELTA_ROUNDS, _glass, _draw_glass)
motion_blur = Corruption("motion_blur", _MOTION_RADIUS_SIGMA, _motion, _draw_angle)
zoom_blur = Corruption("zoom_blur", _ZOOM_STOP_STEP, _zoom)
