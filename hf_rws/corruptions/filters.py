"""Linear filters and resampling on batches, in forms whose result does not depend on the batch.

The arithmetic of a matrix product or a convolution changes with the shape of the batch; so short filters are sums of
shifted images in a fixed order, and long ones are computed in float64, where the difference vanishes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hf_rws.corruptions._caching import keep_within

_Border = Literal["replicate", "mirror", "reflect"]

# Weights sum to a hair over 1: rounding would otherwise truncate flat areas (255 above all) one level too low.
GAIN = 1 + 2**-18
_LONGEST_SHIFTED_REACH = 12
_MOST_SHIFTED_TAPS = 64
_MOST_GATHERED = 6000  # values of an image
_STRIP = 48
_KEPT_BYTES = 2**25
NEGLIGIBLE = 1e-6


def wide_float(device: torch.device) -> torch.dtype:
    """float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Constants as a tensor, float64 as `wide_float`. A GPU gets them without waiting until it has nothing to do."""
    tensor = torch.from_numpy(array)
    if tensor.dtype == torch.float64:
        tensor = tensor.to(wide_float(device))
    return tensor.to(device, non_blocking=device.type == "cuda")


def number(value: float) -> Tensor:
    """A float32 scalar: integers times it are float32, whatever the default dtype."""
    return torch.tensor(value, dtype=torch.float32)


def truncated(levels: Tensor) -> Tensor:
    """Levels in 0..255, or above -1, as uint8. Straight from float to uint8 takes thrice as long."""
    return levels.to(torch.int16).to(torch.uint8)


def gaussian_weights(sigma: float, reach: int) -> np.ndarray:
    """A sampled Gaussian at -reach..reach, summing to 1."""
    t = np.arange(-reach, reach + 1)
    weights = np.exp(-(t**2) / (2 * sigma**2))
    return weights / weights.sum()


def gaussian_blur(images: Tensor, sigma: float, *, border: _Border = "replicate", truncate: float = 4.0) -> Tensor:
    """Gaussian blur of the last two dimensions, as SciPy defines it.

    Args:
        images: (..., H, W), any real dtype.
        sigma: Standard deviation in pixels.
        border: `"replicate"`: aaa|abc; `"mirror"`: cb|abc; `"reflect"`: ba|abc.
        truncate: The kernel ends at this many standard deviations.

    Returns:
        float32 (..., H, W).
    """
    reach = int(truncate * sigma + 0.5)
    if reach == 0:
        return images.float()
    if reach <= _LONGEST_SHIFTED_REACH and border == "replicate":
        return _blur_by_shifts(images, gaussian_weights(sigma, reach) * math.sqrt(GAIN))
    height, width = images.shape[-2:]
    vertical, horizontal = (
        on_device(_blur_matrix(size, sigma, reach, border), images.device) for size in (height, width)
    )
    across = _band_product(horizontal, images.to(vertical.dtype).mT, reach).mT
    return _band_product(vertical, across, reach).float()


def _strips(size: int, reach: int) -> list[tuple[range, slice]]:
    """Rows of a (size, size) matrix, and the columns that are not zero there: those up to `reach` from the diagonal."""
    if size <= 2 * _STRIP:
        return [(range(size), slice(0, size))]
    starts = range(0, size, _STRIP)
    return [(range(i, min(i + _STRIP, size)), slice(max(0, i - reach), min(i + _STRIP + reach, size))) for i in starts]


def _band_product(band: Tensor, images: Tensor, reach: int) -> Tensor:
    """The product of a matrix, given as `_blur_matrix` gives it, and images of shape (..., size, M)."""
    strips = _strips(images.shape[-2], reach)
    parts = band.split([len(rows) * (columns.stop - columns.start) for rows, columns in strips])
    products = [
        part.view(len(rows), -1) @ images[..., columns, :] for part, (rows, columns) in zip(parts, strips, strict=True)
    ]
    return products[0] if len(products) == 1 else torch.cat(products, -2)


def _blur_by_shifts(images: Tensor, weights: np.ndarray) -> Tensor:
    """Filter both dimensions with symmetric weights, edges replicated."""
    reach = len(weights) // 2
    padded = functional.pad(images.float(), (reach,) * 4, mode="replicate")
    for dim in (-2, -1):
        size = images.shape[dim]
        result = padded.narrow(dim, reach, size) * weights[reach]
        for i in range(reach):
            pair = padded.narrow(dim, i, size) + padded.narrow(dim, 2 * reach - i, size)
            result.add_(pair, alpha=weights[i])
        padded = result
    return padded


@keep_within(_KEPT_BYTES)
def _blur_matrix(size: int, sigma: float, reach: int, border: _Border) -> np.ndarray:
    """The (size, size) matrix of a Gaussian blur along one dimension: float64, its `_strips` one after the other."""
    weights, taps, parts = gaussian_weights(sigma, reach), np.arange(-reach, reach + 1), []
    for rows, columns in _strips(size, reach):
        source = border_index(np.array(rows)[:, None] + taps, size, border) - columns.start
        part = np.zeros((len(rows), columns.stop - columns.start))
        np.add.at(part, (np.arange(len(rows))[:, None], source), weights)
        parts.append(part.ravel())
    return np.concatenate(parts) * math.sqrt(GAIN)


def border_index(positions: np.ndarray, size: int, border: _Border) -> np.ndarray:
    """Where positions outside 0..size-1 read from."""
    if border == "replicate":
        return positions.clip(0, size - 1)
    if border == "mirror":
        period = 2 * size - 2
        positions = positions % period
        return np.minimum(positions, period - positions)
    positions = positions % (2 * size)
    return np.minimum(positions, 2 * size - 1 - positions)


def correlate(images: Tensor, kernel: np.ndarray) -> Tensor:
    """Correlate the last two dimensions with a kernel, edges mirrored (cb|abc).

    Args:
        images: (N, C, H, W), any real dtype.
        kernel: (2k+1, 2k+1), k below H and W.

    Returns:
        float32 (N, C, H, W).
    """
    taps = np.argwhere(kernel > NEGLIGIBLE)
    if len(taps) > _MOST_SHIFTED_TAPS:
        return _correlate_by_fft(images, kernel)
    reach = kernel.shape[0] // 2
    height, width = images.shape[-2:]
    padded = functional.pad(images.float(), (reach,) * 4, mode="reflect")
    result = torch.zeros(images.shape, device=images.device, dtype=torch.float32)
    for y, x in taps.tolist():
        result.add_(padded[..., y : y + height, x : x + width], alpha=kernel[y, x] * GAIN)
    return result


def _correlate_by_fft(images: Tensor, kernel: np.ndarray) -> Tensor:
    """Two planes as the real and the imaginary part of one: the kernel is real, so they do not mix."""
    reach = kernel.shape[0] // 2
    height, width = images.shape[-2:]
    planes = functional.pad(images.float(), (reach,) * 4, mode="reflect").flatten(0, 1)
    size = _fast_length(planes.shape[1]), _fast_length(planes.shape[2])
    transfer = torch.fft.fft2(on_device(kernel * GAIN, images.device), s=size).conj_physical()
    pairs = 1 if images.device.type == "cpu" else -(-len(planes) // 2)  # one at a time stays in a CPU's cache
    halves = slice(None, pairs), slice(-pairs, None)  # of an odd number, the one in the middle is in both
    parts = torch.zeros(pairs, *size, 2, device=images.device, dtype=wide_float(images.device))
    result = torch.empty(len(planes), height, width, device=images.device, dtype=torch.float32)
    for some, places in zip(planes.split(2 * pairs), result.split(2 * pairs), strict=True):
        for part, half in enumerate(halves):
            parts[:, : some.shape[1], : some.shape[2], part] = some[half]
        spectrum = torch.fft.fft2(torch.view_as_complex(parts)).mul_(transfer)
        blurred = torch.view_as_real(torch.fft.ifft2(spectrum))
        for part, half in enumerate(halves):
            places[half] = blurred[:, :height, :width, part]
    return result.view(images.shape)


def _fast_length(length: int) -> int:
    """The next length whose only prime factors are 2 and 3."""
    while math.gcd(length, 2**20 * 3**12) != length:
        length += 1
    return length


def line_blur(images: Tensor, angles: Tensor, radius: float, sigma: float) -> Tensor:
    """ImageMagick's motion blur: a one-sided Gaussian along a line, each image at its own angle, edges replicated.

    Args:
        images: (N, C, H, W), any real dtype.
        angles: (N,) in degrees.
        radius: Of the kernel, which has 2 * ceil(radius) + 1 taps.
        sigma: Standard deviation along the line, in pixels.

    Returns:
        float32 (N, C, H, W).
    """
    weights = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2 * sigma**2))
    weights = weights / weights.sum()
    weights = weights[weights > 1e-5]
    weights *= GAIN / weights.sum()

    reach = len(weights) - 1
    padded = functional.pad(images.float(), (reach,) * 4, mode="replicate")
    row = padded.shape[3]
    radians = angles.to(wide_float(images.device)).deg2rad()[:, None]
    steps = torch.arange(len(weights), device=images.device)
    shifts = (steps * radians.sin() - 0.5).ceil() * row + (steps * radians.cos() - 0.5).ceil()
    firsts = shifts.long() + reach * (row + 1)
    if images.device.type == "cpu" and images[:1].numel() > _MOST_GATHERED:
        return _sum_of_views(padded, firsts, weights, images.shape)
    return _sum_of_gathers(padded, firsts, weights, images.shape)


def _sum_of_views(padded: Tensor, firsts: Tensor, weights: np.ndarray, shape: torch.Size) -> Tensor:
    """Weighted sum of shifted images, image by image: few values at a time, each quickly.

    Args:
        padded: (N, C, H + margins, W + margins) float32.
        firsts: (N, taps) int64: from where in a padded plane the top left pixel takes each tap.
        weights: (taps,).
        shape: (N, C, H, W), of the result.
    """
    result = torch.zeros(shape, dtype=torch.float32)
    for source, target, starts in zip(padded, result, firsts.tolist(), strict=True):
        for start, weight in zip(starts, weights, strict=True):
            shifted = source.as_strided(target.shape, source.stride(), source.storage_offset() + start)
            target.add_(shifted, alpha=weight)
    return result


def _sum_of_gathers(padded: Tensor, firsts: Tensor, weights: np.ndarray, shape: torch.Size) -> Tensor:
    """The same for all images at once: many values at a time, each slowly."""
    count, channels, height, width = shape
    device = padded.device
    pixels = torch.arange(height, device=device)[:, None] * padded.shape[3] + torch.arange(width, device=device)
    planes = padded.flatten(2)
    result = torch.zeros(shape, device=device, dtype=torch.float32)
    for first, weight in zip(firsts.split(1, 1), weights, strict=True):
        places = (pixels.flatten() + first)[:, None].expand(count, channels, -1)
        result.add_(planes.gather(2, places).view(shape), alpha=weight)
    return result


def clipped_zoom(planes: Tensor, factor: float, scratch: Tensor | None = None) -> Tensor:
    """Enlarge the centre linearly and cut it back to the size it had.

    Args:
        planes: (H, W, M), float32: M planes, innermost, so that rows and columns move as blocks.
        factor: At least 1.
        scratch: (3, H, W, M), to work in. Fresh memory costs more than the arithmetic: give it when calling repeatedly.

    Returns:
        (H, W, M), a part of `scratch`.
    """
    rows, columns, other = planes.new_empty(3, *planes.shape) if scratch is None else scratch
    for dim, source, result in ((0, planes, rows), (1, rows, columns)):
        low, high, share = (on_device(a, planes.device) for a in _zoom_positions(planes.shape[dim], factor))
        torch.index_select(source, dim, low, out=result)
        torch.index_select(source, dim, high, out=other)
        torch.lerp(result, other, share.view((-1, 1) if dim else (-1, 1, 1)), out=result)
    return columns


@lru_cache(maxsize=256)
def _zoom_positions(size: int, factor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output position of a clipped zoom: the two input positions and the share of the second."""
    crop = math.ceil(size / factor)
    enlarged = round(crop * factor)
    positions = (np.arange(size) + (enlarged - size) // 2) * ((crop - 1) / max(enlarged - 1, 1))
    low = np.minimum(np.floor(positions).astype(np.int64), crop - 1)
    high = np.minimum(low + 1, crop - 1)
    start = (size - crop) // 2
    return low + start, high + start, (positions - low).astype(np.float32)
