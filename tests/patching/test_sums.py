"""The patched weights are, to the bit, what the definition says, and depend on the scales only."""

import numpy as np
import pytest
import torch
from torch import nn

import hf_rws
from hf_rws.errors import OptionError
from hf_rws.extraction import describe_base
from hf_rws.layers import layer_tensors
from hf_rws.patching._tiles import reference
from hf_rws.signature.config import CorruptionSpec, Method, SignatureConfig, TensorSpec
from tests.models import DEVICES, identical, signature, state, trio


def patched(name, *labels, **options):
    """A patched copy of the standard model, its patcher, and the state before."""
    model = trio(name).base()
    before = state(model)
    return model, hf_rws.patch(model, [signature(name, label) for label in labels], **options), before


def by_definition(before, terms, model):
    """Clean values plus scaled deltas by the definition, one tensor and one operation after another."""
    found = dict(before)
    for key in {key for made, _ in terms for key in made.specs}:
        deltas = [(made.delta(key).to(before[key].device), scale) for made, scale in terms if key in made.specs]
        kind = next(made.specs[key].kind for made, _ in terms if key in made.specs)
        eps = model.get_submodule(key.rpartition(".")[0]).eps if kind == "running_var" else None
        found[key] = reference(before[key], deltas, eps)
    return found


