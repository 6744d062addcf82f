"""Brightness, contrast and saturation.

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws

BRIGHTNESS_ADDED = {
    CIFAR: (0.05, 0.1, 0.15, 0.2, 0.3),
    TINY_IMAGENET: (0.1, 0.2, 0.3, 0.4, 0.5),
    IMAGENET: (0.1, 0.2, 0.3, 0.4, 0.5),
}
CONTRAST_FACTOR = {
    CIFAR: (0.75, 0.5, 0.4, 0.3, 0.15),
    TINY_IMAGENET: (0.4, 0.3, 0.2, 0.1, 0.05),
    IMAGENET: (0.4, 0.3, 0.2, 0.1, 0.05),
}


def _brightness(images: Tensor, draws: Draws, added: float) -> Tensor:
    """Raise V of HSV; hue and saturation stay, so every channel grows by V'/V (black turns grey)."""
    value = images.amax(1, keepdim=True).float()
    raised = (value + 255 * added).clamp_(max=255)
    levels = images * raised / value.clamp(min=1)
    return levels.add_(raised.mul_(value == 0))


def _contrast(images: Tensor, draws: Draws, factor: float) -> Tensor:
    levels = images.float()
    return torch.lerp(levels.mean((2, 3), keepdim=True), levels, factor)


brightness = Corruption("brightness", BRIGHTNESS_ADDED, _brightness)
contrast = Corruption("contrast", CONTRAST_FACTOR, _contrast)
