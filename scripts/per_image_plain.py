"""Those corruptions of `per_image_corruptions.py` that need nothing but NumPy and Pillow."""

import io

import numpy as np
from PIL import Image

random = np.random.default_rng(0)


def to_bytes(x: np.ndarray) -> np.ndarray:
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def gaussian_noise(x: np.ndarray, sigma: float) -> np.ndarray:
    x = x / 255.0
    return to_bytes(x + random.normal(size=x.shape, scale=sigma))


def shot_noise(x: np.ndarray, photons: float) -> np.ndarray:
    return to_bytes(random.poisson(x / 255.0 * photons) / photons)


def speckle_noise(x: np.ndarray, sigma: float) -> np.ndarray:
    x = x / 255.0
    return to_bytes(x + x * random.normal(size=x.shape, scale=sigma))


def plasma(side: int, decay: float) -> np.ndarray:
    heights = np.zeros((side, side))
    step, wibble = side, 100.0

    def displaced(total: np.ndarray) -> np.ndarray:
        return total / 4 + wibble * random.uniform(-wibble, wibble, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = displaced(pairs + np.roll(pairs, -1, 1))
        centres = heights[half::step, half::step]
        heights[::step, half::step] = displaced(centres + np.roll(centres, 1, 0) + corners + np.roll(corners, -1, 1))
        heights[half::step, ::step] = displaced(centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 0))
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


def fog(x: np.ndarray, constants: tuple[float, float]) -> np.ndarray:
    amount, decay = constants
    x = x / 255.0
    side = 1 << (max(x.shape[:2]) - 1).bit_length()
    brightest = x.max()
    x = x + amount * plasma(side, decay)[: x.shape[0], : x.shape[1], None]
    return to_bytes(x * brightest / (brightest + amount))


def contrast(x: np.ndarray, factor: float) -> np.ndarray:
    x = x / 255.0
    means = x.mean((0, 1), keepdims=True)
    return to_bytes((x - means) * factor + means)


def pixelate(x: np.ndarray, factor: float) -> np.ndarray:
    height, width = x.shape[:2]
    small = Image.fromarray(x).resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(x: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(x).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
