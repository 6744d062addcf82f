"""Noise: gaussian, shot, impulse and speckle.

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws
from hf_rws.corruptions.filters import on_device
from hf_rws.corruptions.randomness import RandomSource

_GAUSSIAN_SIGMA = {
    CIFAR: (0.04, 0.06, 0.08, 0.09, 0.10),
    TINY_IMAGENET: (0.04, 0.08, 0.12, 0.15, 0.18),
    IMAGENET: (0.08, 0.12, 0.18, 0.26, 0.38),
}
_SHOT_PHOTONS = {
    CIFAR: (500, 250, 100, 75, 50),
    TINY_IMAGENET: (250, 100, 50, 30, 15),
    IMAGENET: (60, 25, 12, 5, 3),
}
_IMPULSE_AMOUNT = {
    CIFAR: (0.01, 0.02, 0.03, 0.05, 0.07),
    TINY_IMAGENET: (0.01, 0.02, 0.05, 0.08, 0.14),
    IMAGENET: (0.03, 0.06, 0.09, 0.17, 0.27),
}
_SPECKLE_SIGMA = {
    CIFAR: (0.06, 0.1, 0.12, 0.16, 0.2),
    TINY_IMAGENET: (0.15, 0.2, 0.25, 0.3, 0.35),
    IMAGENET: (0.15, 0.2, 0.35, 0.45, 0.6),
}


def _draw_normal(source: RandomSource, shape: tuple[int, int, int], sigma: float) -> Draws:
    return (source.normal(*shape),)


def _draw_uniform(source: RandomSource, shape: tuple[int, int, int], amount: float) -> Draws:
    return (source.uniform(*shape),)


def _draw_words(source: RandomSource, shape: tuple[int, int, int], photons: float) -> Draws:
    return (source.words(*shape),)


def _gaussian(images: Tensor, draws: Draws, sigma: float) -> Tensor:
    return draws[0].mul(255 * sigma).add_(images)


def _speckle(images: Tensor, draws: Draws, sigma: float) -> Tensor:
    return draws[0].mul(sigma).add_(1).mul_(images)


def _impulse(images: Tensor, draws: Draws, amount: float) -> Tensor:
    """Each value (not each pixel) becomes 0 or 255 with probability `amount`, half each."""
    kept = draws[0].clone().ge_(amount)  # as numbers 0 and 1: masks are several times slower
    salt = draws[0].clone().lt_(amount / 2)
    return kept.mul_(images).add_(salt, alpha=255)


def _shot(images: Tensor, draws: Draws, photons: float) -> Tensor:
    """Poisson(x * photons) / photons: 256 grey levels go to 256, so one look into an alias table draws it exactly.

    The upper 8 bits of a word choose a column of the table; the other 23 decide between the column and its alias.
    """
    (words,) = draws
    column = words >> 23
    places = images.to(torch.int32).mul_(256).add_(column)
    entry = on_device(_shot_table(photons), images.device).index_select(0, places.flatten()).view_as(words)
    alias = entry & 0xFF
    return (words & 0x7FFFFF).lt_(entry >> 8).mul_(column - alias).add_(alias).to(torch.uint8)


@lru_cache(maxsize=16)
def _shot_table(photons: float) -> np.ndarray:
    """Walker's alias table of what becomes of each grey level.

    Returns:
        int32 (65536,): at 256 * level + column, threshold * 256 + alias, the threshold out of 2**23.
    """
    remaining = _shot_probabilities(photons) * 256
    thresholds, aliases = np.full((256, 256), 2**23 - 1), np.tile(np.arange(256), (256, 1))
    levels, settled = np.arange(256), np.zeros((256, 256), bool)
    for _ in range(255):
        poorest = np.where(settled, np.inf, remaining).argmin(1)
        richest = np.where(settled, -np.inf, remaining).argmax(1)
        share = remaining[levels, poorest].clip(0, 1)
        thresholds[levels, poorest] = share * (2**23 - 1)
        aliases[levels, poorest] = richest
        remaining[levels, richest] -= np.where(richest == poorest, 0, 1 - share)
        settled[levels, poorest] = True
    return (thresholds * 256 + aliases).astype(np.int32).ravel()


def _shot_probabilities(photons: float) -> np.ndarray:
    """(256, 256) float64: how probable each grey level is after shot noise (second axis), given the one before."""
    counts = np.arange(photons)
    rates = np.arange(256)[:, None] / 255 * photons
    log_factorials = np.array([math.lgamma(k + 1) for k in counts])
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.exp(counts * np.log(rates) - rates - log_factorials)
    below[0] = counts == 0
    result = np.zeros((256, 256))
    np.add.at(result.T, (counts / photons * 255).astype(int), below.T)
    result[:, 255] += 1 - below.sum(1)  # all larger counts saturate
    return result.clip(min=0)


gaussian_noise = Corruption("gaussian_noise", _GAUSSIAN_SIGMA, _gaussian, _draw_normal)
shot_noise = Corruption("shot_noise", _SHOT_PHOTONS, _shot, _draw_words)
impulse_noise = Corruption("impulse_noise", _IMPULSE_AMOUNT, _impulse, _draw_uniform)
speckle_noise = Corruption("speckle_noise", _SPECKLE_SIGMA, _speckle, _draw_normal)
