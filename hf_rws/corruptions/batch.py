"""`corrupt`: images in, the same kind of images out."""

from __future__ import annotations

from numbers import Integral
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from hf_rws._ambient import unaffected
from hf_rws._choices import PARAMETER_SETS, SEVERITIES
from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET
from hf_rws.corruptions.filters import truncated
from hf_rws.corruptions.images import to_batch
from hf_rws.corruptions.randomness import MAX_IMAGES, GeneratorSource, ImageSource, RandomSource
from hf_rws.corruptions.registry import find
from hf_rws.errors import OptionError

# Values per chunk: temporaries that stay in a CPU's cache (as floats, 2 MB) are several times faster than larger ones.
_CPU_CHUNK = 2**19
_DEVICE_CHUNK = 2**24
_AUTO = "auto"
_SET_BELOW_SIDE = ((48, CIFAR), (128, TINY_IMAGENET))


@overload
def corrupt(
    images: Tensor,
    name: str,
    severity: int = 5,
    *,
    seed: int = 0,
    index: int | Tensor = 0,
    parameters: str = "auto",
    generator: torch.Generator | None = None,
) -> Tensor: ...


@overload
def corrupt(
    images: NDArray[np.uint8],
    name: str,
    severity: int = 5,
    *,
    seed: int = 0,
    index: int | Tensor = 0,
    parameters: str = "auto",
    generator: torch.Generator | None = None,
) -> NDArray[np.uint8]: ...


@overload
def corrupt(
    images: Image,
    name: str,
    severity: int = 5,
    *,
    seed: int = 0,
    index: int | Tensor = 0,
    parameters: str = "auto",
    generator: torch.Generator | None = None,
) -> Image: ...


