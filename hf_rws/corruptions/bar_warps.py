"""What moves or merges pixels: ripples, pinches and twirls, refraction, turning and zooming channels (see `bar`)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hf_rws.corruptions._caching import keep_within
from hf_rws.corruptions.bar import columns_of, level, pixels, published, resampled, sample
from hf_rws.corruptions.definition import Corruption, Draws
from hf_rws.corruptions.filters import GAIN, NEGLIGIBLE, gaussian_blur, on_device
from hf_rws.corruptions.randomness import RandomSource

_TURNS = 21
_DISCS = 3  # in each direction of a square image
_MOST_SHIFTED_PIXELS = 64 * 64  # of an image
_KEPT_BYTES = 2**25


def _circular_blur(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """The weighted mean of the image turned by 21 angles: cubic splines, black outside, SciPy's `rotate`."""
    height, width = images.shape[2:]
    coefficients = _spline_coefficients(images)
    if height * width <= _MOST_SHIFTED_PIXELS:
        return _turned_by_shifts(coefficients, severity)
    return _turned_by_gathers(coefficients, severity)


def _turned_by_shifts(coefficients: Tensor, severity: float) -> Tensor:
    """A sum of shifted images, each weighted pixel by pixel: all angles at once."""
    height, width = coefficients.shape[2:]
    shifts, boxes, maps = _turning_maps(height, width, severity)
    reach = int(np.abs(shifts).max())
    padded = functional.pad(coefficients, (reach,) * 4, mode="reflect")
    result = torch.zeros_like(coefficients)
    weights = on_device(maps, result.device)
    for (y, x), (top, bottom, left, right), weight in zip(shifts.tolist(), boxes.tolist(), weights, strict=True):
        shifted = padded[..., reach + y + top : reach + y + bottom, reach + x + left : reach + x + right]
        result[..., top:bottom, left:right] += shifted * weight[top:bottom, left:right]
    return result


def _turned_by_gathers(coefficients: Tensor, severity: float) -> Tensor:
    """One angle after the other: for large images, where most pixels of the maps would be 0."""
    count, channels, height, width = coefficients.shape
    planes = coefficients.permute(2, 3, 0, 1).reshape(height * width, -1).contiguous()
    result = torch.zeros_like(planes)
    for degrees, share in _turns(severity):
        rows, columns, weights = _turned_taps(height, width, degrees)
        places = on_device(_mirrored(rows, height) * width + _mirrored(columns, width), planes.device)
        shares = on_device((weights * share).astype(np.float32), planes.device)
        for place, weight in zip(places, shares, strict=True):
            result.add_(planes.index_select(0, place).mul_(weight[:, None]))
    return result.view(height, width, count, channels).permute(2, 3, 0, 1)


def _turns(severity: float) -> list[tuple[float, float]]:
    """Angles in degrees, and their weights."""
    at = np.linspace(-1, 1, _TURNS)
    weights = np.exp(-2 * at**2)
    return list(zip((at * level(severity, 15)).tolist(), (weights / weights.sum() * GAIN).tolist(), strict=True))


