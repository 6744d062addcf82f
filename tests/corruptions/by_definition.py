"""What the definitions make of images, with the random draws of the library."""

import numpy as np
import torch
from PIL import Image

from hf_rws.corruptions import BAR, corrupt
from hf_rws.corruptions.frost import picture_paths
from hf_rws.corruptions.randomness import ImageSource
from hf_rws.corruptions.registry import find
from tests.corruptions import reference, reference_bar

# Drawn from tables, not by a formula: what they hold is tested instead.
DRAWN_FROM_TABLES = "shot_noise"


def by_definition(name, images, *, severity, parameters, seed=0):
    """(N, C, H, W) uint8 numpy in and out."""
    if name == DRAWN_FROM_TABLES:
        return corrupt(torch.from_numpy(images), name, severity, seed=seed, parameters=parameters).numpy()
    corruption = find(name)
    constants = corruption.constants[parameters][severity - 1]
    source = ImageSource(seed, name, severity, range(len(images)), torch.device("cpu"))
    draws = corruption.draw(source, images.shape[1:], constants)
    more = ([np.array(Image.open(path)) for path in picture_paths()],) if name == "frost" else ()
    define = getattr(reference_bar if name in BAR else reference, name)
    results = [
        define(image, tuple(draw[i].numpy() for draw in draws), constants, *more) for i, image in enumerate(images)
    ]
    return np.clip(results, 0, 255).astype(np.uint8)
