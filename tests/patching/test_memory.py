"""What a patched model takes, and what a switch allocates."""

import gc
from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import nn

import hf_rws
from tests.models import create, make_trio, moved


def storages():
    """The memory of all tensors that are alive and have any, by address; what tests of torch.export leave has none."""
    gc.collect()
    plain = [item for item in gc.get_objects() if type(item) in (torch.Tensor, nn.Parameter) and not item.is_meta]
    found = [item.untyped_storage() for item in plain if not torch._is_functional_tensor(item)]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


@cache
def halved():
    """A ResNet-18 of half the width: large tensors, which have tiles of their own, and many small ones."""
    return make_trio(create("resnet18", options={"channels": (32, 64, 128, 256)}))


def signatures_of_halved(bits):
    """Copies, so that what a test leaves in one is not there before the next."""
    return deepcopy(_made_of_halved(bits))


@cache
def _made_of_halved(bits):
    models = halved()
    robust = {label: moved(models.start, sum(label.encode())) for label in ("fog", "snow")}
    return [
        hf_rws.extract(model, models.standard, models.start, corruption=label, bits=bits)
        for label, model in robust.items()
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [8, "ternary"])
def test_a_patched_model_takes_at_most_the_touched_tensors_twice(dtype, bits):
    model = halved().base().to(dtype)
    made = signatures_of_halved(bits)
    touched = sum(model.state_dict()[key].nbytes for key in made[0].specs)
    before = storages()
    patcher = hf_rws.patch(model, made)
    for scales in ({"fog": 1.0}, {"fog": 0.5}, {"fog": 0.5, "snow": 0.5}, {"snow": 0.7}, {"snow": 0.7}):
        patcher.set(scales)
    after = storages()
    assert sum(size for address, size in after.items() if address not in before) <= 2 * touched
    for scales in ({"fog": 1.0}, {"fog": 0.5}, {"fog": 0.5, "snow": 0.5}, {"snow": 0.7}, {}):
        patcher.set(scales)
    assert storages() == after  # no new memory in a switch


@pytest.mark.parametrize("bits", [8, 4, 3, "ternary"])
def test_a_switch_allocates_next_to_nothing_meanwhile(bits):
    patcher = hf_rws.patch(halved().base(), signatures_of_halved(bits))
    switches = [{"fog": 1.0}, {"snow": 0.5}, {"snow": 0.7}, {"fog": 0.3, "snow": 0.3}, {}]
    for scales in switches:
        patcher.set(scales)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for scales in switches:
            patcher.set(scales)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert max((event.nbytes() for event in events), default=0) <= 1024


@pytest.mark.parametrize("bits", [8, "ternary", None])
def test_what_is_baked_frees_its_memory_at_once(bits):
    model, made = halved().base(), signatures_of_halved(bits)
    gc.collect()
    gc.disable()
    try:
        patcher = hf_rws.patch(model, made)
        for scales in ({"fog": 1.0}, {"snow": 1.0}, {"fog": 0.5, "snow": 0.5}):
            patcher.set(scales)
        patcher.bake()
        del patcher
        assert gc.collect() == 0  # nothing is left for the collector of circles
    finally:
        gc.enable()
