"""The kinds of images that users have, as uint8 NCHW batches and back."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hf_rws.errors import OptionError

MIN_SIDE = 32
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError)  # of Pillow
_PIL_MODES = ("RGB", "L")
_FEWEST_PIXELS_FOR_PILLOW = 96 * 96


def to_batch(images: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Read images of any supported kind.

    Args:
        images: numpy uint8 (H, W, C) or (N, H, W, C); torch uint8, or floating in [0, 1], (C, H, W) or (N, C, H, W); a
            PIL image of mode RGB or L. C is 3 or 1, H and W at least 32.

    Returns:
        The images as a uint8 (N, C, H, W) tensor, and the function that turns such a tensor into the kind, shape, dtype
        and device that came in.

    Raises:
        OptionError: Another kind, dtype, shape or range.
    """
    if isinstance(images, Image.Image):
        return _from_pil(images)
    if isinstance(images, np.ndarray):
        return _from_numpy(images)
    if isinstance(images, Tensor):
        return _from_torch(images)
    raise OptionError(f"Images must be a numpy array, a torch tensor or a PIL image, not {type(images).__name__}.")


def suit_pillow(images: Tensor) -> bool:
    """Whether images of shape (N, C, H, W) are so large, and on the CPU, that Pillow is faster with them one by one."""
    return images.device.type == "cpu" and images.shape[2] * images.shape[3] >= _FEWEST_PIXELS_FOR_PILLOW


def interleaved(images: Tensor) -> np.ndarray:
    """Images of shape (N, C, H, W) on the CPU as a contiguous (N, H, W, C) array: their own memory if they lie so."""
    pixels = images.permute(0, 2, 3, 1).numpy()
    return pixels if pixels.flags.c_contiguous else np.stack(images.unbind(1), -1)  # several times as fast as a copy


def _from_pil(image: Image.Image) -> tuple[Tensor, Callable[[Tensor], Any]]:
    if image.mode.startswith(("I", "F")):
        raise OptionError(
            f"A PIL image must have 8 bits a channel, not mode {image.mode}: scale its values to 0..255 first (its "
            "convert() would cut them off)."
        )
    if image.mode not in _PIL_MODES:
        raise OptionError(f"A PIL image must have mode RGB or L, not {image.mode}: use image.convert('RGB').")
    array = np.array(image)
    batch, back = _from_numpy(array if array.ndim == 3 else array[..., None])
    return batch, lambda result: Image.fromarray(back(result).squeeze(-1) if image.mode == "L" else back(result))


def _from_numpy(array: np.ndarray) -> tuple[Tensor, Callable[[Tensor], Any]]:
    if array.dtype != np.uint8:
        raise OptionError(f"A numpy array must be uint8 (0..255), not {array.dtype}.")
    if array.ndim not in (3, 4):
        raise OptionError(f"A numpy array must be (H, W, C) or (N, H, W, C), not of shape {array.shape}.")
    pixels = np.ascontiguousarray(array)
    batch = torch.from_numpy(pixels if pixels.flags.writeable else np.asarray(_Unlocked(pixels)))
    batch = (batch if array.ndim == 4 else batch[None]).permute(0, 3, 1, 2)
    _check_shape(batch, array.shape, "a numpy array is (H, W, C) or (N, H, W, C)")

    def back(result: Tensor) -> np.ndarray:
        return np.ascontiguousarray(result.permute(0, 2, 3, 1).numpy()).reshape(array.shape)

    return batch, back


class _Unlocked:
    """The memory of a read-only array, for torch, which knows no such thing and warns. Nothing is written to it.

    To silence the warning instead would be to change a list of filters that all threads share.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = array  # which keeps the memory alive
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def _from_torch(tensor: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
    if type(tensor) is not Tensor:
        plain, back = _from_torch(tensor.as_subclass(Tensor))
        return plain, lambda result: _as_kind_of(tensor, back(result))
    if tensor.ndim not in (3, 4):
        raise OptionError(f"A tensor must be (C, H, W) or (N, C, H, W), not of shape {tuple(tensor.shape)}.")
    batch = tensor.detach() if tensor.ndim == 4 else tensor.detach()[None]
    _check_shape(batch, tuple(tensor.shape), "a tensor is (C, H, W) or (N, C, H, W)")
    if tensor.dtype == torch.uint8:
        return batch, lambda result: result.reshape(tensor.shape)
    if not tensor.is_floating_point():
        raise OptionError(f"A tensor must be uint8 (0..255) or floating (0..1), not {tensor.dtype}.")
    return _from_unit_range(batch), lambda result: (result.float() / 255).to(tensor.dtype).reshape(tensor.shape)


def _as_kind_of(tensor: Tensor, result: Tensor) -> Tensor:
    """An image of torchvision's, where one came in; other subclasses of tensors mean nothing for pixels."""
    from torchvision import tv_tensors

    return tv_tensors.wrap(result, like=tensor) if isinstance(tensor, tv_tensors.TVTensor) else result


def _from_unit_range(batch: Tensor) -> Tensor:
    if batch.numel():
        low, high = (value.item() for value in batch.aminmax())
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise OptionError(
                f"Floating images must lie in [0, 1]; these span {low:g} to {high:g}. "
                "Corrupt images before normalising them; pass 0..255 as uint8."
            )
    return (batch.float() * 255).round_().to(torch.uint8)


def _check_shape(batch: Tensor, shape: tuple[int, ...], layout: str) -> None:
    channels, height, width = batch.shape[1:]
    if channels not in (1, 3):
        raise OptionError(f"Images must have 3 channels (or 1: grey), not {channels}: {layout}, got {shape}.")
    if min(height, width) < MIN_SIDE:
        raise OptionError(f"Images must be at least {MIN_SIDE} pixels on each side: {layout}, got {shape}.")
