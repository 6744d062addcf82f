"""Bases that cannot be patched are refused before anything is written; odd ones that can are."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import hf_rws
from hf_rws.errors import OptionError
from tests.models import identical, signature, state, trio


def _data(name, make):
    """A change of one tensor of the model."""

    def change(model):
        module, _, leaf = name.rpartition(".")
        owner = model.get_submodule(module)
        tensor = make(getattr(owner, leaf).detach())
        if leaf in owner._parameters:
            setattr(owner, leaf, nn.Parameter(tensor))
        else:
            owner._buffers[leaf] = tensor

    return change


def _two_in_one_piece(model):
    """A bias that begins in the middle of another."""
    memory = torch.randn(5, generator=torch.Generator().manual_seed(0))
    model.features[0].bias, model.features[1].bias = nn.Parameter(memory[:3]), nn.Parameter(memory[2:])


REFUSED = {
    "expanded": (
        _data("features.0.bias", lambda t: torch.ones(1).expand(t.shape)),
        r"several values of features.0.bias lie in the same memory.*clone it first",
    ),
    "overlapping rows": (
        _data("features.3.weight", lambda t: torch.randn(100).as_strided(t.shape, (3, 9, 3, 1))),
        r"several values of features.3.weight",
    ),
    "overlapping tensors": (_two_in_one_piece, r"features.1.bias and features.0.bias share memory"),
    "negative variance": (
        _data("features.4.running_var", lambda t: t.clone().index_fill_(0, torch.tensor([1]), -1.0)),
        r"features.4.running_var of the model holds -1, and a variance is never negative",
    ),
    "slightly negative variance": (
        _data("features.4.running_var", lambda t: t.clone().index_fill_(0, torch.tensor([1]), -5e-6)),
        r"features.4.running_var of the model holds -5e-06",
    ),
    "float8": (lambda m: m.to(torch.float8_e4m3fn), r"features.0.weight is kept in torch.float8_e4m3fn"),
    "one in float8": (lambda m: m.features[3].to(torch.float8_e5m2), r"features.3.weight is kept in .*bfloat16"),
    "sparse": (_data("features.0.weight", lambda t: t.to_sparse()), r"features.0.weight is a .*floating-point model"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_written(change, message):
    model = trio("vgg16_bn_gap").base()
    change(model)
    before = {name: deepcopy(value) for name, value in model.state_dict().items()}
    with pytest.raises(OptionError, match=message):
        hf_rws.patch(model, signature("vgg16_bn_gap"))
    assert not hasattr(model, "rws")
    for name, value in model.state_dict().items():
        assert torch.equal(value.to_dense().double(), before[name].to_dense().double()), name


def test_tensors_that_interleave_in_memory_do_not_share_it():
    model = trio("vgg16_gap").base()
    memory = torch.zeros(3, 2)
    model.features[0].bias, model.features[2].bias = nn.Parameter(memory[:, 0]), nn.Parameter(memory[:, 1])
    with pytest.warns(UserWarning, match="transfer"):
        hf_rws.patch(model, signature("vgg16_gap"))
    model.rws.verify()
    model.rws.clear()
    assert not memory.any()


def test_a_model_of_many_dtypes_is_patched_exactly():
    model = trio("resnet18").base()
    model.conv1.double()
    model.layer1.half()
    model.layer2.bfloat16()
    before = state(model)
    with pytest.warns(UserWarning, match="transfer"):
        patcher = hf_rws.patch(model, signature("resnet18"))
    patcher.set({"fog": 0.5})
    patcher.verify()
    patcher.clear()
    assert identical(model, before)


def test_a_patched_model_that_goes_to_float8_is_refused_and_can_be_kept():
    model = trio("vgg16_bn_gap").base()
    patcher = hf_rws.patch(model, signature("vgg16_bn_gap"))
    model.to(torch.float8_e4m3fn)
    for call in (patcher.clear, patcher.verify, lambda: patcher.clear(force=True)):
        with pytest.raises(OptionError, match=r"is kept in torch.float8_e4m3fn"):
            call()
    with pytest.warns(UserWarning, match="not those of base and signatures"):
        patcher.bake()