@keep_within(_KEPT_BYTES)
def _turning_maps(height: int, width: int, severity: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a circular motion blur takes each pixel from.

    Returns:
        Shifts, (K, 2) int64; for each the rows and columns where it counts, from and to, (K, 4) int64; and how much it
        counts at each pixel, (K, H, W) float32.
    """
    count = height * width
    places = np.arange(count)
    reach = math.ceil(math.hypot(height, width) * math.sin(math.radians(level(severity, 15)) / 2)) + 2
    side = 2 * reach + 1
    sums = np.zeros((side * side, count))
    for degrees, share in _turns(severity):
        for row, column, weight in zip(*_turned_taps(height, width, degrees), strict=True):
            shift = (row - places // width + reach) * side + column - places % width + reach
            used = weight > 0
            sums[shift[used], places[used]] += weight[used] * share
    kept = (sums > NEGLIGIBLE).any(1).nonzero()[0]
    maps = sums[kept].reshape(-1, height, width)
    boxes = []
    for part in maps:
        (rows,), (columns,) = part.any(1).nonzero(), part.any(0).nonzero()
        boxes.append((rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    shifts = np.stack((kept // side, kept % side), 1) - reach
    return shifts, np.array(boxes), maps.astype(np.float32)


def _turned_taps(height: int, width: int, degrees: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sixteen pixels around where each pixel of a turned image comes from.

    Returns:
        Rows and columns, (16, H * W) int64, up to 2 outside the image, and weights, float64.
    """
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    centre = np.array(((height - 1) / 2, (width - 1) / 2))
    y, x = (part.ravel() for part in np.mgrid[:height, :width])
    rows = cosine * (y - centre[0]) + sine * (x - centre[1]) + centre[0]
    columns = cosine * (x - centre[1]) - sine * (y - centre[0]) + centre[1]
    inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    (row, of_rows), (column, of_columns) = _spline_taps(rows), _spline_taps(columns)
    shape = (16, height * width)
    return (
        np.broadcast_to(row[:, None], (4, 4, shape[1])).reshape(shape),
        np.broadcast_to(column[None], (4, 4, shape[1])).reshape(shape),
        (of_rows[:, None] * of_columns[None] * inside).reshape(shape),
    )


def _spline_taps(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four points around each position, (4, P) int64, and the cubic B-spline's weights, float64."""
    low = np.floor(positions).astype(np.int64)
    part = positions - low
    rest = 1 - part
    weights = np.stack((rest**3, 4 - 3 * part**2 * (1 + rest), 4 - 3 * rest**2 * (1 + part), part**3)) / 6
    return np.stack((low - 1, low, low + 1, low + 2)), weights


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """cb|abc."""
    index = np.abs(index)
    return np.minimum(index, 2 * size - 2 - index)


def _spline_coefficients(images: Tensor) -> Tensor:
    """What a cubic spline through the pixels of (N, C, H, W) uint8 images is made of; edges mirrored; float32."""
    vertical, horizontal = (on_device(_spline_matrix(size), images.device) for size in images.shape[2:])
    return (vertical @ images.to(vertical.dtype) @ horizontal.mT).float()


@lru_cache(maxsize=16)
def _spline_matrix(size: int) -> np.ndarray:
    """(size, size) float64: coefficients of pixels."""
    places = np.arange(size)
    pixels_of_coefficients = np.zeros((size, size))
    for step, weight in ((-1, 1 / 6), (0, 4 / 6), (1, 1 / 6)):
        np.add.at(pixels_of_coefficients, (places, _mirrored(places + step, size)), weight)
    return np.linalg.inv(pixels_of_coefficients)


def _draw_signs(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """Which way each disc turns: a share each."""
    rows, columns = _disc_rows_columns(*shape[1:])
    return (source.uniform(rows, columns),)


def _disc_rows_columns(height: int, width: int) -> tuple[int, int]:
    side = min(height, width) // _DISCS
    return height // side, width // side


def _pinch_and_twirl(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """Three by three discs, each pinched and turned; in an image that is not square, as many as there is room for."""
    height, width = images.shape[2:]
    y, x, angle, disc = (on_device(part, images.device) for part in _twirls(height, width, severity))
    signs = draws[0].flatten(1).lt(0.5).to(y.dtype).mul(2).sub_(1)
    angle = signs.index_select(1, disc.flatten()).view(-1, *disc.shape) * angle
    sine, cosine = angle.sin(), angle.cos()
    rows, columns = pixels(height, width, images.device)
    centre_y, centre_x = rows - y[0], columns - x[0]
    moved = sample(images, centre_y + (y[1] * cosine - x[1] * sine), centre_x + (y[1] * sine + x[1] * cosine))
    return torch.where(y[1].eq(y[0]).logical_and_(x[1].eq(x[0])), images, moved)


@keep_within(_KEPT_BYTES)
def _twirls(height: int, width: int, severity: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel, how it lies in its disc.

    Returns:
        Rows and columns from the centre, as they are and pinched, (2, H, W) float64 each (the same where the pixel
        stays where it is); the angle, (H, W) float64; and the number of the disc, (H, W) int64.
    """
    side = min(height, width) // _DISCS
    radius = side / 2
    down, across = _disc_rows_columns(height, width)
    places = np.mgrid[:height, :width]
    cells = np.minimum(places // side, np.array((down, across)).reshape(2, 1, 1) - 1)
    offsets = places - (cells * side + radius)
    distance = np.hypot(*offsets)
    inside = (distance <= radius) & (distance.round(3) > 0)
    share = np.where(inside, distance / radius, 1)
    pinched = offsets * np.sin(np.pi / 2 * share) ** -(level(severity, 0.4) + 0.1)
    pinched = np.where(inside, pinched, offsets)
    angle = level(severity, np.pi / 2) * (1 - share) ** 2
    y, x = (np.stack(pair) for pair in zip(offsets, pinched, strict=True))
    return y, x, angle, cells[0] * across + cells[1]


def _draw_ripple(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """The wavelengths of rows and columns, and their phases, as shares."""
    return (source.uniform(4),)


def _ripple(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """Rows move by a sine of the row, columns by a sine of the column."""
    height, width = images.shape[2:]
    side = min(height, width)
    lengths, phases = columns_of(draws[0])[:2], columns_of(draws[0])[2:]
    y, x = (
        place + (place / (0.1 + 0.2 * length) / side + phase).mul_(2 * math.pi).sin_() * (level(severity, 0.025) * side)
        for place, length, phase in zip(pixels(height, width, images.device), lengths, phases, strict=True)
    )
    return sample(images, y.expand(-1, -1, width), x.expand(-1, height, -1))


def _draw_order(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """What orders the channels."""
    return (source.uniform(3),)


def _chromatic(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """One channel is as large as before, one larger, one larger still, and all are cut to the middle.

    As published, the pixels serve as coefficients of a cubic spline, so even the first comes out blurred; levels are
    rounded.
    """
    channels = draws[0].argsort(dim=1, stable=True)[..., None, None].expand_as(images)
    ordered = images.gather(1, channels).float()
    zoomed = [_zoomed(plane, 1 + i * level(severity, 0.5) / 2) for i, plane in enumerate(ordered.unbind(1))]
    levels = torch.stack(zoomed, 1).add_(0.5).floor_()
    return torch.empty_like(levels).scatter_(1, channels, levels)


def _zoomed(planes: Tensor, factor: float) -> Tensor:
    """The middle of enlarged (N, H, W) planes."""
    for dim in (1, 2):
        places, weights = (on_device(part, planes.device) for part in _zoom_taps(planes.shape[dim], factor))
        planes = resampled(planes, dim, places, weights)
    return planes


@lru_cache(maxsize=64)
def _zoom_taps(size: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """The four pixels that make each, (4, size) int64, and their weights, (4, size) float32."""
    enlarged = round(size * factor)
    positions = (np.arange(size) + (enlarged - size) // 2) * ((size - 1) / (enlarged - 1))
    places, weights = _spline_taps(positions)
    return _mirrored(places, size), weights.astype(np.float32)


def _draw_caustics(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """Time and size, as shares."""
    return (source.uniform(2),)


def _caustic_refraction(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """Seen through moving water: light and shadow of its surface, and pixels moved as its slopes bend the view."""
    height, width = images.shape[2:]
    side = min(height, width)
    time, size = columns_of(draws[0])
    surface = _caustics(0.5 + 1.5 * time, (0.75 + 0.5 * size) * side, height, width)
    surface = gaussian_blur(surface, 1, border="reflect").to(surface.dtype)
    surface = functional.pad(surface, (1, 1, 1, 1))
    down, along = surface[:, 2:, 1:-1] - surface[:, :-2, 1:-1], surface[:, 1:-1, 2:] - surface[:, 1:-1, :-2]
    steepness = torch.hypot(down, along)
    upright = (1 + steepness * steepness).rsqrt_()
    sine = steepness * upright
    bent = torch.asin(sine) - torch.asin(sine / 4)  # by a medium four times as dense
    step = bent.sin_().mul_(level(severity, 0.5) * side).div_(steepness.clamp(min=1e-12))
    step.mul_(upright.lt(1 - 1e-3))  # light that comes straight goes on straight
    rows, columns = pixels(height, width, images.device)
    y, x = ((step * slope).mul_(1000).round_().div_(1000) for slope in (down, along))
    moved = sample(images, y + rows, x + columns)
    return moved.add_((down - along).mul_(255 * level(severity, 2)).float()[:, None])


def _caustics(time: Tensor, size: Tensor, height: int, width: int) -> Tensor:
    """A net of light as on the floor of a pool.

    Args:
        time: (N, 1, 1).
        size: (N, 1, 1), of the net's period in pixels.
        height: Of the image.
        width: Of the image.

    Returns:
        (N, H, W) in [0, 1], the widest float of the device.
    """
    rows, columns = pixels(height, width, time.device)
    places = [(place / size).remainder_(1).mul_(2 * math.pi).sub_(250) for place in (rows, columns)]
    squares = [place.square() for place in places]
    turns = list(places)
    brightness = torch.ones_like(time)
    for i in range(1, 6):
        t = time * (1 - 3.5 / i)
        sine, cosine = t.sin(), t.cos()
        (sine_0, cosine_0), (sine_1, cosine_1) = ((turn.sin(), turn.cos()) for turn in turns)
        turns = [
            # cos(t - turn_0) + sin(t + turn_1), and sin(t - turn_1) + cos(t + turn_0)
            places[0] + (cosine * cosine_0 + sine * sine_0) + (sine * cosine_1 + cosine * sine_1),
            places[1] + (sine * cosine_1 - cosine * sine_1) + (cosine * cosine_0 - sine * sine_0),
        ]
        length = (squares[0] / (turns[0] + t).sin_().square_()).add_(squares[1] / (turns[1] + t).cos_().square_())
        brightness = brightness + length.rsqrt_().div_(0.005)
    light = 1.17 - (brightness / 5).pow_(1.4)
    return light.square_().square_().square_().clamp_(max=1)


circular_motion_blur = Corruption("circular_motion_blur", published((2.8, 3.6, 4.4, 5.2, 6)), _circular_blur)
pinch_and_twirl = Corruption("pinch_and_twirl", published((5.5, 6, 6.5, 8.5, 10)), _pinch_and_twirl, _draw_signs)
ripple = Corruption("ripple", published((5.5, 6, 6.5, 7.5, 8)), _ripple, _draw_ripple)
transverse_chromatic_abberation = Corruption(
    "transverse_chromatic_abberation", published((1, 2, 5, 9, 10)), _chromatic, _draw_order, needs_colour=True
)
caustic_refraction = Corruption(
    "caustic_refraction", published(imagenet=(2.35, 3.2, 4.9, 6.6, 9.15)), _caustic_refraction, _draw_caustics
)
