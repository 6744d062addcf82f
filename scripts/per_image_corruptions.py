"""The 19 corruptions image by image, with NumPy, SciPy, scikit-image, OpenCV and Pillow, for `bench_corruptions.py`.

The same definitions and constants as `hf_rws.corruptions`, in the style of the published scripts and with the calls
that they make; only motion blur is NumPy here, where they call ImageMagick. Frost's pictures are read and resized once.
"""

import math
from functools import cache

import cv2
import numpy as np
from per_image_plain import (  # noqa: F401 (all 19 are to be found here)
    contrast,
    fog,
    gaussian_noise,
    jpeg_compression,
    pixelate,
    random,
    shot_noise,
    speckle_noise,
    to_bytes,
)
from scipy.ndimage import map_coordinates, zoom
from skimage.color import hsv2rgb, rgb2hsv
from skimage.filters import gaussian
from skimage.util import random_noise

from hf_rws.corruptions.frost import picture_paths


def impulse_noise(x: np.ndarray, amount: float) -> np.ndarray:
    return to_bytes(random_noise(x / 255.0, mode="s&p", amount=amount))


def gaussian_blur(x: np.ndarray, sigma: float) -> np.ndarray:
    return to_bytes(gaussian(x / 255.0, sigma=sigma, channel_axis=-1))


def glass_blur(x: np.ndarray, constants: tuple[float, int, int]) -> np.ndarray:
    sigma, delta, rounds = constants
    x = np.uint8(gaussian(x / 255.0, sigma=sigma, channel_axis=-1) * 255)
    for _ in range(rounds):
        for h in range(x.shape[0] - delta, delta, -1):
            for w in range(x.shape[1] - delta, delta, -1):
                dx, dy = random.integers(-delta, delta, size=2)
                x[h, w] = x[h + dy, w + dx]
    return to_bytes(gaussian(x / 255.0, sigma=sigma, channel_axis=-1))


def disk(radius: float, alias: float) -> np.ndarray:
    line, size = (np.arange(-8, 9), (3, 3)) if radius <= 8 else (np.arange(-radius, radius + 1), (5, 5))
    x, y = np.meshgrid(line, line)
    kernel = np.array(x**2 + y**2 <= radius**2, dtype=np.float32)
    return cv2.GaussianBlur(kernel / kernel.sum(), ksize=size, sigmaX=alias)


def defocus_blur(x: np.ndarray, constants: tuple[float, float]) -> np.ndarray:
    kernel = disk(*constants)
    return to_bytes(np.stack([cv2.filter2D(x[..., i] / 255.0, -1, kernel) for i in range(x.shape[2])], -1))


