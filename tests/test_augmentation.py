import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from hf_rws.training.augmentation import (
    _AUGMENTATIONS,
    _CROP_PADDING,
    _MAX_ROTATION,
    apply,
    default_augmentation,
    draw,
)
from tests.helpers import pixels


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _still(count, **changed):
    return {
        "offset": torch.full((count, 2), _CROP_PADDING),
        "angle": torch.zeros(count),
        "flip": torch.zeros(count, dtype=torch.bool),
        **changed,
    }


@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (3, 3, 17, 40), (1, 1, 64, 32)])
def test_crop_flip_follows_a_slow_reference(shape):
    images = torch.randint(1, 256, shape, generator=_generator(), dtype=torch.uint8)
    draws = draw("crop-flip", len(images), _generator(1))
    found = apply("crop-flip", images, draws)
    height, width = shape[2:]
    for image, result, (top, left), flip in zip(images, found, draws["offset"], draws["flip"], strict=True):
        padded = torch.zeros(shape[1], height + 2 * _CROP_PADDING, width + 2 * _CROP_PADDING, dtype=torch.uint8)
        padded[:, _CROP_PADDING:-_CROP_PADDING, _CROP_PADDING:-_CROP_PADDING] = image
        expected = padded[:, top : top + height, left : left + width]
        assert torch.equal(result, expected.flip(2) if flip else expected)


@pytest.mark.parametrize("name", _AUGMENTATIONS)
def test_shape_dtype_and_input_stay(name):
    images = pixels(6)
    before = images.clone()
    found = apply(name, images, draw(name, 6, _generator()))
    assert found.shape == images.shape
    assert found.dtype == torch.uint8
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ["crop-flip", "rotation-flip"])
def test_nothing_drawn_changes_nothing(name):
    images = pixels(4)
    assert torch.equal(apply(name, images, _still(4)), images)


@pytest.mark.parametrize("name", ["crop-flip", "rotation-flip"])
def test_flipping_twice_is_the_identity(name):
    images = pixels(4)
    flip = _still(4, flip=torch.tensor([True, False, True, True]))
    once = apply(name, images, flip)
    assert torch.equal(once[0], images[0].flip(2))
    assert torch.equal(once[1], images[1])
    assert torch.equal(apply(name, once, flip), images)


@pytest.mark.parametrize("turns", [-2, -1, 1, 2, 3])
def test_rotation_by_right_angles_is_exact(turns):
    images = pixels(3)
    found = apply("rotation-flip", images, _still(3, angle=torch.full((3,), 90.0 * turns)))
    assert torch.equal(found, images.rot90(turns, (2, 3)))


@pytest.mark.parametrize("size", [(32, 32), (40, 64)])
@pytest.mark.parametrize("angle", [-20.0, -7.3, 3.0, 19.9])
def test_rotation_follows_torchvision(size, angle):
    images = torch.randint(0, 256, (2, 3, *size), generator=_generator(), dtype=torch.uint8)
    found = apply("rotation-flip", images, _still(2, angle=torch.full((2,), angle)))
    expected = rotate(images, angle, InterpolationMode.NEAREST)
    assert (found == expected).float().mean() > 0.995  # pixels whose source lies on an edge may round the other way


def test_draws_cover_their_range():
    crop, rotation = (draw(name, 4000, _generator()) for name in ("crop-flip", "rotation-flip"))
    assert sorted(set(crop["offset"].flatten().tolist())) == list(range(2 * _CROP_PADDING + 1))
    assert -_MAX_ROTATION <= rotation["angle"].min() < -0.99 * _MAX_ROTATION
    assert 0.99 * _MAX_ROTATION < rotation["angle"].max() <= _MAX_ROTATION
    for draws in (crop, rotation):
        assert 0.45 < draws["flip"].float().mean() < 0.55


@pytest.mark.parametrize("name", ["crop-flip", "rotation-flip"])
def test_draws_are_the_generators_and_on_the_cpu(name):
    one, again, other = (draw(name, 50, _generator(seed)) for seed in (3, 3, 4))
    assert all(value.device.type == "cpu" and len(value) == 50 for value in one.values())
    assert all(torch.equal(value, again[key]) for key, value in one.items())
    assert not all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("name", ["crop-flip", "rotation-flip"])
def test_an_image_is_augmented_by_its_own_draw_alone(name):
    images, draws = pixels(6), draw(name, 6, _generator())
    whole = apply(name, images, draws)
    part = apply(name, images[2:5], {key: value[2:5] for key, value in draws.items()})
    assert torch.equal(whole[2:5], part)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["crop-flip", "rotation-flip"])
def test_devices_agree(name):
    images, draws = pixels(8), draw(name, 8, _generator())
    found = apply(name, images.cuda(), draws).cpu()
    assert (found == apply(name, images, draws)).float().mean() > 0.995


def test_default_augmentation_is_the_released_codes():
    assert [default_augmentation(size) for size in (32, 47, 48, 64)] == [*["crop-flip"] * 2, *["rotation-flip"] * 2]
