"""Training augmentation on batches: draw for the whole batch on the CPU, apply on the images' device."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

_CROP_PADDING = 4  # the released code's, for CIFAR
_MAX_ROTATION = 20.0  # degrees, counter-clockwise above 0; the released code's, for Tiny-ImageNet

Draws = dict[str, Tensor]


def _uniform(count: int, generator: Generator) -> Tensor:
    """float32 in [0, 1), whatever the default dtype."""
    return torch.rand(count, generator=generator, dtype=torch.float32)


def _draw_crop_flip(count: int, generator: Generator) -> Draws:
    return {
        "offset": torch.randint(0, 2 * _CROP_PADDING + 1, (count, 2), generator=generator),
        "flip": _uniform(count, generator) < 0.5,
    }


def _apply_crop_flip(images: Tensor, draws: Draws) -> Tensor:
    height, width = images.shape[2:]
    top, left = draws["offset"].to(images.device).unbind(1)
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    columns = torch.where(draws["flip"].to(images.device)[:, None], width - 1 - columns, columns) + left[:, None]
    rows = torch.arange(height, device=images.device) + top[:, None]
    padded = F.pad(images, (_CROP_PADDING,) * 4)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _draw_rotation_flip(count: int, generator: Generator) -> Draws:
    return {
        "angle": (_uniform(count, generator) * 2 - 1) * _MAX_ROTATION,
        "flip": _uniform(count, generator) < 0.5,
    }


def _apply_rotation_flip(images: Tensor, draws: Draws) -> Tensor:
    angle = torch.deg2rad(draws["angle"]).to(images.device)
    mirror = (1 - 2 * draws["flip"].to(torch.float32)).to(images.device)
    ratio = images.shape[2] / images.shape[3]
    zero = torch.zeros_like(angle)
    matrix = torch.stack(
        [mirror * angle.cos(), -angle.sin() * ratio, zero, mirror * angle.sin() / ratio, angle.cos(), zero], dim=1
    ).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    rotated = F.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return rotated.to(images.dtype)


def _draw_nothing(count: int, generator: Generator) -> Draws:
    return {}


def _apply_nothing(images: Tensor, draws: Draws) -> Tensor:
    return images


_AUGMENTATIONS: dict[str, tuple[Callable[[int, Generator], Draws], Callable[[Tensor, Draws], Tensor]]] = {
    "crop-flip": (_draw_crop_flip, _apply_crop_flip),
    "rotation-flip": (_draw_rotation_flip, _apply_rotation_flip),
    "none": (_draw_nothing, _apply_nothing),
}


def default_augmentation(image_size: int) -> str:
    """The released code's choice: random crops below 48 px (CIFAR), rotations above (Tiny-ImageNet)."""
    return "crop-flip" if image_size < 48 else "rotation-flip"


def draw(name: str, count: int, generator: Generator) -> Draws:
    """Random parameters for `count` images, on the CPU, each of shape (count, ...)."""
    return _AUGMENTATIONS[name][0](count, generator)


def apply(name: str, images: Tensor, draws: Draws) -> Tensor:
    """Augment uint8 images of shape (N, C, H, W) with given draws; shape and dtype stay."""
    return _AUGMENTATIONS[name][1](images, draws)
