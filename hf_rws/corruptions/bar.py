"""The corruptions of CIFAR-10-C-bar and ImageNet-C-bar: what their modules share.

Mintun, Kirillov & Xie, *On Interaction Between Augmentations and Corruptions in Natural Corruption Robustness* (NeurIPS
2021), chose them to be unlike the nineteen of Hendrycks & Dietterich. Definitions and severities:
facebookresearch/augmentation-corruption, folder imagenet_c_bar (corrupt.py, cifar10_c_bar.csv, imagenet_c_bar.csv).

| of | corruptions |
|---|---|
| both | blue_noise_sample, brownish_noise, checkerboard_cutout, inverse_sparkles, sparkles |
| CIFAR-10 | circular_motion_blur, lines, pinch_and_twirl, ripple, transverse_chromatic_abberation |
| ImageNet | caustic_refraction, cocentric_sine_waves, perlin_noise, plasma_noise, single_frequency_greyscale |

Severities 1 to 5 stand for five numbers s from 0 to 10, published for each data set: CIFAR's serve the parameter sets
"cifar" and "tiny-imagenet", ImageNet's serve "imagenet", and those of a corruption that is in one only serve all three.
A constant that goes from 0 to m is s m / 10. Lengths are shares of the side, of the shorter one where they differ.
The published ImageNet-C-bar was saved as JPEG of quality 85 after the corruption; CIFAR-10-C-bar is lossless.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET
from hf_rws.corruptions.filters import GAIN, wide_float

_Severities = tuple[float, float, float, float, float]


def published(cifar: _Severities | None = None, imagenet: _Severities | None = None) -> Mapping[str, _Severities]:
    """The numbers for each parameter set, given those of the data sets that have the corruption."""
    small, large = cifar or imagenet, imagenet or cifar
    assert small is not None
    assert large is not None
    return {CIFAR: small, TINY_IMAGENET: small, IMAGENET: large}


def level(severity: float, most: float) -> float:
    """A constant that is `most` at severity 10."""
    return severity * most / 10


def pixels(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rows, (H, 1), and the columns, (W,), in the widest float of the device."""
    rows = torch.arange(height, device=device, dtype=wide_float(device))
    return rows[:, None], torch.arange(width, device=device, dtype=wide_float(device))


def columns_of(draws: Tensor) -> tuple[Tensor, ...]:
    """The numbers drawn for each image, (N, K), as K tensors (N, 1, 1), in the widest float of their device."""
    return draws.to(wide_float(draws.device))[..., None, None].unbind(1)


def resampled(planes: Tensor, dim: int, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of the rows or the columns of planes, in a fixed order.

    Args:
        planes: (N, H, W) float32.
        dim: 1 for rows, 2 for columns.
        places: (K, size) int64, which ones each of the result is made of.
        weights: (K, size) float32.

    Returns:
        (N, size, W) or (N, H, size).
    """
    first, *others = (
        planes.index_select(dim, place).mul_(weight if dim == 2 else weight[:, None])
        for place, weight in zip(places, weights, strict=True)
    )
    for other in others:
        first.add_(other)
    return first


def sample(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Images at other places, bilinearly, black outside.

    Args:
        images: (N, C, H, W), any real dtype.
        y: (N or 1, H, W), where each pixel comes from, in pixels.
        x: The same.

    Returns:
        float32 (N, C, H, W).
    """
    height, width = images.shape[2:]
    grid = torch.stack((x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1), 3).float()
    grid = grid.expand(len(images), -1, -1, -1)
    return functional.grid_sample(images.float(), grid, padding_mode="zeros", align_corners=True).mul_(GAIN)
