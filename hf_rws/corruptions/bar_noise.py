"""Patterns laid over the image: blue and brownish noise, waves, Perlin noise and plasma (see `bar`)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hf_rws.corruptions._caching import keep_within
from hf_rws.corruptions.bar import columns_of, level, pixels, published, resampled
from hf_rws.corruptions.definition import Corruption, Draws
from hf_rws.corruptions.filters import number, on_device, wide_float
from hf_rws.corruptions.randomness import RandomSource

_KEPT_BYTES = 2**22
_TABLE = 256  # entries of Perlin's tables
_OCTAVES = (1, 2, 4, 8, 16)
_CELL = 32 / 224  # of the lattice of the first octave, in sides
_MOST_BENDS = 6  # of a plasma


def _draw_phases(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    return (source.uniform(1, shape[1] * shape[2] // 2),)


def _draw_phases_of_channels(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    return (source.uniform(shape[0], shape[1] * shape[2] // 2),)


def _blue_sample(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """Pixels where blue noise is low become black."""
    height, width = images.shape[2:]
    noise = _noise_of_spectrum(draws[0], _distances(height, width))
    return images * (noise > level(severity, 3) - 2.5)


def _brownish(images: Tensor, draws: Draws, severity: float) -> Tensor:
    height, width = images.shape[2:]
    noise = _noise_of_spectrum(draws[0], 1 / (_distances(height, width) ** 2 + 1))
    return noise.mul_(level(severity, 64)).float().add_(images)


def _noise_of_spectrum(uniform: Tensor, amplitudes: np.ndarray) -> Tensor:
    """The real part of what has these amplitudes and random phases, with a deviation of 1.

    Args:
        uniform: (N, C, H * W // 2) in [0, 1), the phases of one half of the frequencies as shares of a turn. The
            other half repeats them backwards, as published.
        amplitudes: (H, W), of the frequencies, the lowest in the middle.

    Returns:
        (N, C, H, W), the widest float of the device: what is thresholded must not depend on the batch's rounding.
    """
    height, width = amplitudes.shape
    turns = uniform.to(wide_float(uniform.device))
    middle = turns.new_zeros(*turns.shape[:2], height * width % 2)
    phases = torch.cat((turns, middle, turns.flip(2)), 2).mul_(2 * math.pi).view(*turns.shape[:2], height, width)
    lowest_first = height // 2, width // 2
    phases = phases.roll(lowest_first, (2, 3))
    rolled = on_device(np.roll(amplitudes, lowest_first, (0, 1)), uniform.device)
    noise = torch.fft.ifft2(torch.polar(rolled.expand_as(phases), phases)).real
    return noise / noise.std((2, 3), correction=0, keepdim=True)


@keep_within(_KEPT_BYTES)
def _distances(height: int, width: int) -> np.ndarray:
    """(H, W) float64: of each frequency from the middle one, in steps of the shorter side."""
    shorter = min(height, width)
    y, x = np.mgrid[:height, :width]
    return np.hypot((y - height / 2) * (shorter / height), (x - width / 2) * (shorter / width))


def _draw_wave(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """Two frequencies, their order, and the phase, as shares."""
    return (source.uniform(4),)


def _single_frequency(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """One plane wave. Its two frequencies are in radians a pixel; the second is at most as large as the first."""
    one, other, order, phase = columns_of(draws[0])
    one = (2 * one - 1) * math.pi
    other = (2 * other - 1) * one.abs()
    swapped = order < 0.5
    along, down = torch.where(swapped, other, one), torch.where(swapped, one, other)
    height, width = images.shape[2:]
    rows, columns = pixels(height, width, images.device)
    across = columns * along + 2 * math.pi * phase
    rows = rows * down
    wave = (across.sin() * rows.cos()).add_(across.cos() * rows.sin())  # sin(across + rows), with fewer sines
    return wave.mul_(level(severity, 196)).float()[:, None] + images


def _draw_rings(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """The centre's column and row, how often the rings wave, how far, and their width, as shares."""
    return (source.uniform(5),)


def _cocentric_waves(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """Rings around a point, each a ramp, whose radius waves with the angle."""
    height, width = images.shape[2:]
    tenth = min(height, width) / 10
    column, row, waves, amplitude, ring = columns_of(draws[0])
    rows, columns = pixels(height, width, images.device)
    y, x = rows - row * height, columns - column * width
    wobble = (torch.atan2(x, y) * (10 * waves)).sin_().mul_(amplitude * tenth)
    ring = (ring * tenth).clamp(min=1e-6)
    ramp = (y * y + x * x).sqrt_().add_(wobble).remainder_(ring).div_(ring).sub_(0.5)
    return ramp.mul_(level(severity, 128)).float()[:, None] + images


def _draw_tables(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """For Perlin's tables: what orders the permutation, and the two coordinates of the gradients."""
    return (source.words(3, _TABLE),)


def _perlin(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """Blend with turbulence: the absolute values of five octaves of Perlin's noise of 1985, each half as strong."""
    height, width = images.shape[2:]
    keys, *coordinates = draws[0].unbind(1)
    permutation = keys.argsort(dim=1, stable=True)
    vectors = [((part % (2 * _TABLE)) - _TABLE).float() for part in coordinates]
    length = (vectors[0].square() + vectors[1].square()).sqrt_().clamp_(min=1)
    gradients = [(part / length).gather(1, permutation) for part in vectors]
    turbulence = torch.zeros(len(images), height, width, device=images.device, dtype=torch.float32)
    for octave in _OCTAVES:
        noise = _perlin_noise(permutation, gradients, octave, height, width)
        turbulence.add_(noise.abs_(), alpha=1.5 / octave)
    pattern = turbulence.mul_(0.5).add_(0.5).clamp_(0, 1)
    share = level(severity, 0.5)
    return (images * number(1 - share)).add_(pattern[:, None], alpha=255 * share)


def _perlin_noise(permutation: Tensor, gradients: list[Tensor], octave: int, height: int, width: int) -> Tensor:
    """Smooth noise that is 0 at the points of a lattice and has random slopes there.

    Args:
        permutation: (N, 256) int64; the slope at (i, j) is the one at permutation[i] + j.
        gradients: Both coordinates, (N, 256) float32, of the slopes.
        octave: How many points there are for one of the coarsest lattice.
        height: Of the image.
        width: Of the image.

    Returns:
        (N, H, W) float32.
    """
    device, step = permutation.device, octave / (_CELL * min(height, width))
    (rows, below, sloped_down, plain_down), (columns, beside, sloped_along, plain_along) = (
        tuple(on_device(part, device) for part in _lattice(size, step)) for size in (height, width)
    )
    places = (permutation.index_select(1, rows)[:, :, None] + columns).bitwise_and_(_TABLE - 1)
    down, along = (part.gather(1, places.flatten(1)).view(places.shape) for part in gradients)
    down = resampled(resampled(down, 1, below, sloped_down), 2, beside, plain_along)
    return down.add_(resampled(resampled(along, 1, below, plain_down), 2, beside, sloped_along))


@lru_cache(maxsize=64)
def _lattice(size: int, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where the pixels of one direction lie between the points of a lattice.

    Args:
        size: Pixels.
        step: Points a pixel.

    Returns:
        The points that are needed (P,) int64, modulo the size of the tables; which of them are before and after each
        pixel, (2, size) int64; their weights times the distance from them, and their weights, (2, size) float32.
    """
    at = np.arange(size) * step
    low = np.floor(at).astype(np.int64)
    points, places = np.unique(np.stack((low, low + 1)), return_inverse=True)
    part = at - low
    smooth = part**2 * (3 - 2 * part)
    weights = np.stack((1 - smooth, smooth))
    sloped = weights * np.stack((part, part - 1))
    return points % _TABLE, places.reshape(2, size), sloped.astype(np.float32), weights.astype(np.float32)


def _draw_plasma(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """Time, iterations, sharpness and scale, as shares."""
    return (source.uniform(4),)


def _plasma(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """Blend with coloured waves that bend each other, four to six times over."""
    height, width = images.shape[2:]
    time, iterations, sharpness, scale = columns_of(draws[0])
    time, iterations = 6 * math.pi * time, (4 + 3 * iterations).floor()
    fading = 2.25 - (0.5 + 0.5 * sharpness)
    scale = (0.075 + 0.125 * scale) * min(height, width)
    rows, columns = pixels(height, width, images.device)
    y, x = (rows / scale).expand(-1, -1, width), (columns / scale).expand(-1, height, -1)
    frequency, slowing, fade = 1.0, 1.0, torch.ones_like(fading)
    for i in range(_MOST_BENDS):
        strength = (i < iterations) / fade
        right = (y * frequency).add_(time / slowing).cos_().mul_(strength)
        down = (x * frequency).add_(time / slowing).sin_().mul_(strength)
        x, y = (x + right).sub_(down, alpha=0.3), (y + down).add_(right, alpha=0.3)
        frequency, slowing, fade = frequency * 1.93, slowing * 1.15, fade * fading
    waves = torch.stack(((x - time).sin_(), (x + y).add_(time.sin()).mul_(0.5).sin_(), (y + time).sin_()), 1)
    added = level(severity, 64)
    return (images * number(1 - added / 255)).add_(waves.float(), alpha=added)


_BLUE = published((0.7, 1.4, 2.1, 3.5, 4.2), (0.8, 1.6, 2.4, 4, 5.6))
_BROWNISH = published((2.5, 4, 5.5, 6.5, 7), (1, 2, 3, 4, 5))
blue_noise_sample = Corruption("blue_noise_sample", _BLUE, _blue_sample, _draw_phases)
brownish_noise = Corruption("brownish_noise", _BROWNISH, _brownish, _draw_phases_of_channels)
single_frequency_greyscale = Corruption(
    "single_frequency_greyscale", published(imagenet=(1, 1.5, 2, 4.5, 5)), _single_frequency, _draw_wave
)
cocentric_sine_waves = Corruption(
    "cocentric_sine_waves", published(imagenet=(3, 5, 8, 9, 10)), _cocentric_waves, _draw_rings
)
perlin_noise = Corruption("perlin_noise", published(imagenet=(4.6, 5.2, 5.8, 7.6, 8.8)), _perlin, _draw_tables)
plasma_noise = Corruption(
    "plasma_noise", published(imagenet=(4.75, 7, 8.5, 9.25, 10)), _plasma, _draw_plasma, needs_colour=True
)
