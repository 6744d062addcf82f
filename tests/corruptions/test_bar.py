"""The corruptions of CIFAR-10-C-bar and ImageNet-C-bar (see `test_seeding` and others for what they share with all)."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import hf_rws
from hf_rws._choices import ALL, SEVERITIES
from hf_rws.corruptions import BAR, CORRUPTIONS, bar_warps, corrupt
from hf_rws.corruptions.mixing import Mixture
from hf_rws.corruptions.randomness import ImageSource
from hf_rws.corruptions.registry import find, spelled_out
from tests.corruptions.by_definition import by_definition
from tests.corruptions.pictures import pictures

GOLDEN = Path(__file__).parents[1] / "data"
IMAGENET_TOO = {"blue_noise_sample", "checkerboard_cutout", "inverse_sparkles", "brownish_noise", "sparkles"}
# Sides, constants and severities at which the definitions are followed pixel by pixel: even and odd, square and not.
WAYS = (((32, 32), "cifar", 5), ((33, 47), "imagenet", 4), ((51, 40), "tiny-imagenet", 3))


def test_which_constants_serve_which_sets():
    for name in BAR:
        constants = find(name).constants
        assert constants["tiny-imagenet"] == constants["cifar"]
        assert (constants["imagenet"] != constants["cifar"]) == (name in IMAGENET_TOO)


@pytest.mark.parametrize("name", BAR)
def test_as_defined(name):
    for size, parameters, severity in WAYS:
        clean = pictures(1, *size, seed=severity)
        expected = by_definition(name, clean, severity=severity, parameters=parameters).astype(int)
        found = corrupt(torch.from_numpy(clean), name, severity, parameters=parameters).numpy()
        distance = abs(found - expected)
        assert distance.max() <= 1, (size, severity)
        assert (distance == 0).mean() >= 0.97, (size, severity)


@pytest.mark.parametrize("name", BAR)
def test_golden(name):
    """As `scripts/make_golden.py` wrote them: neither definitions nor random streams have changed."""
    clean = np.load(GOLDEN / "corruptions.npz")["clean"][:1]
    golden = np.load(GOLDEN / "corruptions_bar.npz")[name]
    distance = abs(corrupt(torch.from_numpy(clean), name).numpy() - golden.astype(int))
    assert (distance <= 1).mean() >= 0.99
    assert (distance == 0).mean() >= 0.95


@pytest.mark.parametrize(
    ("name", "parameters"), [(name, "cifar") for name in BAR] + [(name, "imagenet") for name in sorted(IMAGENET_TOO)]
)
def test_the_distance_to_the_clean_image_grows_with_severity(name, parameters):
    # Radii of sparkles are a share of the side, but at least a pixel.
    images = torch.from_numpy(pictures(30, seed=3) if parameters == "cifar" else pictures(5, 112, 112, seed=3))
    corruption, changes = find(name), []
    for constants in corruption.constants[parameters]:
        source = ImageSource(0, name, 0, range(len(images)), images.device)  # the same draws at every severity
        found = corruption.apply(images, corruption.draw(source, images.shape[1:], constants), constants)
        changes.append((found.float().clamp(0, 255).floor() - images).abs().mean().item())
    assert changes[0] > 0
    assert all(after > 1.01 * before for before, after in pairwise(changes)), changes


@pytest.mark.parametrize("name", BAR)
def test_any_size_from_32_and_every_severity(name):
    for size in ((32, 130), (97, 35)):
        images = torch.from_numpy(pictures(1, *size))
        for severity in SEVERITIES if max(size) < 100 else (5,):
            found = corrupt(images, name, severity)
            assert (found.dtype, found.shape) == (torch.uint8, images.shape)
            assert not torch.equal(found, images)


@pytest.mark.parametrize("name", BAR)
def test_black_white_and_flat_images(name):
    for level in (0, 255, 128):
        flat = torch.full((2, 3, 32, 32), level, dtype=torch.uint8)
        found = corrupt(flat, name).int()
        if name in ("pinch_and_twirl", "transverse_chromatic_abberation"):  # they move and average pixels
            assert (found - level).abs().max() <= 1
        if name in ("ripple", "circular_motion_blur"):  # black comes in from outside
            assert (found[..., 12:20, 12:20] - level).abs().max() <= 1
        if name == "lines" and level == 128:
            assert torch.equal(found, flat.int())


def test_ways_that_differ_in_speed_only(monkeypatch):
    images = torch.from_numpy(pictures(2, 40, 51))
    found = []
    for most in (0, 10**9):
        monkeypatch.setattr(bar_warps, "_MOST_SHIFTED_PIXELS", most)
        found.append(corrupt(images, "circular_motion_blur"))
    assert (found[0].int() - found[1]).abs().max() <= 1
    assert (found[0] == found[1]).float().mean() > 0.999


def test_floating_images_come_back_floating():
    images = torch.rand(2, 3, 32, 32)
    for name in BAR:
        found = corrupt(images, name)
        assert found.dtype == torch.float32
        assert 0 <= found.min() <= found.max() <= 1


# --- the word for all of them, and "all", which is still the nineteen ---


def test_words():
    assert spelled_out("bar") == BAR
    assert spelled_out(ALL) == CORRUPTIONS
    assert spelled_out("ripple") == "ripple"
    assert Mixture("bar").names == BAR
    assert Mixture(["ripple", "fog"]).names == ("ripple", "fog")
    assert Mixture("all").names == CORRUPTIONS


def test_they_are_evaluated_by_name_and_by_their_word():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4))
    model.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0, 0, 0), "std": (1, 1, 1)}
    data = torch.from_numpy(pictures(4)), torch.arange(4)
    names = [row.corruption for row in hf_rws.evaluate(model, data, ["ripple"]).rows]
    assert names == ["clean", "ripple"]
    assert [row.corruption for row in hf_rws.evaluate(model, data, "bar", clean=False).rows] == [*BAR]
