"""Something else changes the weights: it is noticed, refused and never undone silently."""

import pytest
import torch
from torch import nn

import hf_rws
from hf_rws.errors import IntegrityError, OptionError
from tests.models import create, identical, moved, signature, state, trio


def patched(name, *labels, **options):
    """A patched copy of the standard model, its patcher, and the state before."""
    model = trio(name).base()
    before = state(model)
    return model, hf_rws.patch(model, [signature(name, label) for label in labels], **options), before


def patched_by_half(name="vgg16_bn_gap", *, scale=0.5, **options):
    model = trio(name).base()
    before = state(model)
    return model, hf_rws.patch(model, signature(name, **options), scales=[scale]), before


def test_models_made_in_inference_mode_are_watched_by_value():
    with torch.inference_mode():
        model = create("vgg16_bn_gap")
        with pytest.warns(UserWarning, match="s is a transfer"):
            patcher = hf_rws.patch(model, [("s", signature("vgg16_bn_gap"))])
        model.features[0].weight.add_(1.0)
        with pytest.raises(IntegrityError):
            patcher.set({"s": 0.5})
    fresh = create("vgg16_bn_gap")
    assert not fresh.features[0].weight.is_inference()
    with torch.inference_mode():
        made = create("vgg16_bn_gap")
    with pytest.raises(OptionError, match="inference mode"):
        hf_rws.patch(made, signature("vgg16_bn_gap"))


def _optimizer_step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 3, 32, 32)).sum().backward()
    optimizer.step()


def _load_other_weights(model):
    model.load_state_dict(moved(model, 5).state_dict())


def _assign_other_weights(model):
    model.features[0].weight = nn.Parameter(torch.zeros_like(model.features[0].weight))


@pytest.mark.parametrize("change", [_optimizer_step, _load_other_weights, _assign_other_weights])
@pytest.mark.parametrize("action", ["set", "clear", "add", "remove", "using", "verify"])
def test_foreign_changes_are_noticed_and_never_undone_silently(change, action):
    model, patcher, before = patched("vgg16_gap", "fog")
    change(model)
    now = state(model)
    calls = {
        "set": lambda: patcher.set({"fog": 0.5}),
        "clear": patcher.clear,
        "add": lambda: patcher.add(signature("vgg16_gap", "snow")),
        "remove": lambda: patcher.remove("fog"),
        "using": lambda: patcher.using({}).__enter__(),
        "verify": patcher.verify,
    }
    with pytest.raises(IntegrityError, match=r"features.*bake\(\).*clear\(force=True\)"):
        calls[action]()
    assert identical(model, now)
    patcher.clear(force=True)
    touched = signature("vgg16_gap").specs
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in touched)
    patcher.verify()


def test_loading_the_same_weights_again_is_no_change():
    model, patcher, before = patched("vgg16_gap", "fog")
    model.load_state_dict(state(model))
    patcher.clear()
    assert identical(model, before)


def test_training_deeper_layers_of_a_patched_model_is_fine():
    model, patcher, before = patched("vgg16_gap", "fog")
    with torch.no_grad():
        model.head.fc.weight.add_(1.0)
    patcher.clear()
    assert torch.equal(model.features[0].weight, before["features.0.weight"])
    assert torch.equal(model.head.fc.weight, before["head.fc.weight"] + 1.0)


def test_a_change_of_values_and_dtype_at_once_is_noticed():
    model, patcher, _ = patched("vgg16_bn_gap", "fog")
    with torch.no_grad():
        model.features[0].weight.add_(1.0)
    model.half()
    with pytest.raises(IntegrityError):
        patcher.clear()


def test_values_that_a_cast_to_half_loses_are_noticed_when_it_is_cast_back():
    model, patcher, _ = patched_by_half()
    model.half().float()
    with pytest.raises(IntegrityError, match=r"bake\(\)"):
        patcher.clear()


def test_memory_that_was_swapped_by_its_data_is_followed_if_the_values_are_the_same():
    model, patcher, before = patched_by_half()
    weight = model.features[0].weight
    weight.data = weight.data.clone()
    patcher.set({"fog": 1.0})
    patcher.verify()
    weight.data = torch.zeros_like(weight)
    with pytest.raises(IntegrityError, match=r"features.0.weight"):
        patcher.set({"fog": 0.0})
    patcher.clear(force=True)
    assert identical(model, before)


def test_writes_through_data_are_seen_by_verify_and_by_every_call():
    model, patcher, _ = patched_by_half()
    model.features[0].weight.data.add_(1.0)
    for call in (patcher.verify, patcher.clear):
        with pytest.raises(IntegrityError, match=r"features.0.weight"):
            call()


def _replaced_convolution(model):
    model.features[0] = nn.Conv2d(3, 3, 3, padding=1)


def _removed_convolution(model):
    model.features[0] = nn.Identity()


def _another_shape(model):
    model.features[0] = nn.Conv2d(3, 5, 3, padding=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_replaced_convolution, r"features.0.*changed by something else"),
        (_removed_convolution, r"features.0.weight is gone"),
        (_another_shape, r"features.0.* has another shape"),
    ],
)
def test_other_modules_in_the_model_are_noticed(change, message):
    model, patcher, _ = patched_by_half()
    change(model)
    on = state(model)
    for call in (lambda: patcher.set({"fog": 1.0}), patcher.clear, patcher.verify):
        with pytest.raises(IntegrityError, match=message):
            call()
    assert identical(model, on)


def test_the_state_dict_is_the_patched_one_and_new_base_weights_are_not_undone():
    model, patcher, _ = patched_by_half()
    saved = state(model)
    assert identical(model, saved)  # as it is, no key more
    other = moved(trio("vgg16_bn_gap").start, 9)
    model.load_state_dict(other.state_dict())
    with pytest.raises(IntegrityError, match=r"bake\(\), then patch again"):
        patcher.clear()
    assert identical(model, state(other))
    with pytest.warns(UserWarning, match="not those of base and signatures, but kept"):
        model.rws.bake()
    with pytest.warns(UserWarning, match="transfer"):
        hf_rws.patch(model, signature("vgg16_bn_gap"))
    model.rws.clear()
    assert identical(model, state(other))
    model.rws.set({"fog": 0.5})
    model.load_state_dict(state(model))
    model.rws.clear()  # the same weights are no change
    assert identical(model, state(other))
