"""The noises have the distributions of their definitions, and are independent across values, channels and images."""

import math

import numpy as np
import pytest
import torch

from hf_rws._choices import SEVERITIES
from hf_rws.corruptions import corrupt
from hf_rws.corruptions.registry import find
from tests.corruptions import reference

COUNT = 60
GREY = 128  # far from 0 and 255, so that nothing is clipped at CIFAR's severities
NOISES = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
STREAMS = {"per image": lambda: None, "generator": lambda: torch.Generator().manual_seed(1)}


def noise_of(name, severity=5, level=GREY, stream="per image"):
    flat = torch.full((COUNT, 3, 32, 32), level, dtype=torch.uint8)
    return corrupt(flat, name, severity, generator=STREAMS[stream]()).double().numpy()


def moments(levels, weights):
    """Mean, deviation, skewness, kurtosis."""
    mean = np.average(levels, weights=weights)
    second, third, fourth = (np.average((levels - mean) ** power, weights=weights) for power in (2, 3, 4))
    return mean, second**0.5, third / second**1.5, fourth / second**2


def expected_probabilities(name, constants):
    """Of the 256 grey levels that GREY turns into."""
    if name == "shot_noise":
        return reference.poisson_levels(GREY, constants)
    deviation = 255 * constants * (GREY / 255 if name == "speckle_noise" else 1)
    below = np.array([math.erf((level - GREY) / deviation / 2**0.5) / 2 + 0.5 for level in range(257)])
    below[0], below[-1] = 0, 1
    return np.diff(below)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "speckle_noise"])
def test_moments(name, severity, stream):
    values = noise_of(name, severity, stream=stream).ravel()
    mean, deviation, skewness, kurtosis = moments(values, None)
    constants = find(name).constants["cifar"][severity - 1]
    expected = moments(np.arange(256), expected_probabilities(name, constants))
    assert mean == pytest.approx(expected[0], abs=5 * deviation / values.size**0.5)
    assert deviation == pytest.approx(expected[1], rel=5 / (2 * values.size) ** 0.5)
    assert skewness == pytest.approx(expected[2], abs=5 * (6 / values.size) ** 0.5)
    assert kurtosis == pytest.approx(expected[3], abs=5 * (24 / values.size) ** 0.5)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulses(severity, stream):
    amount = find("impulse_noise").constants["cifar"][severity - 1]
    values = noise_of("impulse_noise", severity, stream=stream)
    tolerance = 5 * (amount / 2 / values.size) ** 0.5
    assert (values == 0).mean() == pytest.approx(amount / 2, abs=tolerance)
    assert (values == 255).mean() == pytest.approx(amount / 2, abs=tolerance)
    assert set(np.unique(values)) == {0, GREY, 255}


@pytest.mark.parametrize("level", [3, 60, 250])
def test_shot_noise_draws_the_poisson_distribution(level):
    found = np.bincount(noise_of("shot_noise", level=level).astype(int).ravel(), minlength=256)
    expected = reference.poisson_levels(level, find("shot_noise").constants["cifar"][4]) * found.sum()
    likely = expected > 10
    chi_square = ((found - expected)[likely] ** 2 / expected[likely]).sum()
    degrees = likely.sum()
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5
    assert found[expected < 1e-3].sum() <= 1


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", NOISES)
def test_values_are_independent(name, stream):
    values = noise_of(name, stream=stream) - noise_of(name, stream=stream).mean()
    pairs = {
        "next in row": (values[..., 1:], values[..., :-1]),
        "next row": (values[:, :, 1:], values[:, :, :-1]),
        "channels": (values[:, 0], values[:, 1]),
        "images": (values[1:], values[:-1]),
        "squares of images": (values[1:] ** 2 - values.var(), values[:-1] ** 2 - values.var()),
    }
    for label, (a, b) in pairs.items():
        correlation = (a * b).mean() / (a.std() * b.std())
        assert abs(correlation) < 5 / a.size**0.5, label


def test_noises_of_different_severities_and_names_are_unrelated():
    a = noise_of("gaussian_noise", 4) - GREY
    for other in (noise_of("gaussian_noise", 5), noise_of("speckle_noise", 4)):
        assert abs((a * (other - GREY)).mean() / (a.std() * other.std())) < 5 / a.size**0.5
