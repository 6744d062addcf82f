"""A call that fails changes nothing."""

from dataclasses import replace

import pytest
import torch

import hf_rws
from hf_rws.errors import MismatchError, OptionError
from hf_rws.patching._tiles import Tile
from hf_rws.signature.arrays import pack_arrays
from tests.models import ARCHITECTURES, identical, signature, state, trio


def patched(name, *labels, **options):
    """A patched copy of the standard model, its patcher, and the state before."""
    model = trio(name).base()
    before = state(model)
    return model, hf_rws.patch(model, [signature(name, label) for label in labels], **options), before


def _refused(name, error, message, action):
    model, patcher, _ = patched(name, "fog", scales=[0.5])
    on, scales = state(model), patcher.scales
    with pytest.raises(error, match=message):
        action(patcher)
    assert identical(model, on)
    assert patcher.scales == scales
    patcher.verify()


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda p: p.set({"rain": 1.0}), OptionError, "no signature called 'rain'.*'fog'"),
        (lambda p: p.set({"fog": float("inf")}), OptionError, "finite number"),
        (lambda p: p.set({"fog": float("nan")}), OptionError, "finite number"),
        (lambda p: p.set({"fog": "1"}), OptionError, "finite number"),
        (lambda p: p.set({"fog": True}), OptionError, "finite number"),
        (lambda p: p.remove("rain"), OptionError, "'rain'"),
        (lambda p: p.add(signature("vgg16_gap")), OptionError, "attached already"),
        (lambda p: p.add(signature("resnet18"), name="r"), MismatchError, "for resnet18, the model is vgg16_gap"),
        (lambda p: p.add(signature("vgg16_gap", "snow"), scale=float("nan")), OptionError, "finite number"),
        (lambda p: p.add("no-such-folder"), hf_rws.RWSError, "no-such-folder"),
        (lambda p: p.set({"fog": 10**400}), OptionError, "finite number"),
        (lambda p: p.set(["fog"]), OptionError, "mapping"),
        (lambda p: p.set({"fog": 1e39}), OptionError, "too large"),
        (lambda p: p.add(("a", "b", "c")), OptionError, "pair"),
        (lambda p: p.add((3, signature("vgg16_gap", "snow"))), OptionError, "pair"),
    ],
)
def test_bad_calls_change_nothing(action, error, message):
    _refused("vgg16_gap", error, message, action)


def test_other_shapes_list_what_differs():
    import timm

    torch.manual_seed(0)
    wide = timm.create_model("vgg16_gap", num_classes=10, width=0.1)
    before = state(wide)
    with pytest.raises(
        MismatchError, match=r"features.0.weight is \(6, 3, 3, 3\) in the model, \(3, 3, 3, 3\).*more diff"
    ):
        hf_rws.patch(wide, signature("vgg16_gap"))
    assert identical(wide, before)


@pytest.mark.parametrize("name", ["vgg16_bn_gap", "resnet18"])
def test_an_error_in_the_middle_of_writing_is_rolled_back(name, monkeypatch):
    model, patcher, _ = patched(name, "fog", scales=[0.5])
    on, calls, whole = state(model), [], Tile.store

    def failing(self, total):
        calls.append(self)
        if len(calls) == 2:
            raise MemoryError
        whole(self, total)

    monkeypatch.setattr(Tile, "store", failing)
    with pytest.raises(MemoryError):
        patcher.set({"fog": 2.0})
    assert len(calls) > 2
    assert identical(model, on)
    assert patcher.scales == {"fog": 0.5}
    patcher.verify()


def test_a_model_that_holds_nan_is_refused():
    model = trio("vgg16_gap").base()
    with torch.no_grad():
        model.features[2].weight[0] = torch.nan
    for scale in (1.0, 0.0):
        with pytest.raises(OptionError, match=r"features.2.weight of the model holds NaN"):
            hf_rws.patch(model, signature("vgg16_gap"), scales=[scale])
    assert not hasattr(model, "rws")


def test_a_scale_that_half_precision_cannot_hold_is_refused_and_nothing_changes():
    model = trio("vgg16_bn_gap").base().half()
    before = state(model)
    with pytest.raises(OptionError, match=r"no longer be finite in torch.float16.*too large"):
        hf_rws.patch(model, signature("vgg16_bn_gap"), scales=[1e6])
    assert identical(model, before)
    assert not hasattr(model, "rws")


def test_after_a_failed_add_the_other_tensors_are_free_again():
    model, patcher, _ = patched("vgg16_gap", "fog")
    deep = signature("vgg16_gap", "snow", num_layers="all")
    with pytest.raises(OptionError, match="too large"):
        patcher.add(deep, scale=1e39)
    with torch.no_grad():
        model.features[28].weight.add_(1.0)  # only the refused signature touches it
    patcher.clear()


def test_tied_tensors_are_refused():
    model = trio("vgg16_gap").base()
    model.features[12].weight = model.features[14].weight
    with pytest.raises(OptionError, match=r"features.14.weight and features.12.weight share memory"):
        hf_rws.patch(model, signature("vgg16_gap"))


def test_meta_and_quantized_models_are_refused():
    import timm

    with torch.device("meta"):
        hollow = timm.create_model("vgg16_gap", num_classes=10, **ARCHITECTURES["vgg16_gap"])
    with pytest.raises(OptionError, match="meta device"):
        hf_rws.patch(hollow, signature("vgg16_gap"))
    model = trio("vgg16_gap").base()
    weight = model.features[0].weight
    del model.features[0].weight
    model.features[0].register_buffer("weight", weight.detach().to(torch.int8))
    with pytest.raises(OptionError, match="floating-point model first"):
        hf_rws.patch(model, signature("vgg16_gap"))


def test_variances_that_would_overflow_are_refused_also_where_they_are_coded():
    made = signature("vgg16_bn_gap", bits=None)
    tensors = [replace(one, bits=8) if one.kind == "running_var" else one for one in made.config.tensors]
    deltas = {one.name: torch.full(one.shape, 100.0) if one.bits == 8 else torch.zeros(one.shape) for one in tensors}
    config = replace(made.config, tensors=tuple(tensors))
    model = trio("vgg16_bn_gap").base()
    before = state(model)
    with pytest.raises(OptionError, match="no longer be finite"):
        hf_rws.patch(model, hf_rws.Signature(config, pack_arrays(deltas, tensors, "symmetric"), "fog"))
    assert identical(model, before)
