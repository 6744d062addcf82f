"""Scales: the ways to give them, whose they are, and which are nobody's choice."""

from copy import deepcopy

import pytest
import timm
import torch
from timm.utils.model import freeze_batch_norm_2d
from torchvision.ops import FrozenBatchNorm2d

import hf_rws
from hf_rws.errors import MismatchError, OptionError
from hf_rws.hub import bundle
from tests.models import identical, signature, state, trio

NAME = "vgg16_gap"
LABELS = ("fog", "snow", "rain")


def fresh():
    return trio(NAME).base()


def made(*labels):
    return [signature(NAME, label) for label in labels]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders with signatures, in the current one."""
    monkeypatch.chdir(tmp_path)
    for label in LABELS[:2]:
        signature(NAME, label).save_pretrained(f"out/rws-{label}")
    return ["out/rws-fog", "out/rws-snow"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, [1 / 3, 1 / 3, 1 / 3]),
        (0.7, [0.7, 0.7, 0.7]),
        (0, [0.0, 0.0, 0.0]),
        ([1.0, 0.5, -0.25], [1.0, 0.5, -0.25]),
        ({"snow": 0.7}, [0.0, 0.7, 0.0]),
        ({"rain": 1, "fog": 0.1}, [0.1, 0.0, 1.0]),
        ({}, [0.0, 0.0, 0.0]),
    ],
)
def test_a_number_a_list_or_names(given, expected):
    loaded = hf_rws.load_patched(fresh(), made(*LABELS), scales=given)
    for patched in (hf_rws.patch(fresh(), made(*LABELS), scales=given), loaded.rws):
        assert patched.scales == dict(zip(LABELS, expected, strict=True))
        patched.verify()


def test_every_way_to_say_the_same_gives_the_same_bits():
    ways = (0.5, [0.5, 0.5], {"fog": 0.5, "snow": 0.5}, None)
    models = [fresh() for _ in ways]
    for model, scales in zip(models, ways, strict=True):
        hf_rws.patch(model, made("fog", "snow"), scales=scales)
    assert all(identical(model, state(models[0])) for model in models)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0], "one number per signature"),
        ("0.7", "a number for all"),
        (True, "a number for all"),
        (float("nan"), "finite"),
        ({"hail": 1.0}, "no signature called 'hail'.*'fog', 'snow'"),
        ({"fog": None}, "finite"),
    ],
)
def test_what_is_no_scale_is_refused(given, message):
    model = fresh()
    before = state(model)
    with pytest.raises(OptionError, match=message):
        hf_rws.patch(model, made("fog", "snow"), scales=given)
    assert identical(model, before)
    assert not hasattr(model, "rws")


# --- whose they are ---


def test_a_signature_is_named_by_where_it_is_from_too(folders):
    patcher = hf_rws.patch(fresh(), folders, scales={"out/rws-fog": 0.3, "rws-snow": 0.2})
    assert patcher.scales == {"rws-fog": 0.3, "rws-snow": 0.2}
    patcher.set({"out/rws-snow": 0.9})
    assert patcher.scales == {"rws-fog": 0.0, "rws-snow": 0.9}
    with patcher.using({"out/rws-fog": 1.0}):
        assert patcher.scales == {"rws-fog": 1.0, "rws-snow": 0.0}
    patcher.remove("out/rws-fog")
    assert list(patcher.scales) == ["rws-snow"]


def test_an_id_that_two_are_from_is_an_error(folders):
    patcher = hf_rws.patch(fresh(), [("a", folders[0]), ("b", folders[0])])
    for call in (lambda: patcher.set({folders[0]: 1.0}), lambda: patcher.remove(folders[0])):
        with pytest.raises(OptionError, match=r"attached as 'a', 'b'.*by its name"):
            call()
    with pytest.raises(OptionError, match="'rws-snow' twice"):
        hf_rws.patch(fresh(), folders, scales={folders[1]: 1.0, "rws-snow": 1.0})


def test_a_name_comes_before_an_id(folders):
    patcher = hf_rws.patch(fresh(), [("out/rws-snow", folders[0]), ("snow", folders[1])])
    patcher.set({"out/rws-snow": 0.4})
    assert patcher.scales == {"out/rws-snow": 0.4, "snow": 0.0}


# --- which are nobody's choice ---


def test_the_repr_says_which_scales_are_defaults():
    patcher = hf_rws.patch(fresh(), made("fog", "snow"))
    patcher.add(signature(NAME, "rain"))
    assert patcher.scales == {"fog": 0.5, "snow": 0.5, "rain": 1.0}
    assert [line.split(", ")[0].strip() for line in repr(patcher).splitlines()[1:]] == [
        "fog: scale 0.5 (default: 1/n)",
        "snow: scale 0.5 (default: 1/n)",
        "rain: scale 1 (default: 1)",
    ]
    with patcher.using({"fog": 0.5}):
        assert "default" not in repr(patcher)
    assert repr(patcher).count("default") == 3
    patcher.set(patcher.scales)
    assert "default" not in repr(patcher)


def test_scales_that_are_given_are_no_defaults():
    patcher = hf_rws.patch(fresh(), made("fog"), scales=1.0)
    patcher.add(signature(NAME, "snow"), 1.0)
    assert "default" not in repr(patcher)
    assert "default: 1)" in repr(hf_rws.patch(fresh(), made("fog")))


# --- a patcher that carries nothing ---


def test_a_patcher_that_carries_nothing_is_used():
    model = fresh()
    empty = hf_rws.load_patched(model, []).rws
    empty.base = "where it is from"
    assert hf_rws.patch(model, made("fog")) is empty is model.rws
    assert empty.scales == {"fog": 1.0}
    empty.remove("fog")
    assert hf_rws.load_patched(model, made("snow")).rws is empty
    assert empty.base == "where it is from"
    with pytest.raises(OptionError, match="carries signatures already"):
        hf_rws.patch(model, made("fog"))
    empty.clear()
    assert identical(model, state(fresh()))


def test_what_does_not_fit_leaves_a_patcher_that_carries_nothing_as_it_was():
    model = fresh()
    patcher = hf_rws.load_patched(model, []).rws
    with pytest.raises(MismatchError):
        hf_rws.patch(model, [signature("resnet18")])
    assert model.rws is patcher
    assert patcher.scales == {}


def test_another_models_patcher_is_not_used():
    model, other = fresh(), fresh()
    other.rws = hf_rws.load_patched(model, []).rws
    with pytest.raises(OptionError, match="carries"):
        hf_rws.patch(other, made("fog"))


def test_strict_is_asked_of_what_is_put_on_then():
    model = deepcopy(trio(NAME).robust)
    patcher = hf_rws.load_patched(model, []).rws
    with pytest.raises(MismatchError, match="strict"):
        hf_rws.patch(model, made("fog"), strict=True)
    with pytest.warns(UserWarning, match="transfer"):
        patcher.add(made("fog")[0])
    patcher.bake()


def test_strict_stays_with_what_was_asked_last():
    model = deepcopy(trio(NAME).robust)
    hf_rws.load_patched(model, [])
    patcher = hf_rws.patch(model, [], strict=True)
    with pytest.raises(MismatchError, match="strict"):
        patcher.add(made("fog")[0])
    assert hf_rws.patch(model, []) is patcher
    with pytest.warns(UserWarning, match="transfer"):
        patcher.add(made("fog")[0])
    patcher.remove("fog")
    with pytest.warns(UserWarning, match="transfer"):
        hf_rws.patch(model, made("fog"), strict=False)


def test_a_clean_patcher_does_not_keep_a_model_from_being_packed(tmp_path):
    model = hf_rws.load_patched(fresh(), [])
    bundle(model, made("fog"), tmp_path / "bundle")
    assert hf_rws.load_patched(lockfile=tmp_path / "bundle").rws.scales == {"fog": 1.0}
    hf_rws.patch(model, made("fog"))
    with pytest.raises(OptionError, match="signatures on"):
        bundle(model, made("fog"), tmp_path / "other")


# --- frozen batch norms ---


@pytest.mark.parametrize("freeze", [freeze_batch_norm_2d, "torchvision"])
def test_a_base_with_frozen_batch_norms_is_the_same_base(freeze):
    torch.manual_seed(0)
    options = {"num_classes": 10, "channels": (8, 16, 24, 32)}
    base, robust, frozen = (timm.create_model("resnet18", **options).eval() for _ in range(3))
    frozen.load_state_dict(base.state_dict())
    frozen = _with_frozen_norms(frozen) if freeze == "torchvision" else freeze(frozen)
    assert not [name for name in frozen.state_dict() if "num_batches" in name]
    made = hf_rws.extract(robust, base, None, projection=None, corruption="fog", bits=8)
    assert hf_rws.extract(robust, frozen, None, projection=None, corruption="fog", bits=8).sha256 == made.sha256
    images = torch.randn(2, 3, 64, 64)
    clean = frozen(images)
    patcher = hf_rws.patch(frozen, [made])
    hf_rws.patch(base, [made])
    torch.testing.assert_close(frozen(images), base(images), rtol=1e-4, atol=1e-4)
    patcher.clear()
    assert torch.equal(frozen(images), clean)


def _with_frozen_norms(model):
    for name, norm in [pair for pair in model.named_modules() if isinstance(pair[1], torch.nn.BatchNorm2d)]:
        frozen = FrozenBatchNorm2d(norm.num_features, norm.eps)
        frozen.load_state_dict(norm.state_dict())
        activation = getattr(norm, "act", None)
        model.set_submodule(name, frozen if activation is None else torch.nn.Sequential(frozen, activation))
    return model
