"""Given the same random draws, every corruption is what its definition says (see reference.py)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_rws._choices import SEVERITIES
from hf_rws.corruptions import CORRUPTIONS, corrupt, filters
from hf_rws.corruptions import images as kinds
from hf_rws.corruptions.noise import _SHOT_PHOTONS, _shot_table
from hf_rws.corruptions.registry import find
from tests.corruptions import reference
from tests.corruptions.by_definition import DRAWN_FROM_TABLES, by_definition
from tests.corruptions.pictures import SIZES, pictures

GOLDEN = Path(__file__).parents[1] / "data" / "corruptions.npz"
# What must agree to the last bit, and the share of values that may be off by more than one grey level elsewhere: in
# spatter, OpenCV's rounding of edges can move a whole drop's edge.
EXACT = {"impulse_noise", "contrast", "pixelate", "jpeg_compression"}
FAR_OFF = {"spatter": 0.01}


@pytest.mark.parametrize("parameters", SIZES)
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != DRAWN_FROM_TABLES])
def test_as_defined(name, parameters):
    for severity in SEVERITIES:
        clean = pictures(1, *SIZES[parameters], seed=severity)
        expected = by_definition(name, clean, severity=severity, parameters=parameters).astype(int)
        found = corrupt(torch.from_numpy(clean), name, severity, parameters=parameters).numpy()

        distance = abs(found - expected)
        assert (distance > 1).mean() <= FAR_OFF.get(name, 0), severity
        assert (distance == 0).mean() >= (1 if name in EXACT else 0.75), severity
        assert abs(found - expected).mean() < 0.05 * abs(expected - clean).mean() + 0.05, severity


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_golden(name):
    """As `scripts/make_golden.py` wrote them: neither definitions nor random streams have changed."""
    golden = np.load(GOLDEN)
    found = corrupt(torch.from_numpy(golden["clean"]), name).numpy()
    distance = abs(found - golden[name].astype(int))
    assert (distance <= 1).mean() >= 0.99
    assert (distance == 0).mean() >= 0.95


@pytest.mark.parametrize("quality_set", SIZES)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (48, 34), (57, 40), (41, 56), (36, 100)])
def test_jpeg_is_pillows_at_any_size(size, quality_set):
    for channels in (3, 1):
        clean = pictures(4, *size, channels=channels)
        clean[0] = np.random.default_rng(0).integers(0, 256, clean.shape[1:])
        clean[1] = np.random.default_rng(0).integers(0, 2, clean.shape[1:]) * 255
        images = torch.from_numpy(clean)
        for severity, quality in enumerate(find("jpeg_compression").constants[quality_set], start=1):
            found = corrupt(images, "jpeg_compression", severity, parameters=quality_set).numpy()
            for image, result in zip(clean, found, strict=True):
                np.testing.assert_array_equal(result, reference.jpeg_compression(image, (), quality))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", ["jpeg_compression", "pixelate"])
def test_large_images_are_the_same_with_and_without_pillow(name, channels, layout, monkeypatch):
    clean = torch.from_numpy(pictures(2, 131, 100, channels=channels)).to(memory_format=layout)
    for severity in (1, 4):
        found = []
        for fewest_pixels in (0, 10**9):
            monkeypatch.setattr(kinds, "_FEWEST_PIXELS_FOR_PILLOW", fewest_pixels)
            found.append(corrupt(clean, name, severity, parameters="imagenet"))
        assert torch.equal(*found), severity


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("parameters", SIZES)
def test_brightness_is_exact(parameters, severity):
    """Every level of every V: in quarters, all is whole numbers."""
    value, level = (a.ravel() for a in np.mgrid[:256, :256])
    value = np.maximum(value, level)
    added = find("brightness").constants[parameters][severity - 1] * 255 * 4
    assert added == round(added)
    raised = np.minimum(4 * value + round(added), 255 * 4)
    expected = np.where(value, level * raised // np.maximum(4 * value, 1), raised // 4)
    clean = np.stack((value, level, level)).astype(np.uint8).reshape(3, 256, 256)
    found = corrupt(torch.from_numpy(clean), "brightness", severity, parameters=parameters).numpy()
    np.testing.assert_array_equal(found[1].ravel(), expected)


@pytest.mark.parametrize(
    ("name", "limit", "values"),
    [
        ("motion_blur", "_MOST_GATHERED", (0, 10**9)),
        ("snow", "_MOST_GATHERED", (0, 10**9)),
        ("gaussian_blur", "_STRIP", (7, 10**9)),
        ("elastic_transform", "_STRIP", (7, 10**9)),
        ("defocus_blur", "_MOST_SHIFTED_TAPS", (0, 10**9)),
        ("gaussian_blur", "_LONGEST_SHIFTED_REACH", (0, 10**9)),
    ],
)
def test_ways_that_differ_in_speed_only(name, limit, values, monkeypatch):
    images = torch.from_numpy(pictures(2, 72, 100))
    found = []
    for value in values:
        monkeypatch.setattr(filters, limit, value)
        filters._blur_matrix.cache_clear()
        found.append(corrupt(images, name, 5, parameters="imagenet"))
    assert (found[0].int() - found[1]).abs().max() <= 1
    assert (found[0] == found[1]).float().mean() > 0.999


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (71, 40), (37, 130), (85, 73), (97, 131), (160, 90)])
def test_pixelate_is_pillows_at_any_size(size):
    clean = pictures(2, *size)
    for parameters in SIZES:
        for severity, factor in enumerate(find("pixelate").constants[parameters], start=1):
            found = corrupt(torch.from_numpy(clean), "pixelate", severity, parameters=parameters).numpy()
            for image, result in zip(clean, found, strict=True):
                np.testing.assert_array_equal(result, reference.pixelate(image, (), factor))


@pytest.mark.parametrize("photons", sorted({c for row in _SHOT_PHOTONS.values() for c in row}))
def test_shot_noise_tables_hold_poisson_probabilities(photons):
    entries = _shot_table(photons).reshape(256, 256).astype(np.int64)
    thresholds, aliases = entries >> 8, entries & 0xFF
    for level in (0, 1, 2, 17, 128, 254, 255):
        implied = thresholds[level] / 2**23 / 256
        np.add.at(implied, aliases[level], (1 - thresholds[level] / 2**23) / 256)
        np.testing.assert_allclose(implied, reference.poisson_levels(level, photons), atol=1e-6)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_flat_white_stays_white_where_nothing_is_added(name):
    """Rounding must not lose a grey level in saturated areas."""
    white = torch.full((1, 3, 40, 32), 255, dtype=torch.uint8)
    found = corrupt(white, name)
    keeps_white = {"defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast"}
    keeps_white |= {"elastic_transform", "pixelate", "jpeg_compression", "snow"}
    if name in keeps_white:
        assert torch.equal(found, white)
    else:
        assert not torch.equal(found, white)
