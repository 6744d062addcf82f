"""Blur: defocus.

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws

DEFOCUS_RADIUS_ALIAS = {
    CIFAR: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    TINY_IMAGENET: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    IMAGENET: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
}


def _defocus(images: Tensor, draws: Draws, constants: tuple[float, float]) -> Tensor:
    channels = images.shape[1]
    kernel = torch.from_numpy(defocus_kernel(*constants)).to(images.device)
    reach = kernel.shape[0] // 2
    padded = functional.pad(images.float(), (reach,) * 4, mode="reflect")
    return functional.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)


@lru_cache(maxsize=32)
def defocus_kernel(radius: float, alias: float) -> np.ndarray:
    """The image of a point: a disk, its staircase edge softened by a Gaussian of `alias` standard deviation.

    Returns:
        Float32 of odd side, summing to 1, without empty margins.
    """
    reach = max(8, int(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.float64)
    soft_reach = 1 if radius <= 8 else 2
    t = np.arange(-soft_reach, soft_reach + 1)
    soft = np.exp(-(t**2) / (2 * alias**2))
    soft /= soft.sum()
    for axis in (0, 1):
        padded = np.pad(disk, [(soft_reach, soft_reach) if axis == a else (0, 0) for a in (0, 1)], mode="reflect")
        disk = sum(w * padded.take(range(i, i + 2 * reach + 1), axis) for i, w in enumerate(soft))
    disk /= disk.sum()
    used = np.abs(np.argwhere(disk > 1e-6) - reach).max()
    return disk[reach - used : reach + used + 1, reach - used : reach + used + 1].astype(np.float32)


defocus_blur = Corruption("defocus_blur", DEFOCUS_RADIUS_ALIAS, _defocus)
