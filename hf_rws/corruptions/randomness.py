"""Where random numbers come from: a stream per image (reproducible test sets) or a generator per batch (training)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

MAX_IMAGES = 2**32  # image numbers are mixed as 32-bit words, one to one


class RandomSource(Protocol):
    """Random numbers for the images of a batch: every method returns a tensor with the batch first."""

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 values."""

    def uniform(self, *shape: int) -> Tensor:
        """Uniform float32 values in [0, 1)."""

    def words(self, *shape: int) -> Tensor:
        """Uniform int32 values in [0, 2**31)."""


class ImageSource:
    """Each image has streams of its own, which depend on (seed, name, severity, image number) and on nothing else.

    Numbers are drawn on the CPU (the streams of other devices differ) and then moved to `device`. Each call of a method
    is a new stream, so what one call takes does not shift the next.

    Args:
        seed: Any integer.
        name: Of the corruption.
        severity: 1 to 5.
        numbers: The numbers of the images in the batch: a range, or an integer tensor of shape (N,) on the CPU.
        device: Of the tensors returned.
    """

    def __init__(self, seed: int, name: str, severity: int, numbers: range | Tensor, device: torch.device):
        self._key = f"{seed}/{name}/{severity}"
        if isinstance(numbers, range):
            self._numbers = np.arange(numbers.start, numbers.stop, dtype=np.uint64).astype(np.uint32)
        else:
            self._numbers = numbers.numpy().astype(np.uint32)
        self._device = device
        self._generator = torch.Generator()
        self._calls = 0

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 values."""
        return self._fill(shape, torch.float32, lambda image: image.normal_(generator=self._generator))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform float32 values in [0, 1)."""
        return self._fill(shape, torch.float32, lambda image: image.uniform_(generator=self._generator))

    def words(self, *shape: int) -> Tensor:
        """Uniform int32 values in [0, 2**31)."""
        return self._fill(shape, torch.int32, lambda image: image.random_(generator=self._generator))

    def _fill(self, shape: Sequence[int], dtype: torch.dtype, draw: Callable[[Tensor], object]) -> Tensor:
        batch = torch.empty(len(self._numbers), *shape, dtype=dtype)
        seeds = _image_seeds(f"{self._key}/{self._calls}", self._numbers)
        self._calls += 1
        for seed, image in zip(seeds.tolist(), batch.unbind(0), strict=True):
            self._generator.manual_seed(seed)
            draw(image)
        return batch.to(self._device)


class GeneratorSource:
    """Batches straight from a `torch.Generator`, on its device: fast, for training."""

    def __init__(self, generator: torch.Generator, count: int):
        self._generator = generator
        self._count = count
        self._kind: dict[str, Any] = {"generator": generator, "device": generator.device, "dtype": torch.float32}

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 values."""
        return torch.randn(self._count, *shape, **self._kind)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform float32 values in [0, 1)."""
        return torch.rand(self._count, *shape, **self._kind)

    def words(self, *shape: int) -> Tensor:
        """Uniform int32 values in [0, 2**31)."""
        words = torch.empty(self._count, *shape, dtype=torch.int32, device=self._generator.device)
        return words.random_(generator=self._generator)


def _image_seeds(key: str, numbers: np.ndarray) -> np.ndarray:
    """A 32-bit seed per image number (torch's CPU generator uses no more): distinct for distinct numbers.

    Two rounds of the murmur3 finalizer, a bijection of 32-bit words, keyed with a stable hash of `key`.
    """
    words = np.frombuffer(hashlib.sha256(key.encode()).digest()[:8], dtype="<u4")
    return _mix(_mix(numbers ^ words[0]) + words[1])


def _mix(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return words ^ (words >> np.uint32(16))
