"""Corruptions as modules."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from hf_rws.corruptions import BAR, CORRUPTIONS, Corrupt, RandomCorrupt, corrupt, frost
from hf_rws.errors import OptionError
from tests.corruptions.pictures import pictures

CLEAN = torch.from_numpy(pictures(60))
# Corruptions without randomness, so that what was applied can be told from the result.
FIXED = ("brightness", "contrast", "pixelate", "saturate")


def which(image, clean, names, severities=(5,)):
    """The (name, severity) that turned `clean` into `image`; None if it is clean."""
    if torch.equal(image, clean):
        return None
    return next((n, s) for n in names for s in severities if torch.equal(image, corrupt(clean, n, s)))


@pytest.mark.parametrize("name", CORRUPTIONS + BAR)
def test_corrupt_follows_the_global_seed(name):
    transform = Corrupt(name, severity=4)
    torch.manual_seed(1)
    first = transform(CLEAN[:4])
    torch.manual_seed(1)
    assert torch.equal(transform(CLEAN[:4]), first)
    assert torch.equal(first, corrupt(CLEAN[:4], name, 4, generator=torch.Generator().manual_seed(1)))


def test_in_a_pipeline():
    steps = [v2.RandomCrop(32, padding=4), Corrupt("fog"), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    picture = Image.fromarray(CLEAN[0].permute(1, 2, 0).numpy())
    found = v2.Compose(steps)(picture)
    assert (found.dtype, found.shape) == (torch.float32, (3, 32, 32))
    assert found.max() <= 1
    assert nn.Sequential(Corrupt("contrast"), RandomCorrupt(["fog"]))(CLEAN).shape == CLEAN.shape


def test_they_are_ordinary_modules():
    for module in (Corrupt("fog"), RandomCorrupt(["fog"])):
        assert list(module.parameters()) == []
        assert module.state_dict() == {}
        assert "fog" in repr(module)


def test_random_corrupt_draws_uniformly():
    torch.manual_seed(0)
    transform = RandomCorrupt(FIXED, clean=0.2)
    counts = dict.fromkeys([None, *((name, 5) for name in FIXED)], 0)
    for _ in range(10):
        for image, clean in zip(transform(CLEAN), CLEAN, strict=True):
            counts[which(image, clean, FIXED)] += 1
    assert sum(counts.values()) == 600
    for count in counts.values():  # a fifth each: 120, deviation below 10
        assert abs(count - 120) < 40


def test_random_severity():
    torch.manual_seed(0)
    found = RandomCorrupt(["contrast"], severity="random")(CLEAN)
    seen = {which(image, clean, ["contrast"], range(1, 6))[1] for image, clean in zip(found, CLEAN, strict=True)}
    assert seen == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("clean", [0.0, 1.0])
def test_all_or_nothing(clean):
    found = RandomCorrupt(["contrast"], clean=clean)(CLEAN)
    assert torch.equal(found, CLEAN if clean else corrupt(CLEAN, "contrast"))


def test_kinds_of_images():
    transform = RandomCorrupt(["contrast"])
    array = CLEAN.permute(0, 2, 3, 1).numpy()
    expected = corrupt(array, "contrast")
    assert np.array_equal(transform(array), expected)
    assert np.array_equal(transform(array[0]), expected[0])
    assert np.array_equal(np.array(transform(Image.fromarray(array[0]))), expected[0])
    assert torch.equal(transform(CLEAN / 255), corrupt(CLEAN / 255, "contrast"))
    assert transform(CLEAN[:0]).shape == (0, 3, 32, 32)
    before = CLEAN.clone()
    transform(CLEAN)
    assert torch.equal(CLEAN, before)


def test_all_without_frost_says_so(monkeypatch):
    assert RandomCorrupt().names == CORRUPTIONS
    monkeypatch.delenv(frost.FOLDER_VARIABLE)
    monkeypatch.setattr(frost, "_ASSET_PACKAGE", "no_such_package_of_frost")
    with pytest.warns(UserWarning, match="frost"):
        transform = RandomCorrupt("all")
    assert transform.names == tuple(name for name in CORRUPTIONS if name != "frost")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Corrupt("frog"), "'fog'"),
        (lambda: Corrupt("fog", severity=9), "1, 2, 3, 4, 5"),
        (lambda: Corrupt("fog", parameters="mnist"), "'cifar'"),
        (lambda: RandomCorrupt("fog"), "list"),
        (lambda: RandomCorrupt([]), "empty"),
        (lambda: RandomCorrupt(5), "names must be a list of corruptions"),
        (lambda: RandomCorrupt(["fog"], clean="half"), "share"),
        (lambda: RandomCorrupt(["fog", "frog"]), "'fog'"),
        (lambda: RandomCorrupt(["fog"], severity="any"), "'any'"),
        (lambda: RandomCorrupt(["fog"], clean=1.5), "1.5"),
        (lambda: RandomCorrupt(["fog"], clean=float("nan")), "nan"),
        (lambda: RandomCorrupt(["fog"], parameters="mnist"), "'cifar'"),
    ],
)
def test_mistakes_are_found_when_the_transform_is_made(make, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make()


# --- among torchvision's own transforms ---


@pytest.mark.parametrize("transform", [Corrupt("fog"), RandomCorrupt(["fog"])], ids=["Corrupt", "RandomCorrupt"])
def test_an_image_of_torchvision_stays_one(transform):
    image = tv_tensors.Image(torch.randint(0, 256, (3, 48, 32), dtype=torch.uint8))
    found = transform(image)
    assert type(found) is tv_tensors.Image
    torch.manual_seed(0)
    again = transform(image)
    torch.manual_seed(0)
    assert torch.equal(transform(image.as_subclass(torch.Tensor)), again.as_subclass(torch.Tensor))
    scaled = v2.Compose([transform, v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)])(image)
    assert scaled.dtype == torch.float32
    changed, label = v2.Compose([v2.ToImage(), transform])(image, 3)
    assert (type(changed), label) == (tv_tensors.Image, 3)


@pytest.mark.filterwarnings("ignore:.*[Ff]rost")  # whose pictures may be missing
def test_grey_images_are_given_what_has_a_meaning_for_them():
    grey = torch.full((64, 1, 32, 32), 128, dtype=torch.uint8)
    torch.manual_seed(0)
    assert RandomCorrupt("all")(grey).shape == grey.shape
    assert RandomCorrupt("bar").names == BAR
    assert RandomCorrupt("bar")(grey).shape == grey.shape
    for _ in range(3):  # whatever is drawn
        with pytest.raises(OptionError, match="saturate: defined for colour images only; these have 1 channel"):
            RandomCorrupt(["fog", "saturate"], clean=0.99)(grey[:1])
