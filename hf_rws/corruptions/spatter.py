"""Spatter: drops of water or mud on the lens.

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py. The _relief of the drops
follows OpenCV: Canny's edge detector, a 5 x 5 chamfer distance, histogram equalization, all in its integer arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws
from hf_rws.corruptions.filters import gaussian_blur, on_device
from hf_rws.corruptions.randomness import RandomSource
from hf_rws.corruptions.rounds import until_stable


class _Spatter(NamedTuple):
    """Mean and deviation of the liquid, its blur, the level that it must pass, strength or blur of the mask, kind."""

    location: float
    scale: float
    sigma: float
    threshold: float
    strength: float
    mud: bool


_SPATTER = {
    CIFAR: (
        _Spatter(0.62, 0.1, 0.7, 0.7, 0.5, False),
        _Spatter(0.65, 0.1, 0.8, 0.7, 0.5, False),
        _Spatter(0.65, 0.3, 1, 0.69, 0.5, False),
        _Spatter(0.65, 0.1, 0.7, 0.69, 0.6, True),
        _Spatter(0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
    TINY_IMAGENET: (
        _Spatter(0.62, 0.1, 0.7, 0.7, 0.6, False),
        _Spatter(0.65, 0.1, 0.8, 0.7, 0.6, False),
        _Spatter(0.65, 0.3, 1, 0.69, 0.6, False),
        _Spatter(0.65, 0.1, 0.7, 0.68, 0.6, True),
        _Spatter(0.65, 0.1, 0.5, 0.67, 0.6, True),
    ),
    IMAGENET: (
        _Spatter(0.65, 0.3, 4, 0.69, 0.6, False),
        _Spatter(0.65, 0.3, 3, 0.68, 0.6, False),
        _Spatter(0.65, 0.3, 2, 0.68, 0.5, False),
        _Spatter(0.65, 0.3, 1, 0.65, 1.5, True),
        _Spatter(0.67, 0.4, 1, 0.65, 1.5, True),
    ),
}
_WATER = np.array((175, 238, 238), np.float32).reshape(3, 1, 1)
_MUD = np.array((63, 42, 20), np.float32).reshape(3, 1, 1)
_MUD_CUT = 0.8

_EDGE_LOW, _EDGE_HIGH = 50, 150
_TANGENT_22 = 13573 / 2**15  # of 22.5 degrees, as OpenCV has it
# Chamfer: moves and their lengths in 16-bit fixed point; distances end at 20 pixels.
_CHAMFER = (
    (65536, ((0, 1), (1, 0), (0, -1), (-1, 0))),
    (91750, ((1, 1), (1, -1), (-1, 1), (-1, -1))),
    (143976, ((1, 2), (2, 1), (1, -2), (2, -1), (-1, 2), (-2, 1), (-1, -2), (-2, -1))),
)
_FARTHEST = 20 << 16
_EMBOSS = np.array([[[[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]]], np.float32)


def _draw_spatter(source: RandomSource, shape: tuple[int, int, int], constants: _Spatter) -> Draws:
    return (source.normal(*shape[1:]),)


def _spatter(images: Tensor, draws: Draws, constants: _Spatter) -> Tensor:
    liquid = gaussian_blur(draws[0][:, None] * constants.scale + constants.location, constants.sigma)
    colour = on_device(_MUD if constants.mud else _WATER, images.device)
    if constants.mud:
        mask = gaussian_blur(liquid.gt_(constants.threshold), constants.strength)
        mask = torch.threshold_(mask, _MUD_CUT - 1e-6, 0)
        return torch.lerp(images.float(), colour, mask)
    liquid = torch.threshold_(liquid, constants.threshold, 0)
    liquid = (liquid * 255).to(torch.int32).bitwise_and_(255).float()  # 256 and more wrap, as in the original
    mask = _relief(liquid).mul_(liquid)
    mask = mask / mask.amax((2, 3), keepdim=True).clamp(min=1) * constants.strength
    return (mask * colour).add_(images)


def _relief(liquid: Tensor) -> Tensor:
    """How drops bulge: the distance from their edges, equalized and embossed.

    Args:
        liquid: (N, 1, H, W) float32, integers 0..255.

    Returns:
        (N, 1, H, W) float32, integers 0..255.
    """
    distance = _chamfer_distance(_canny_edges(liquid))
    distance = (_sum_3x3(distance) / (9 << 16)).floor_()
    equalized = _equalize(distance)
    embossed = functional.conv2d(_mirror(equalized), on_device(_EMBOSS, liquid.device))
    return (_sum_3x3(embossed.clamp_(0, 255)) / 9).round_()


def _canny_edges(grey: Tensor) -> Tensor:
    """Canny's edges with 3 x 3 Sobel gradients, their L1 norm, and OpenCV's rules for ties.

    Args:
        grey: (N, 1, H, W) float32, integers 0..255.

    Returns:
        (N, 1, H, W) bool.
    """
    padded = functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    smooth_y = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    smooth_x = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    dx = smooth_y[..., 2:] - smooth_y[..., :-2]
    dy = smooth_x[:, :, 2:] - smooth_x[:, :, :-2]
    x, y = dx.abs(), dy.abs()
    norm = x + y
    around = functional.pad(norm, (1, 1, 1, 1))
    height, width = grey.shape[2:]

    def neighbour(down: int, right: int) -> Tensor:
        return around[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    horizontal, vertical = y < x * _TANGENT_22, y > x * (_TANGENT_22 + 2)
    falling = (dx * dy) >= 0
    along_row = (norm > neighbour(0, -1)) & (norm >= neighbour(0, 1))
    along_column = (norm > neighbour(-1, 0)) & (norm >= neighbour(1, 0))
    along_falling = (norm > neighbour(-1, -1)) & (norm > neighbour(1, 1))
    along_rising = (norm > neighbour(-1, 1)) & (norm > neighbour(1, -1))
    diagonal = torch.where(falling, along_falling, along_rising)
    ridge = torch.where(horizontal, along_row, torch.where(vertical, along_column, diagonal))
    weak = (ridge & (norm > _EDGE_LOW)).float()
    strong = weak * (norm > _EDGE_HIGH)
    grown = until_stable(lambda edges: functional.max_pool2d(edges, 3, 1, 1) * weak, strong, max(height, width))
    return grown > 0


def _chamfer_distance(edges: Tensor) -> Tensor:
    """Distance to the nearest edge, measured in moves of a 5 x 5 neighbourhood, 20 pixels at most.

    The shortest way between two points needs moves in two directions only, in any order: so one direction after the
    other, each in strides of 16, 8, 4, 2 and 1 moves.

    Args:
        edges: (N, 1, H, W) bool.

    Returns:
        (N, 1, H, W) float32, integers in 16-bit fixed point.
    """
    height, width = edges.shape[2:]
    margin = 2 * 16
    canvas = functional.pad((~edges).float().mul_(_FARTHEST), (margin,) * 4, value=_FARTHEST)
    inner = canvas[:, :, margin : margin + height, margin : margin + width]
    for length, moves in _CHAMFER:
        for down, right in moves:
            stride = 16
            while stride:
                if stride * length < _FARTHEST:
                    top, left = margin + stride * down, margin + stride * right
                    other = canvas[:, :, top : top + height, left : left + width]
                    inner.copy_(torch.minimum(inner, other + stride * length))
                stride //= 2
    return inner.contiguous()


def _equalize(values: Tensor) -> Tensor:
    """Histogram equalization of (N, 1, H, W) integers 0..255, the lowest value present going to 0."""
    flat = values.flatten(1).long()
    counts = torch.zeros(len(flat), 256, device=values.device, dtype=torch.float32)
    counts.scatter_add_(1, flat, torch.ones_like(flat).float())
    lowest = flat.amin(1, keepdim=True)
    at_lowest = counts.gather(1, lowest)
    scale = 255 / (flat.shape[1] - at_lowest).clamp(min=1)
    table = ((counts.cumsum(1) - at_lowest) * scale).round_()
    equalized = table.gather(1, flat).view(values.shape)
    constant = (at_lowest == flat.shape[1]).view(-1, 1, 1, 1)
    return torch.where(constant, values, equalized)


def _sum_3x3(values: Tensor) -> Tensor:
    padded = _mirror(values)
    rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]


def _mirror(values: Tensor) -> Tensor:
    return functional.pad(values, (1, 1, 1, 1), mode="reflect")


spatter = Corruption("spatter", _SPATTER, _spatter, _draw_spatter, needs_colour=True)
