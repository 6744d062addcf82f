"""Another base of the same architecture: told once, or refused."""

import warnings

import pytest
import torch

import hf_rws
from hf_rws.errors import MismatchError, OptionError
from tests.models import identical, moved, signature, state, trio


def patched(name, *labels, **options):
    """A patched copy of the standard model, its patcher, and the state before."""
    model = trio(name).base()
    before = state(model)
    return model, hf_rws.patch(model, [signature(name, label) for label in labels], **options), before


def test_another_base_of_the_same_architecture_is_a_transfer():
    other = moved(trio("vgg16_bn_gap").start, 9)
    before = state(other)
    with pytest.warns(UserWarning, match="fog is a transfer: .*other weights"):
        hf_rws.patch(other, signature("vgg16_bn_gap"))
    assert "transfer" in repr(other.rws)
    other.rws.clear()
    assert identical(other, before)


def test_the_same_base_is_no_transfer_in_any_precision(recwarn):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        hf_rws.patch(trio("vgg16_bn_gap").base().to(dtype), signature("vgg16_bn_gap"), strict=True)
    assert not recwarn


def test_a_second_signature_is_compared_with_the_clean_weights(recwarn):
    _, patcher, _ = patched("vgg16_bn_gap", "fog")
    patcher.add(signature("vgg16_bn_gap", "snow"))
    assert not recwarn


def test_strict_makes_a_transfer_an_error():
    other = moved(trio("vgg16_bn_gap").start, 9)
    before = state(other)
    with pytest.raises(MismatchError, match=r"other weights.*strict=True"):
        hf_rws.patch(other, signature("vgg16_bn_gap"), strict=True)
    assert identical(other, before)


def test_another_normalisation_is_told():
    model = trio("vgg16_bn_gap").base()
    model.pretrained_cfg = dict(model.pretrained_cfg, mean=(0.5, 0.5, 0.5))
    with pytest.warns(UserWarning, match=r"normalised with mean"):
        hf_rws.patch(model, signature("vgg16_bn_gap"))


def test_another_head_is_a_transfer_only_if_the_weights_are_others(recwarn):
    model = trio("vgg16_bn_gap").base()
    model.reset_classifier(100)
    hf_rws.patch(model, signature("vgg16_bn_gap"), strict=True)
    assert not recwarn


def test_a_transfer_is_told_once():
    other = moved(trio("vgg16_bn_gap").start, 9)
    with pytest.warns(UserWarning, match="fog is a transfer") as told:
        patcher = hf_rws.patch(other, signature("vgg16_bn_gap"))
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patcher.set({"fog": 0.3})
        patcher.clear()
    with pytest.warns(UserWarning, match="snow is a transfer") as told:
        patcher.add(signature("vgg16_bn_gap", "snow"))
    assert len(told) == 1
    assert repr(patcher).count("transfer: ") == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_weights_are_a_transfer_in_half_precision_too(dtype):
    other = moved(trio("vgg16_bn_gap").start, 9).to(dtype)
    with pytest.warns(UserWarning, match="other weights"):
        hf_rws.patch(other, signature("vgg16_bn_gap"))


def test_errors_of_a_transfer_are_ours():
    model = trio("vgg16_bn_gap").base()
    with torch.no_grad():
        model.features[0].weight.mul_(1 + 1e-6)
    with pytest.raises(hf_rws.RWSError, match=r"strict=True"):
        hf_rws.patch(model, signature("vgg16_bn_gap"), strict=True)
    with pytest.raises(OptionError, match="too large"), pytest.warns(match="transfer"):
        hf_rws.patch(model, signature("vgg16_bn_gap"), scales=[1e38])
