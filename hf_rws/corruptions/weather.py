"""Weather: fog.

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws
from hf_rws.corruptions.randomness import Source

FOG_AMOUNT_DECAY = {
    CIFAR: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    TINY_IMAGENET: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    IMAGENET: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
}


def _draw_fog(source: Source, shape: tuple[int, int, int], constants: tuple[float, float]) -> Draws:
    side = 1 << (max(shape[1:]) - 1).bit_length()
    return (source.uniform(side, side),)


def _fog(images: Tensor, draws: Draws, constants: tuple[float, float]) -> Tensor:
    amount, decay = constants
    height, width = images.shape[2:]
    fog = diamond_square(draws[0], decay)[:, None, :height, :width]
    brightest = images.amax((1, 2, 3), keepdim=True).float()
    return (fog * (255 * amount) + images).mul_(brightest / (brightest + 255 * amount))


def diamond_square(uniform: Tensor, decay: float) -> Tensor:
    """Cloud-like fractals by midpoint displacement on a torus.

    Args:
        uniform: (N, S, S) in [0, 1), S a power of two: the displacement of each point, as a share of the amplitude of
            the step that sets it.
        decay: By how much the amplitude's root falls at each step.

    Returns:
        (N, S, S) float32 heights, scaled to [0, 1] in each image.
    """
    side = uniform.shape[-1]
    heights = uniform * 2 - 1
    heights[:, 0, 0] = 0
    step, root = side, 100.0
    while step >= 2:
        half, amplitude = step // 2, root * root
        corners = heights[:, ::step, ::step]
        centres = _displace(heights[:, half::step, half::step], _pair(_pair(corners, 1, -1), 2, -1), amplitude)
        rows = _pair(centres, 1, 1) + _pair(corners, 2, -1)
        columns = _pair(centres, 2, 1) + _pair(corners, 1, -1)
        _displace(heights[:, ::step, half::step], rows, amplitude)
        _displace(heights[:, half::step, ::step], columns, amplitude)
        step, root = half, root / decay
    low, high = heights.aminmax(dim=-1)
    low, high = low.amin(1)[:, None, None], high.amax(1)[:, None, None]
    return heights.sub_(low).div_(high - low)


def _pair(points: Tensor, dim: int, shift: int) -> Tensor:
    return points + torch.roll(points, shift, dim)


def _displace(points: Tensor, neighbours: Tensor, amplitude: float) -> Tensor:
    """Set points to the mean of their four neighbours plus their displacement."""
    return points.mul_(amplitude).add_(neighbours, alpha=0.25)


fog = Corruption("fog", FOG_AMOUNT_DECAY, _fog, _draw_fog)