@unaffected
def corrupt(
    images: Any,
    name: str,
    severity: int = 5,
    *,
    seed: int = 0,
    index: int | Tensor = 0,
    parameters: str = "auto",
    generator: torch.Generator | None = None,
) -> Any:
    """Apply one of the corruptions of Hendrycks & Dietterich (2019), or of Mintun et al. (2021), to images.

    The random draws of the i-th image depend on `(seed, name, severity, index + i)` only: not on the batch, the order,
    the device or the number of threads. So `corrupt(x[100:150], ..., index=100)` equals `corrupt(x, ...)[100:150]`.

    Args:
        images: numpy uint8 (H, W, C) or (N, H, W, C); torch uint8, or floating in [0, 1], (C, H, W) or (N, C, H, W), on
            any device; a PIL image (RGB or L). C is 3, or 1 for corruptions that have a meaning for grey; H, W >= 32.
        name: One of `CORRUPTIONS` or `hf_rws.corruptions.BAR`.
        severity: 1 to 5.
        seed: Any integer; another seed gives other draws.
        index: Number of the first image, also as a tensor of shape (); or the numbers of all of them, an integer tensor
            of shape (N,).
        parameters: Whose severity constants: `"cifar"` (made for 32 px), `"tiny-imagenet"` (64), `"imagenet"` (224), or
            `"auto"`: by the shorter side, below 48 px, below 128, from 128 on.
        generator: For training: a generator on the images' device, from which draws then come batch by batch, without
            synchronising (uint8 images). The contract on seeds above does not hold; `seed` and `index` are ignored.

    Returns:
        Corrupted images: the kind, shape, dtype and device that came in. Floating images come back on the 1/255 grid.

    Raises:
        OptionError: An unknown name, severity or parameter set, or images of another kind, dtype, shape or range.
        MissingExtraError: Frost, and its pictures are not installed (see `hf_rws.corruptions.frost`).

    Example:
        >>> images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> foggy = hf_rws.corrupt(images, "fog", severity=5)
        >>> foggy.shape, foggy.dtype
        (torch.Size([8, 3, 32, 32]), torch.uint8)
        >>> torch.equal(hf_rws.corrupt(images[2:4], "fog", severity=5, index=2), foggy[2:4])
        True
    """
    corruption = find(name)
    check_severity(severity)
    _check_integer("seed", seed)
    batch, back = to_batch(images)
    numbers = _numbers(index, len(batch))
    if corruption.needs_colour and batch.shape[1] == 1:
        raise OptionError(f"{name} is defined for colour images only: these have 1 channel.")
    if generator is not None and generator.device.type != batch.device.type:
        raise OptionError(f"The generator is on {generator.device}, the images are on {batch.device}.")
    constants = corruption.constants[parameter_set(parameters, min(batch.shape[2:]))][severity - 1]

    def source(numbers: range | Tensor) -> RandomSource:
        if generator is not None:
            return GeneratorSource(generator, len(numbers))
        return ImageSource(seed, name, severity, numbers, batch.device)

    channels, height, width = batch.shape[1:]
    shape = (channels, height, width)
    result = torch.empty_like(batch)  # in the layout of the input, which `back` then need not change
    limit = _CPU_CHUNK if batch.device.type == "cpu" else _DEVICE_CHUNK
    size = max(1, limit // (channels * height * width))
    for start in range(0, len(batch), size):
        chunk = batch[start : start + size]
        if not (corruption.any_layout or chunk.is_contiguous()):
            chunk = _planar(chunk)
        draws = corruption.draw(source(numbers[start : start + size]), shape, constants)
        _store(corruption.apply(chunk, draws, constants), result[start : start + size])
    return back(result)


def _planar(images: Tensor) -> Tensor:
    """The same with contiguous channels. NumPy takes half of torch's time for bytes that lie apart."""
    if images.device.type == "cpu":
        return torch.from_numpy(np.ascontiguousarray(images.numpy()))
    return images.contiguous()


def _store(values: Tensor, out: Tensor) -> None:
    """Clip, truncate and write."""
    if values.is_floating_point():
        values = truncated(values.clamp_(0, 255))
    if values.stride() == out.stride():
        out.copy_(values)
        return
    for source, target in zip(values.unbind(1), out.unbind(1), strict=True):  # thrice as fast as all at once
        if out.device.type == "cpu":
            target.numpy()[...] = source.numpy()
        else:
            target.copy_(source)


def check_parameter_set(parameters: str) -> str:
    """Give back the name of a parameter set, or `"auto"`.

    Raises:
        OptionError: It is neither.
    """
    if parameters not in (_AUTO, *PARAMETER_SETS):
        raise OptionError(f"Unknown parameters {parameters!r}: use {', '.join(map(repr, (_AUTO, *PARAMETER_SETS)))}.")
    return parameters


def check_severity(severity: int | str) -> int:
    """Give back a severity.

    Raises:
        OptionError: It is none.
    """
    if not _is_integer(severity) or severity not in SEVERITIES:
        raise OptionError(f"severity must be one of {', '.join(map(str, SEVERITIES))}, not {severity!r}.")
    return int(severity)


def parameter_set(parameters: str, shorter_side: int) -> str:
    """The parameter set for images of this size: the one named, or that of the nearest published size."""
    if check_parameter_set(parameters) != _AUTO:
        return parameters
    return next((name for below, name in _SET_BELOW_SIDE if shorter_side < below), IMAGENET)


def _numbers(index: int | Tensor, count: int) -> range | Tensor:
    """The numbers of `count` images, which `index` is, or begins."""
    given = index.item() if isinstance(index, Tensor) and not index.ndim else index
    if not isinstance(given, Tensor):
        _check_integer("index", given)
        first = last = int(given)
        numbers: range | Tensor = range(first, first + count)
    elif given.shape != (count,) or given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise OptionError(f"index must be one integer an image, {count}, not {given.dtype} {tuple(given.shape)}.")
    else:
        first, last = (int(value) for value in given.aminmax()) if count else (0, 0)
        numbers = given.cpu()
    if not 0 <= first <= last < MAX_IMAGES:
        raise OptionError(f"index must be at least 0 and below 2**32, not {first if first < 0 else last}.")
    return numbers


def _check_integer(label: str, value: object) -> None:
    if not _is_integer(value):
        raise OptionError(f"{label} must be an integer, not {value!r}.")


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
