"""Pictures come to a model's size exactly as timm's validate.py brings them there."""

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from hf_rws.data import Preprocessing, load_split, load_splits
from hf_rws.data.pictures import as_array
from hf_rws.data.unlabelled import as_images
from hf_rws.errors import OptionError
from tests.helpers import datasets_cache, model, picture, toy_dataset  # noqa: F401

pytestmark = pytest.mark.usefixtures("datasets_cache")

SIZES = [(64, 48), (48, 64), (40, 41), (32, 32), (31, 90), (20, 25), (224, 224)]
CONFIGS = {
    "ImageNet's": {"crop_pct": 0.875, "interpolation": "bilinear"},
    "bicubic, nearly whole": {"crop_pct": 0.95, "interpolation": "bicubic"},
    "whole": {"crop_pct": 1.0, "interpolation": "bicubic"},
    "not square": {"crop_pct": 0.9, "interpolation": "bicubic", "input_size": (3, 24, 40)},
    "not square, squashed": {"crop_pct": 1.0, "crop_mode": "squash", "input_size": (3, 24, 40)},
    "squashed": {"crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "squash"},
    "with a border": {"crop_pct": 1.0, "interpolation": "bilinear", "crop_mode": "border"},
    "not square, with a border": {"crop_pct": 0.9, "crop_mode": "border", "input_size": (3, 40, 24)},
    "lanczos": {"crop_pct": 0.9, "interpolation": "lanczos"},
    "what timm takes for granted": {},
    "tested at another size": {"crop_pct": 0.875, "test_input_size": (3, 48, 48), "test_crop_pct": 1.0},
}


def configured(**config):
    made = model()
    kept = {"input_size": (3, 32, 32), "mean": (0.48, 0.45, 0.4), "std": (0.2, 0.2, 0.2)}
    made.pretrained_cfg = {**kept, **config}
    return made


@pytest.mark.parametrize("use_test_size", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_as_timm_does_it_to_the_pixel(name, use_test_size):
    made = configured(**CONFIGS[name])
    config = timm.data.resolve_data_config({}, model=made, use_test_size=use_test_size)
    reference = timm.data.create_transform(**config, normalize=False)
    found = Preprocessing.of(made, use_test_size=use_test_size)
    assert (3, *found.size) == config["input_size"]
    for seed, (width, height) in enumerate(SIZES):
        image = picture(seed, width, height)
        assert np.array_equal(as_array(image, found), reference(image).numpy()), (width, height)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_where_there_is_nothing_to_do_nothing_is_done(crop_mode):
    image = picture(0, 40, 24)
    assert Preprocessing((24, 40), crop_mode=crop_mode)(image) is image


def test_by_every_way_in(tmp_path):
    folder = str(toy_dataset(tmp_path / "toy", train=8))
    small = Preprocessing((24, 20), 0.9)
    whole, found = load_split(folder), load_split(folder, preprocessing=small)
    assert found.images.shape == (12, 3, 24, 20)
    for before, after in zip(whole.images, found.images, strict=True):
        assert np.array_equal(after, as_array(Image.fromarray(before.permute(1, 2, 0).numpy()), small))
    assert load_splits(folder, preprocessing=small, validation=0.5).train.images.shape == (4, 3, 24, 20)
    assert as_images(folder, preprocessing=small).shape == (8, 3, 24, 20)
    assert as_images([picture(0, 50, 60)], preprocessing=small).shape == (1, 3, 24, 20)
    other = load_split(folder, preprocessing=Preprocessing((24, 20)))
    assert not torch.equal(other.images, found.images)  # and not from the other's cache


def test_one_size_is_chosen(tmp_path):
    folder = str(toy_dataset(tmp_path / "toy", train=8))
    square = load_split(folder, image_size=20).images
    assert torch.equal(square, load_split(folder, preprocessing=Preprocessing((20, 20))).images)
    with pytest.raises(OptionError, match="either image_size or preprocessing"):
        load_split(folder, image_size=20, preprocessing=Preprocessing((20, 20)))
    with pytest.raises(OptionError, match="what size the images shall have"):
        as_images(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"input_size": None}, r"must give an input_size \(3, height, width\), it gives None"),
        ({"input_size": (4, 32, 32)}, r"it gives \(4, 32, 32\)"),
        ({"input_size": (3, 32)}, "must give an input_size"),
        ({"input_size": (3, 0, 32)}, "a height and a width of at least 1"),
        ({"crop_pct": -1}, "crop_pct must be a number above 0, got -1"),
        ({"crop_pct": "half"}, "crop_pct must be a number"),
        ({"crop_pct": float("nan")}, "crop_pct must be a number"),
        ({"interpolation": "random"}, "interpolation must be one of nearest, bilinear"),
        ({"crop_mode": "corner"}, "crop_mode must be one of center, squash, border, got 'corner'"),
        ({"crop_mode": "border", "mean": "grey"}, "a mean of three numbers"),
        ({"crop_mode": "border", "mean": (0.5,)}, "three numbers from 0 to 255"),
    ],
)
def test_configs_that_make_no_sense(config, message):
    with pytest.raises(OptionError, match=message):
        Preprocessing.of(configured(**config))


def test_a_model_without_a_config():
    with pytest.raises(OptionError, match="pretrained_cfg must give an input_size"):
        Preprocessing.of(torch.nn.Conv2d(3, 8, 3))


@pytest.mark.parametrize(
    ("preprocessing", "text"),
    [
        (Preprocessing((32, 32)), "32 px, bicubic, crop 1"),
        (Preprocessing((256, 192), 0.95, "bilinear", "squash"), "256x192 px, bilinear, crop 0.95, squash"),
    ],
)
def test_in_a_table(preprocessing, text):
    assert str(preprocessing) == text
