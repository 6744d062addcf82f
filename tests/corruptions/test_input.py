"""Every kind of image comes back as it came; every mistake gets an error that says what to do."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from hf_rws import corruptions
from hf_rws.corruptions import (
    BAR,
    BENCHMARK,
    CORRUPTIONS,
    EXTRA,
    available,
    corrupt,
    frost,
)
from hf_rws.corruptions.registry import find
from hf_rws.errors import FormatError, MissingExtraError, NotFoundError, OptionError
from tests.corruptions.pictures import pictures

CLEAN = torch.from_numpy(pictures(3, 40, 33))


def test_names():
    assert len(BENCHMARK) == 15
    assert len(EXTRA) == 4
    assert CORRUPTIONS == BENCHMARK + EXTRA
    assert len(set(CORRUPTIONS)) == 19
    assert available() == CORRUPTIONS
    assert len(set(BAR)) == 15
    assert not set(BAR) & set(CORRUPTIONS)


@pytest.mark.parametrize("name", CORRUPTIONS + BAR)
def test_every_kind_gives_the_same_result(name):
    expected = corrupt(CLEAN, name)
    assert (expected.dtype, expected.shape) == (torch.uint8, CLEAN.shape)
    rows_last = CLEAN.permute(0, 2, 3, 1).contiguous().numpy()

    found = corrupt(rows_last, name)
    assert (type(found), found.dtype, found.shape) == (np.ndarray, np.uint8, rows_last.shape)
    assert np.array_equal(found, expected.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(corrupt(rows_last[0], name), found[0])
    assert torch.equal(corrupt(CLEAN[0], name), expected[0])
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        floating = corrupt((CLEAN / 255).to(dtype), name)
        assert (floating.dtype, floating.shape) == (dtype, CLEAN.shape)
        if dtype != torch.bfloat16:  # which cannot hold 256 levels
            assert torch.equal((floating.double() * 255).round().to(torch.uint8), expected)

    picture = corrupt(Image.fromarray(rows_last[0]), name)
    assert (type(picture), picture.mode, picture.size) == (Image.Image, "RGB", (33, 40))
    assert np.array_equal(np.array(picture), found[0])


@pytest.mark.parametrize("name", CORRUPTIONS + BAR)
def test_input_is_left_alone_and_its_layout_does_not_matter(name):
    images = CLEAN.to(memory_format=torch.channels_last)
    expected = corrupt(CLEAN.contiguous(), name)
    found = corrupt(images, name)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert expected.is_contiguous()
    assert torch.equal(images, CLEAN)
    mirrored = np.ascontiguousarray(CLEAN.permute(0, 2, 3, 1).numpy()[:, ::-1])[:, ::-1]  # negative strides
    assert np.array_equal(corrupt(mirrored, name), expected.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [(32, 32), (32, 130), (131, 64), (97, 35)])
def test_any_size_from_32_and_every_severity(name, size):
    images = torch.from_numpy(pictures(1, *size))
    for severity in (1, 2, 3, 4, 5):
        for parameters in ("cifar", "tiny-imagenet", "imagenet"):
            found = corrupt(images, name, severity, parameters=parameters)
            assert found.shape == images.shape
            assert not torch.equal(found, images) or parameters == "cifar"


# They move or average pixels, or stretch them around their mean.
STAYS_FLAT = ["contrast", "defocus_blur", "elastic_transform", "gaussian_blur", "glass_blur", "motion_blur"]
STAYS_FLAT += ["pixelate", "zoom_blur"]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_black_white_and_flat_images(name):
    for level in (0, 255, 77):
        flat = torch.full((2, 3, 32, 32), level, dtype=torch.uint8)
        for severity in (1, 5):
            found = corrupt(flat, name, severity)
            assert (found.dtype, found.shape) == (flat.dtype, flat.shape)
            if name in STAYS_FLAT:
                assert (found.int() - level).abs().max() <= 1, (level, severity)


@pytest.mark.parametrize("name", CORRUPTIONS + BAR)
def test_grey_images(name):
    grey = CLEAN[:, :1]
    if find(name).needs_colour:
        with pytest.raises(OptionError, match="colour"):
            corrupt(grey, name)
        return
    found = corrupt(grey, name)
    assert found.shape == grey.shape
    picture = corrupt(Image.fromarray(grey[0, 0].numpy()), name)
    assert (picture.mode, picture.size) == ("L", (33, 40))
    assert np.array_equal(np.array(picture), found[0, 0].numpy())


@pytest.mark.filterwarnings("error")
def test_read_only_arrays():
    array = CLEAN.permute(0, 2, 3, 1).numpy().copy()
    array.flags.writeable = False
    found = corrupt(array, "contrast")
    assert np.array_equal(found, corrupt(array.copy(), "contrast"))
    assert found.flags.writeable


def test_parameters_follow_the_shorter_side():
    for size, parameters in (((47, 200), "cifar"), ((48, 48), "tiny-imagenet"), ((127, 500), "tiny-imagenet"),
                             ((128, 128), "imagenet")):  # fmt: skip
        images = torch.from_numpy(pictures(1, *size))
        assert torch.equal(corrupt(images, "contrast"), corrupt(images, "contrast", parameters=parameters))
        for other in {"cifar", "tiny-imagenet", "imagenet"} - {parameters}:
            if {other, parameters} != {"tiny-imagenet", "imagenet"}:  # which have the same contrast
                assert not torch.equal(corrupt(images, "contrast"), corrupt(images, "contrast", parameters=other))


@pytest.mark.parametrize("name", CORRUPTIONS + BAR)
def test_empty_batches(name):
    assert corrupt(CLEAN[:0], name).shape == (0, 3, 40, 33)
    assert corrupt(CLEAN[:0] / 255, name).dtype == torch.float32
    assert corrupt(np.zeros((0, 32, 32, 3), np.uint8), name).shape == (0, 32, 32, 3)
    assert corrupt(CLEAN[:0], name, generator=torch.Generator()).shape == (0, 3, 40, 33)


def floats(value):
    images = CLEAN / 255
    images[1, 2, 3, 4] = value
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (floats(1.01), "[0, 1]"),
        (floats(-0.01), "[0, 1]"),
        (floats(float("nan")), "nan"),
        (floats(float("inf")), "[0, 1]"),
        (CLEAN.float(), "uint8"),
        (CLEAN.int(), "torch.int32"),
        (CLEAN.bool(), "torch.bool"),
        (CLEAN.numpy().transpose(0, 2, 3, 1) / 255, "float64"),
        (CLEAN.permute(0, 2, 3, 1), "(N, C, H, W)"),
        (CLEAN.numpy(), "(N, H, W, C)"),
        (CLEAN[:, :2], "not 2"),
        (torch.cat((CLEAN, CLEAN[:, :1]), 1), "not 4"),
        (CLEAN[0, 0], "(40, 33)"),
        (CLEAN[None], "(1, 3, 3, 40, 33)"),
        (CLEAN[0, 0].numpy(), "(40, 33)"),
        (CLEAN[..., :31], "at least 32"),
        (CLEAN[:, :, :31], "at least 32"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "at least 32"),
        (Image.new("RGBA", (40, 40)), "convert('RGB')"),
        (Image.new("P", (40, 40)), "convert('RGB')"),
        ([[1, 2], [3, 4]], "list"),
        ("fog.png", "str"),
        (None, "NoneType"),
    ],
)
def test_images_that_are_refused(images, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        corrupt(images, "contrast")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "gausian_noise"}, "'gaussian_noise'"),
        ({"name": "ripples"}, "'ripple'"),
        ({"name": "Fog"}, "'fog'"),
        ({"name": "xyz"}, "zoom_blur"),
        ({"name": None}, "Known"),
        ({"name": ["fog"]}, "Known"),
        ({"severity": 0}, "1, 2, 3, 4, 5"),
        ({"severity": 6}, "1, 2, 3, 4, 5"),
        ({"severity": True}, "True"),
        ({"severity": 3.0}, "3.0"),
        ({"severity": "5"}, "'5'"),
        ({"severity": None}, "None"),
        ({"seed": 0.5}, "seed"),
        ({"seed": None}, "seed"),
        ({"index": -1}, "index"),
        ({"index": 2**32}, "index"),
        ({"index": 1.0}, "index"),
        ({"index": torch.arange(len(CLEAN)) - 1}, "index must be at least 0 and below 2**32, not -1"),
        ({"index": torch.arange(len(CLEAN)) + 2**32 - 1}, "below 2**32"),
        ({"index": torch.zeros(len(CLEAN))}, "index must be one integer an image"),
        ({"index": torch.tensor(1.0)}, "index must be an integer, not 1.0"),
        ({"index": torch.tensor(True)}, "index must be an integer, not True"),
        ({"index": torch.tensor(-1)}, "index must be at least 0"),
        ({"index": torch.arange(len(CLEAN) + 1)}, "index must be one integer an image"),
        ({"parameters": "cifar10"}, "'cifar'"),
        ({"parameters": None}, "'auto'"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        corrupt(CLEAN, **{"name": "fog", **options})


def test_numpy_integers_are_integers():
    plain = corrupt(CLEAN, "fog", 3, seed=4, index=5)
    assert torch.equal(corrupt(CLEAN, "fog", np.int64(3), seed=np.int32(4), index=np.uint8(5)), plain)
    assert torch.equal(corrupt(CLEAN, "fog", 3, seed=4, index=torch.tensor(5)), plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_generator_on_another_device():
    with pytest.raises(OptionError, match="generator"):
        corrupt(CLEAN, "fog", generator=torch.Generator("cuda"))


def test_frost_without_pictures_names_the_extra(monkeypatch):
    monkeypatch.delenv(frost.FOLDER_VARIABLE)
    monkeypatch.setattr(frost, "_ASSET_PACKAGE", "no_such_package_of_frost")
    with pytest.raises(MissingExtraError, match=re.escape("hf-rws[frost]")):
        corrupt(CLEAN, "frost")
    assert available() == tuple(name for name in CORRUPTIONS if name != "frost")


def test_frost_reads_the_asset_package(monkeypatch, tmp_path, frost_folder):
    package = tmp_path / "assets_for_a_test"
    (package / "frost").mkdir(parents=True)
    (package / "__init__.py").touch()
    for path in frost_folder.iterdir():
        (package / "frost" / path.name).write_bytes(path.read_bytes())
    expected = corrupt(CLEAN, "frost")
    monkeypatch.delenv(frost.FOLDER_VARIABLE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(frost, "_ASSET_PACKAGE", "assets_for_a_test")
    assert torch.equal(corrupt(CLEAN, "frost"), expected)


@pytest.mark.parametrize("exists", [True, False])
def test_frost_from_a_folder_without_pictures(exists, monkeypatch, tmp_path):
    folder = tmp_path / "pictures"
    if exists:
        folder.mkdir()
        (folder / "notes.txt").touch()
    monkeypatch.setenv(frost.FOLDER_VARIABLE, str(folder))
    with pytest.raises(NotFoundError, match=re.escape(str(folder))):
        corrupt(CLEAN, "frost")
    assert "frost" not in available()


def test_frost_from_a_broken_picture(monkeypatch, tmp_path):
    (tmp_path / "frost1.jpg").write_bytes(b"not a picture")
    monkeypatch.setenv(frost.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(FormatError, match=re.escape("frost1.jpg")):
        corrupt(CLEAN, "frost")


def test_frost_enlarges_pictures_that_are_too_small(monkeypatch, tmp_path):
    Image.new("RGB", (20, 10), (200, 100, 0)).save(tmp_path / "small.png")
    monkeypatch.setenv(frost.FOLDER_VARIABLE, str(tmp_path))
    found = corrupt(torch.zeros(1, 3, 64, 90, dtype=torch.uint8), "frost", 5)
    assert found[0, :, 0, 0].tolist() == [110, 55, 0]  # 0.55 of the picture
    assert torch.equal(found, found[..., :1, :1].expand_as(found))


def test_public_names():
    assert set(corruptions.__all__) == {
        "BAR", "BENCHMARK", "CORRUPTIONS", "EXTRA", "Corrupt", "RandomCorrupt", "available", "corrupt"
    }  # fmt: skip
