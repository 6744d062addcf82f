"""Noise: gaussian, shot, impulse and speckle.

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py.
"""

from __future__ import annotations

from torch import Tensor

from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws
from hf_rws.corruptions.randomness import Source

GAUSSIAN_SIGMA = {
    CIFAR: (0.04, 0.06, 0.08, 0.09, 0.10),
    TINY_IMAGENET: (0.04, 0.08, 0.12, 0.15, 0.18),
    IMAGENET: (0.08, 0.12, 0.18, 0.26, 0.38),
}
IMPULSE_AMOUNT = {
    CIFAR: (0.01, 0.02, 0.03, 0.05, 0.07),
    TINY_IMAGENET: (0.01, 0.02, 0.05, 0.08, 0.14),
    IMAGENET: (0.03, 0.06, 0.09, 0.17, 0.27),
}


def _draw_normal(source: Source, shape: tuple[int, int, int], sigma: float) -> Draws:
    return (source.normal(*shape),)


def _draw_uniform(source: Source, shape: tuple[int, int, int], amount: float) -> Draws:
    return (source.uniform(*shape),)


def _gaussian(images: Tensor, draws: Draws, sigma: float) -> Tensor:
    return draws[0].mul(255 * sigma).add_(images)


def _impulse(images: Tensor, draws: Draws, amount: float) -> Tensor:
    """Each value (not each pixel) becomes 0 or 255 with probability `amount`, half each."""
    (uniform,) = draws
    return images.masked_fill(uniform < amount, 0).masked_fill_(uniform < amount / 2, 255)


gaussian_noise = Corruption("gaussian_noise", GAUSSIAN_SIGMA, _gaussian, _draw_normal)
impulse_noise = Corruption("impulse_noise", IMPULSE_AMOUNT, _impulse, _draw_uniform)
