"""Where kornia has the same filter, ours gives the same image."""

import numpy as np
import pytest
import torch

from hf_rws._choices import SEVERITIES
from hf_rws.corruptions import corrupt
from hf_rws.corruptions.blur import _GAUSSIAN_SIGMA, _defocus_kernel
from hf_rws.corruptions.colour import _BRIGHTNESS_ADDED, _SATURATE_FACTOR_ADDED
from hf_rws.corruptions.randomness import ImageSource
from hf_rws.corruptions.registry import find
from tests.corruptions.pictures import SIZES, pictures

kornia = pytest.importorskip("kornia")


def compare(name, parameters, expected_of):
    """`expected_of` takes images in [0, 1], float64, and the constants of a severity."""
    images = torch.from_numpy(pictures(3, *SIZES[parameters]))
    for severity, constants in zip(SEVERITIES, find(name).constants[parameters], strict=True):
        expected = expected_of(images.double() / 255, constants).clamp(0, 1) * 255 + 1e-3
        found = corrupt(images, name, severity, parameters=parameters)
        distance = (found - expected.floor()).abs()
        assert distance.max() <= 1, severity
        assert (distance == 0).double().mean() >= 0.97, severity


@pytest.mark.parametrize("parameters", _GAUSSIAN_SIGMA)
def test_gaussian_blur(parameters):
    def blur(images, sigma):
        size = 2 * int(4 * sigma + 0.5) + 1
        return kornia.filters.gaussian_blur2d(images, (size, size), (sigma, sigma), border_type="replicate")

    compare("gaussian_blur", parameters, blur)


@pytest.mark.parametrize("parameters", _GAUSSIAN_SIGMA)
def test_defocus_blur_filters(parameters):
    """With our kernel: the filter and its border."""

    def blur(images, constants):
        kernel = torch.from_numpy(_defocus_kernel(*constants).copy())
        return kornia.filters.filter2d(images, kernel[None], border_type="reflect")

    compare("defocus_blur", parameters, blur)


def test_strongest_defocus_of_cifar_is_a_box():
    images = torch.from_numpy(pictures(3))
    expected = kornia.filters.box_blur(images.double(), (3, 3), border_type="reflect")
    assert (corrupt(images, "defocus_blur", 5) - (expected + 1e-3).floor()).abs().max() <= 1


def in_hsv(images, change):
    hue, saturation, value = kornia.color.rgb_to_hsv(images).split(1, 1)
    return kornia.color.hsv_to_rgb(torch.cat((hue, *change(saturation, value)), 1))


@pytest.mark.parametrize("parameters", _BRIGHTNESS_ADDED)
def test_brightness(parameters):
    compare("brightness", parameters, lambda x, added: in_hsv(x, lambda s, v: (s, (v + added).clamp(max=1))))


@pytest.mark.parametrize("parameters", _SATURATE_FACTOR_ADDED)
def test_saturate(parameters):
    compare(
        "saturate",
        parameters,
        lambda x, constants: in_hsv(x, lambda s, v: ((s * constants[0] + constants[1]).clamp(max=1), v)),
    )


@pytest.mark.parametrize("parameters", ["cifar", "tiny-imagenet"])
def test_elastic_transform_of_severity_1_is_affine(parameters):
    images = torch.from_numpy(pictures(3, *SIZES[parameters]))
    height, width = images.shape[2:]
    corruption = find("elastic_transform")
    constants = corruption.constants[parameters][0]
    source = ImageSource(0, "elastic_transform", 1, range(len(images)), images.device)
    moves = corruption.draw(source, images.shape[1:], constants)[0].double().numpy() * constants[2]

    centre, reach = np.array((width // 2, height // 2)), min(width, height) // 3
    before = centre + reach * np.array([(1, 1), (1, -1), (-1, -1)])
    solved = [np.linalg.solve(np.c_[before, np.ones(3)], before + move).T for move in moves]
    expected = kornia.geometry.transform.warp_affine(
        images.double(), torch.from_numpy(np.stack(solved)), (height, width),
        mode="bilinear", padding_mode="reflection", align_corners=True,
    )  # fmt: skip
    found = corrupt(images, "elastic_transform", 1, parameters=parameters)
    assert ((found - expected).abs() < 1.02).all()