BITS = [8, 7, 4, 3, 1, "ternary", None, "small"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", BITS, ids=str)
@pytest.mark.parametrize("name", ["vgg16_bn_gap", "resnet18"])  # tensors in one tile, and in many
def test_patched_weights_are_clean_weights_plus_scaled_deltas_to_the_bit(name, bits, device):
    model = trio(name).base().to(device)
    before = state(model)
    made = {"fog": signature(name, "fog", bits), "snow": signature(name, "snow", 4, num_layers=4)}
    patcher = hf_rws.patch(model, list(made.values()), scales=[1.0, 0.0])
    one, other = {"fog": 1.0}, {"snow": 1.0}  # the second time in a row it is done in another way
    for scales in (other, one, one, {"fog": 0.7}, {"snow": -0.3}, {"snow": 1.0, "fog": 1.0}, {"fog": 0.3, "snow": 2.0}):
        patcher.set(scales)
        terms = [(made[key], scales[key]) for key in sorted(scales)]
        assert identical(model, by_definition(before, terms, model)), scales
        patcher.verify()
    patcher.clear()
    assert identical(model, before)


@pytest.mark.parametrize("codec", ["linear", "log"])
def test_the_released_codes_codecs_are_patched_to_the_bit(codec):
    model = trio("vgg16_gap").base()
    before, made = state(model), signature("vgg16_gap", bits=None).quantize(4, codec=codec)
    hf_rws.patch(model, made, scales=[0.5])
    assert identical(model, by_definition(before, [(made, 0.5)], model))


def test_tensors_of_a_signature_that_is_off_keep_their_bits_even_the_sign_of_zero():
    model = trio("vgg16_bn_gap").base()
    deep = model.features[17]
    with torch.no_grad():
        deep.bias.fill_(-0.0)
    few = signature("vgg16_bn_gap", num_layers=3)
    many = signature("vgg16_bn_gap", "snow")
    with pytest.warns(UserWarning, match="transfer"):
        patcher = hf_rws.patch(model, [few, many], scales=[1.0, 0.0])
    before = state(deep)
    for scales in ({"fog": 0.5}, {"snow": 1.0}, {"fog": -1.0}):
        patcher.set(scales)
        patcher.verify()
    assert identical(deep, before)
    assert bool(torch.signbit(deep.bias).all())


def test_set_is_absolute_and_what_is_not_named_goes_off():
    model, patcher, _ = patched("vgg16_bn_gap", "fog", "snow")
    patcher.set({"fog": 0.3})
    assert patcher.scales == {"fog": 0.3, "snow": 0.0}
    once = state(model)
    patcher.set({"snow": 5})
    patcher.set({"fog": 0.3})
    assert identical(model, once)


def test_scale_zero_is_the_clean_model():
    model, patcher, before = patched("vgg16_bn_gap", "fog", scales=[0.0])
    assert identical(model, before)
    patcher.verify()


def test_without_scales_one_has_one_and_several_share():
    assert patched("vgg16_gap", "fog")[1].scales == {"fog": 1.0}
    assert patched("vgg16_gap", "fog", "snow")[1].scales == {"fog": 0.5, "snow": 0.5}


def test_any_scale_leaves_valid_variances():
    model, patcher, _ = patched("vgg16_bn_gap", "fog")
    for scale in (-20.0, -1.0, 3.0, 20.0, 1e4):
        if abs(scale) < 1000:
            patcher.set({"fog": scale})
        else:  # beyond what the dtype holds: refused, and nothing has changed
            with pytest.raises(OptionError, match="too large"):
                patcher.set({"fog": scale})
        patcher.verify()
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                assert bool((value >= 0).all())
                assert bool(torch.isfinite(value).all())


def test_batch_counters_and_deeper_layers_are_never_touched():
    model, _, before = patched("vgg16_bn_gap", "fog")
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == set(signature("vgg16_bn_gap").specs)
    assert not any(key.endswith("num_batches_tracked") for key in changed)
    assert {int(key.split(".")[1]) for key in changed} == {0, 1, 3, 4, 7, 8, 10, 11, 14, 15, 17, 18, 20, 21}


def test_a_tuple_of_signatures_is_a_sequence_and_numpy_scales_are_numbers():
    both = (signature("vgg16_gap"), signature("vgg16_gap", "snow"))
    patcher = hf_rws.patch(trio("vgg16_gap").base(), both, scales=(np.float32(0.5), np.int64(1)))
    assert patcher.scales == {"fog": 0.5, "snow": 1.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["vgg16_bn_gap", "convnext_atto"])
def test_other_dtypes_are_summed_in_float32_and_cast_once(name, dtype):
    model = trio(name).base().to(dtype)
    before = state(model)
    hf_rws.patch(model, signature(name), scales=[0.5])
    key = next(key for key, spec in signature(name).specs.items() if spec.kind == "weight")
    expected = (before[key].float() + 0.5 * signature(name).delta(key)).to(dtype)
    assert torch.equal(model.state_dict()[key], expected)
    model.rws.clear()
    assert identical(model, before)


def test_models_in_channels_last_layout_keep_it():
    model = trio("resnet18").base().to(memory_format=torch.channels_last)
    before = state(model)
    strides = {key: value.stride() for key, value in model.state_dict().items()}
    hf_rws.patch(model, signature("resnet18"), scales=[0.5])
    plain = trio("resnet18").base()
    hf_rws.patch(plain, signature("resnet18"), scales=[0.5])
    assert identical(model, state(plain))
    model.rws.clear()
    assert identical(model, before)
    assert {key: value.stride() for key, value in model.state_dict().items()} == strides


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


def test_tied_weights_are_one_tensor_that_is_patched_once():
    torch.manual_seed(0)
    standard, robust = Tied().eval(), Tied().eval()
    before = state(standard)
    made = hf_rws.extract(robust, standard, None, corruption="fog", projection=None, num_layers="all", bits=None)
    assert "first.weight" in made.specs
    assert "second.weight" not in made.specs
    hf_rws.patch(standard, made)
    for key, value in robust.state_dict().items():
        torch.testing.assert_close(standard.state_dict()[key], value)
    assert standard.second.weight is standard.first.weight
    standard.rws.clear()
    assert identical(standard, before)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,), (0, 3, 4), (1, 7)])
def test_a_tensor_of_any_shape_may_be_the_only_small_one(shape):
    model = nn.Sequential(nn.Linear(300, 300, bias=False))
    model.extra = nn.Parameter(torch.zeros(shape))
    before = state(model)
    deltas = {name: torch.full(value.shape, 0.5) for name, value in before.items()}
    tensors = tuple(TensorSpec(n, tuple(d.shape), layer_tensors(model)[n].kind, 0, 32) for n, d in deltas.items())
    config = SignatureConfig(
        describe_base(model, before), CorruptionSpec(("fog",)), Method("extracted", 1, None), tensors
    )
    patcher = hf_rws.patch(model, hf_rws.Signature.from_deltas(deltas, config.with_bits(None)))
    assert identical(model, {name: value + 0.5 for name, value in before.items()})
    patcher.verify()
    patcher.clear()
    assert identical(model, before)