def motion(x: np.ndarray, radius: float, sigma: float, degrees: float) -> np.ndarray:
    taps = 2 * math.ceil(radius) + 1
    kernel = np.exp(-(np.arange(taps) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    height, width = x.shape[:2]
    padded = np.pad(x.astype(np.float32), ((taps, taps), (taps, taps), (0, 0)), mode="edge")
    total = np.zeros(x.shape, np.float32)
    for i, weight in enumerate(kernel):
        top = taps + math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        left = taps + math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        total += weight * padded[top : top + height, left : left + width]
    return total.astype(np.uint8)


def motion_blur(x: np.ndarray, constants: tuple[float, float]) -> np.ndarray:
    return motion(x, *constants, random.uniform(-45, 45))


def clipped_zoom(x: np.ndarray, factor: float) -> np.ndarray:
    rows, columns = (math.ceil(size / factor) for size in x.shape[:2])
    top, left = (x.shape[0] - rows) // 2, (x.shape[1] - columns) // 2
    large = zoom(x[top : top + rows, left : left + columns], (factor, factor, 1), order=1)
    top, left = (large.shape[0] - x.shape[0]) // 2, (large.shape[1] - x.shape[1]) // 2
    return large[top : top + x.shape[0], left : left + x.shape[1]]


def zoom_blur(x: np.ndarray, constants: tuple[float, float]) -> np.ndarray:
    x = (x / 255.0).astype(np.float32)
    factors = np.arange(1, *constants)
    total = np.zeros_like(x)
    for factor in factors:
        total += clipped_zoom(x, factor)
    return to_bytes((x + total) / (len(factors) + 1))


def snow(x: np.ndarray, constants: tuple[float, ...]) -> np.ndarray:
    location, scale, factor, threshold, radius, sigma, mix = constants
    x = x.astype(np.float32) / 255.0
    layer = clipped_zoom(random.normal(size=x.shape[:2], loc=location, scale=scale)[..., None], factor)
    layer[layer < threshold] = 0
    layer = motion(to_bytes(layer), radius, sigma, random.uniform(-135, -45)) / 255.0
    grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None]
    x = mix * x + (1 - mix) * np.maximum(x, grey * 1.5 + 0.5)
    return to_bytes(x + layer + np.rot90(layer, k=2))


@cache
def frost_pictures(factor: float) -> list[np.ndarray]:
    pictures = [cv2.imread(str(path))[..., ::-1] for path in picture_paths()]
    return [cv2.resize(picture, (0, 0), fx=factor, fy=factor) for picture in pictures]


def frost(x: np.ndarray, constants: tuple[float, float, float]) -> np.ndarray:
    of_image, of_frost, factor = constants
    pictures = frost_pictures(factor)
    picture = pictures[random.integers(len(pictures))]
    top, left = (random.integers(0, picture.shape[i] - x.shape[i]) for i in (0, 1))
    cut = picture[top : top + x.shape[0], left : left + x.shape[1]]
    return np.clip(of_image * x + of_frost * cut, 0, 255).astype(np.uint8)


def brightness(x: np.ndarray, added: float) -> np.ndarray:
    hsv = rgb2hsv(x / 255.0)
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    return to_bytes(hsv2rgb(hsv))


def saturate(x: np.ndarray, constants: tuple[float, float]) -> np.ndarray:
    factor, added = constants
    hsv = rgb2hsv(x / 255.0)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + added, 0, 1)
    return to_bytes(hsv2rgb(hsv))


def elastic_transform(x: np.ndarray, constants: tuple[float, float, float]) -> np.ndarray:
    alpha, sigma, affine = constants
    x = (x / 255.0).astype(np.float32)
    height, width = x.shape[:2]
    centre, square = np.float32((width, height)) // 2, min(height, width) // 3
    before = np.float32([centre + square, [centre[0] + square, centre[1] - square], centre - square])
    after = before + random.uniform(-affine, affine, before.shape).astype(np.float32)
    matrix = cv2.getAffineTransform(before, after)
    x = cv2.warpAffine(x, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    if not alpha:
        return to_bytes(x)
    dx, dy = (
        (gaussian(random.uniform(-1, 1, (height, width)), sigma, mode="reflect", truncate=3) * alpha)[..., None]
        for _ in range(2)
    )
    rows, columns, channels = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return to_bytes(map_coordinates(x, (rows + dy, columns + dx, channels), order=1, mode="reflect"))


def spatter(x: np.ndarray, constants: tuple[float, float, float, float, float, bool]) -> np.ndarray:
    location, scale, sigma, threshold, strength, mud = constants
    x = x.astype(np.float32) / 255.0
    liquid = gaussian(random.normal(size=x.shape[:2], loc=location, scale=scale), sigma=sigma)
    liquid[liquid < threshold] = 0
    if mud:
        mask = gaussian((liquid > threshold).astype(np.float32), sigma=strength)[..., None]
        mask[mask < 0.8] = 0
        return to_bytes(x * (1 - mask) + np.array((63, 42, 20)) / 255.0 * mask)
    liquid = (liquid * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    _, distance = cv2.threshold(distance, 20, 20, cv2.THRESH_TRUNC)
    distance = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    distance = cv2.filter2D(distance, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    mask = (liquid * cv2.blur(distance, (3, 3)).astype(np.float32))[..., None]
    return to_bytes(x + mask / max(mask.max(), 1) * strength * np.array((175, 238, 238)) / 255.0)
