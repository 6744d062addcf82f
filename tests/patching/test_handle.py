"""`model.rws`: what is attached, what it is called, what it shows, and how it goes."""

import pytest

import hf_rws
from hf_rws.errors import OptionError
from tests.models import identical, signature, state, trio


def patched(name, *labels, **options):
    """A patched copy of the standard model, its patcher, and the state before."""
    model = trio(name).base()
    before = state(model)
    return model, hf_rws.patch(model, [signature(name, label) for label in labels], **options), before


def test_add_remove_names_and_the_same_object():
    model, patcher, before = patched("vgg16_gap", "fog")
    assert model.rws is patcher
    patcher.add(signature("vgg16_gap", "snow"), scale=0.2, name="winter")
    assert patcher.scales == {"fog": 1.0, "winter": 0.2}
    assert patcher.signatures["winter"] is signature("vgg16_gap", "snow")
    patcher.remove("fog")
    assert patcher.scales == {"winter": 0.2}
    patcher.remove("winter")
    assert identical(model, before)
    patcher.add(signature("vgg16_gap"))
    assert patcher.scales == {"fog": 1.0}


def test_bake_keeps_the_weights_and_leaves_no_handle():
    model, patcher, before = patched("vgg16_gap", "fog")
    on = state(model)
    assert patcher.bake() is model
    assert not hasattr(model, "rws")
    assert identical(model, on)
    with pytest.warns(UserWarning, match="again is a transfer"):
        hf_rws.patch(model, [("again", signature("vgg16_gap"))])
    model.rws.clear()
    assert identical(model, on)
    assert not identical(model, before)


def test_repr_shows_base_names_scales_bytes_and_transfers():
    text = repr(patched("vgg16_gap", "fog", "snow", scales=[0.25, 1.0])[1])
    assert "vgg16_gap" in text
    assert "fog: scale 0.25" in text
    assert f"{signature('vgg16_gap').nbytes:,} bytes" in text
    assert "transfer" not in text


def test_a_baked_patcher_cannot_be_used_again():
    _, patcher, _ = patched("vgg16_gap", "fog")
    patcher.bake()
    for call in (patcher.clear, patcher.verify, patcher.bake, lambda: patcher.add(signature("vgg16_gap", "snow"))):
        with pytest.raises(OptionError, match=r"bake\(\)"):
            call()
    assert "bake()" in repr(patcher)


def test_a_second_patcher_on_the_same_model_is_refused():
    model, _, _ = patched("vgg16_gap", "fog")
    with pytest.raises(OptionError, match=r"model.rws.add"):
        hf_rws.patch(model, signature("vgg16_gap", "snow"))
