"""Images and photographs of frost for the tests, from arithmetic alone."""

from pathlib import Path

import numpy as np
from PIL import Image

# The size at which each parameter set is compared: its own, or (not to take minutes) a smaller one, not square.
SIZES = {"cifar": (32, 32), "tiny-imagenet": (64, 64), "imagenet": (72, 100)}


def pictures(count, height=32, width=32, channels=3, seed=0):
    """(N, C, H, W) uint8: smooth colours, edges, flat black and white areas, some noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / min(height, width)
    result = np.empty((count, channels, height, width), np.uint8)
    for i in range(count):
        a, b, c, d = random.normal(size=(4, channels, 1, 1)) * 4
        image = 128 + 90 * np.sin(a * x + b * y + c) * np.cos(d * x * y - a)
        image += random.normal(size=image.shape) * random.choice([0, 12])
        left, top = random.uniform(0, 0.7, 2)
        image[:, (abs(x - left) < 0.2) & (abs(y - top) < 0.2)] = random.choice([0, 255])
        result[i] = image.clip(0, 255)
    return result


def write_frost(folder: Path, count=5):
    """Pictures of several sizes, large enough for `SIZES` after each resize; returns them in the order of use."""
    random = np.random.default_rng(1)
    written = []
    for i in range(count):
        height, width = 230 + 10 * i, 280 - 8 * i
        coarse = random.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"frost{i + 1}.png")
        written.append(np.array(picture))
    return written
