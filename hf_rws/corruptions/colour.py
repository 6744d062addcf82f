"""Brightness, contrast and saturation.

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws
from hf_rws.corruptions.filters import truncated, wide_float

_BRIGHTNESS_ADDED = {
    CIFAR: (0.05, 0.1, 0.15, 0.2, 0.3),
    TINY_IMAGENET: (0.1, 0.2, 0.3, 0.4, 0.5),
    IMAGENET: (0.1, 0.2, 0.3, 0.4, 0.5),
}
_CONTRAST_FACTOR = {
    CIFAR: (0.75, 0.5, 0.4, 0.3, 0.15),
    TINY_IMAGENET: (0.4, 0.3, 0.2, 0.1, 0.05),
    IMAGENET: (0.4, 0.3, 0.2, 0.1, 0.05),
}
_SATURATE_FACTOR_ADDED = {
    CIFAR: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    TINY_IMAGENET: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    IMAGENET: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}

# Levels that are whole must not be truncated to one less, whatever the rounding; no other is so near the next.
_HAIR = 2**-12


def _brightness(images: Tensor, draws: Draws, added: float) -> Tensor:
    """Raise V of HSV; hue and saturation stay, so every channel grows by V'/V (black turns grey)."""
    value = images.amax(1, keepdim=True).float()
    raised = (value + 255 * added).clamp_(max=255)
    ratio = raised / value.clamp(min=1)
    grey = raised.mul_(value.eq_(0)).add_(_HAIR)  # a number, 0 or 1: masks are several times slower
    levels = images.float()
    return truncated(torch.addcmul(grey, levels, ratio, out=levels))


def _contrast(images: Tensor, draws: Draws, factor: float) -> Tensor:
    levels = images.float()
    row_sums = levels.sum(3, keepdim=True)  # exact, so that the mean does not depend on the order of summation
    mean = row_sums.sum(2, keepdim=True, dtype=wide_float(images.device)) / images[0, 0].numel()
    return torch.lerp(mean.float(), levels, factor)


def _saturate(images: Tensor, draws: Draws, constants: tuple[float, float]) -> Tensor:
    """Change S of HSV: the distances of the channels to V grow by S'/S. Grey has hue 0: it turns red if at all."""
    factor, added = constants
    value = images.amax(1, keepdim=True)
    spread = value - images.amin(1, keepdim=True)
    distances = value - images
    distances[:, 1:].add_(spread.eq(0))  # of grey: then the ratio below is all that is taken from green and blue
    value, spread, distances = value.float(), spread.float(), distances.float()
    grown = (spread / value.clamp(min=1) * factor + added).clamp_(max=1).mul_(value)
    ratio = grown.div_(spread.clamp_(min=1))
    return truncated(torch.addcmul(value, distances, ratio, value=-1, out=distances))


brightness = Corruption("brightness", _BRIGHTNESS_ADDED, _brightness)
contrast = Corruption("contrast", _CONTRAST_FACTOR, _contrast)
saturate = Corruption("saturate", _SATURATE_FACTOR_ADDED, _saturate, needs_colour=True)
