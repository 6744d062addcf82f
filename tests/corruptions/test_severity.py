"""The mean distance to the clean image moves from severity to severity as the published constants say."""

import io
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from hf_rws._choices import SEVERITIES
from hf_rws.corruptions import CORRUPTIONS, corrupt
from hf_rws.corruptions.randomness import ImageSource
from hf_rws.corruptions.registry import find

SAMPLE = Path(__file__).parents[2] / "scripts" / "quickstart" / "cifar10-sample" / "test-00000-of-00001.parquet"
MARGIN = 1.02  # of one distance over another that counts as larger

# Severities in chains of growing distance; the constants do not decide the order within "~", nor between chains.
GROWING = "1<2<3<4<5"
ORDER = {
    # Each pixel moves sqrt(E[step^2]): 0.7 px with (delta, rounds) of (1, 1), 1.2 with (1, 2) and (2, 1), 1.9 with
    # (2, 2), 2.4 with (2, 3), 2.6 with (3, 2), 3.4 with (4, 2). Blurring works against the distance.
    "glass_blur": {"cifar": "1~2~3<4~5", "tiny-imagenet": "1~2<3~4<5", "imagenet": "1~2<3~4<5"},
    # A radius of 8 after 6 at a sigma of 2 adds weights below 1e-9.
    "motion_blur": {"cifar": "1<2<3=4<5"},
    # A threshold of 0.9 after 0.5 lets fewer flakes through, but brighter ones.
    "snow": {"imagenet": "1<2~3<4<5"},
    # On black images the weight of the frost alone.
    "frost": {"cifar": "1<2<3=4<5", "imagenet": "1<2<3=4<5"},
    # By amount / (amount + 1): 0.60 0.67 0.71 0.71 0.75. A smaller decay makes the fog rougher instead.
    "fog": {"imagenet": "1<2<3~4<5"},
    # The affine steps shrink as the local ones grow: in pixels and root mean square (1.5, 0.0) (1.3, 0.0) (1.1, 0.2)
    # (0.9, 0.4) (0.6, 0.5); (3.0, 0.0) (2.2, 0.0) (2.2, 0.2) (1.1, 0.5) (0.7, 0.9); (14, 0.5) (28, 4) (2.8, 0.8)
    # (2.8, 1.1) (2.8, 1.9).
    "elastic_transform": {"cifar": "5<4<3<2<1", "tiny-imagenet": "5<4<2~3<1", "imagenet": "3~4~5<1<2"},
    # Water, then mud.
    "spatter": dict.fromkeys(("cifar", "tiny-imagenet", "imagenet"), "1<2<3, 4<5"),
    # Paler, then more colourful.
    "saturate": dict.fromkeys(("cifar", "tiny-imagenet", "imagenet"), "1<2, 3<4<5"),
}
# Side of a set's images (its own, or, not to take long, a smaller one), and how many.
SIDE_AND_COUNT = {"cifar": (32, 150), "tiny-imagenet": (64, 40), "imagenet": (112, 16)}


@cache
def photographs(side, count):
    """(N, 3, side, side) uint8: test images of CIFAR-10, continued by their mirror images."""
    rows = pyarrow.parquet.read_table(SAMPLE).slice(0, count)["img"].to_pylist()
    images = np.stack([np.array(Image.open(io.BytesIO(row["bytes"]))) for row in rows]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.pad(images, ((0, 0), (0, 0), (0, side - 32), (0, side - 32)), mode="symmetric"))


@cache
def distances(name, parameters):
    """For each severity the mean distance in grey levels, all severities with the same draws."""
    images = photographs(*SIDE_AND_COUNT[parameters])
    if name == "frost":
        images = torch.zeros_like(images)
    corruption = find(name)
    result = []
    for constants in corruption.constants[parameters]:
        source = ImageSource(0, name, 0, range(len(images)), images.device)
        found = corruption.apply(images, corruption.draw(source, images.shape[1:], constants), constants)
        result.append((found.float().clamp(0, 255).floor() - images).abs().mean().item())
    return result


@pytest.mark.parametrize("parameters", SIDE_AND_COUNT)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_order(name, parameters):
    change = dict(zip("12345", distances(name, parameters), strict=True))
    assert min(change.values()) > 0
    for chain in ORDER.get(name, {}).get(parameters, GROWING).replace(" ", "").split(","):
        groups = chain.split("<")
        for lower, higher in pairwise(groups):
            for a in lower.replace("=", "~").split("~"):
                for b in higher.replace("=", "~").split("~"):
                    assert change[b] > MARGIN * change[a], (a, b, change)
        for group in groups:
            same = [change[severity] for severity in group.split("=")] if "=" in group else [0]
            assert max(same) - min(same) < 1e-3


@pytest.mark.parametrize("parameters", SIDE_AND_COUNT)
def test_saturate_weakens_colours_and_then_strengthens_them(parameters):
    images = photographs(*SIDE_AND_COUNT[parameters])

    def colourfulness(images):
        return (images.amax(1) - images.amin(1)).float().mean().item()

    first, second, *others = (
        colourfulness(corrupt(images, "saturate", severity, parameters=parameters)) for severity in SEVERITIES
    )
    chain = [second, first, colourfulness(images), *others]
    assert all(b > MARGIN * a for a, b in pairwise(chain))
