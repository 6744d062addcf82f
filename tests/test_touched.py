"""State that never lies: what happens to a patched model meanwhile, and what the patcher makes of it."""

import gc
import io
import os
import pickle
import warnings
from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import hf_rws
from hf_rws.errors import IntegrityError, OptionError
from hf_rws.extraction import describe_base
from hf_rws.layers import layer_tensors
from hf_rws.signature.arrays import pack_arrays
from hf_rws.signature.config import CorruptionSpec, Method, SignatureConfig, TensorSpec
from tests.models import DEVICES, create, identical, make_trio, moved, signature, state, trio


def patched(name="vgg16_bn_gap", *, scale=0.5, **options):
    model = trio(name).base()
    before = state(model)
    return model, hf_rws.patch(model, signature(name, **options), scales=[scale]), before


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def storages():
    """The memory of all tensors that are alive and have any, by address; what tests of torch.export leave has none."""
    gc.collect()
    plain = [item for item in gc.get_objects() if type(item) in (torch.Tensor, nn.Parameter) and not item.is_meta]
    found = [item.untyped_storage() for item in plain if not torch._is_functional_tensor(item)]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


# --- memory ---


@cache
def halved():
    """A ResNet-18 of half the width: large tensors, which have tiles of their own, and many small ones."""
    return make_trio(create("resnet18", options={"channels": (32, 64, 128, 256)}))


def signatures_of_halved(bits):
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


# --- the model goes elsewhere ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_cast_after_patching_stays_what_it_is(dtype):
    model, patcher, before = patched()
    model.to(dtype)
    cast = state(model)
    for _ in range(2):
        patcher.verify()
    assert identical(model, cast)
    patcher.set({"fog": 0.5})  # from now on with clean values in this dtype
    fresh = trio("vgg16_bn_gap").base().to(dtype)
    hf_rws.patch(fresh, signature("vgg16_bn_gap"), scales=[0.5])
    assert identical(model, state(fresh))
    patcher.verify()
    patcher.clear()
    assert identical(model, {k: v.to(dtype) if v.is_floating_point() else v for k, v in before.items()})


def test_values_that_a_cast_to_half_loses_are_noticed_when_it_is_cast_back():
    model, patcher, _ = patched()
    model.half().float()
    with pytest.raises(IntegrityError, match=r"bake\(\)"):
        patcher.clear()


@pytest.mark.parametrize("device", DEVICES)
def test_signatures_with_batch_norms_verify_on_every_device(device):
    model, patcher, before = patched()
    model.to(device)
    patcher.verify()
    patcher.set({"fog": 0.7})
    model.cpu()
    patcher.verify()
    fresh = trio("vgg16_bn_gap").base()
    hf_rws.patch(fresh, signature("vgg16_bn_gap"), scales=[0.7])
    assert identical(model, state(fresh))
    patcher.clear()
    assert identical(model, before)


def test_memory_that_was_swapped_by_its_data_is_followed_if_the_values_are_the_same():
    model, patcher, before = patched()
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
    model, patcher, _ = patched()
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
    model, patcher, _ = patched()
    change(model)
    on = state(model)
    for call in (lambda: patcher.set({"fog": 1.0}), patcher.clear, patcher.verify):
        with pytest.raises(IntegrityError, match=message):
            call()
    assert identical(model, on)


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


def test_patched_in_inference_mode_and_set_outside():
    model = trio("vgg16_bn_gap").base()
    before = state(model)
    with torch.inference_mode():
        patcher = hf_rws.patch(model, signature("vgg16_bn_gap"))
        patcher.set({"fog": 0.5})
        patcher.set({"fog": 0.6})
    patcher.set({"fog": 0.7})
    patcher.verify()
    patcher.clear()
    assert identical(model, before)


# --- saving, loading, copies ---


def test_the_state_dict_is_the_patched_one_and_new_base_weights_are_not_undone():
    model, patcher, _ = patched()
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


def test_a_pickled_patcher_is_not_larger_than_what_it_holds():
    model, patcher, before = patched("resnet18", scale=1.0)
    patcher.set({"fog": 0.5})
    patcher.set({"fog": 1.0})
    made = patcher.signatures["fog"]
    touched = sum(before[key].nbytes for key in made.specs)
    plain = len(pickle.dumps(trio("resnet18").base()))
    whole = pickle.dumps(model)
    assert len(whole) - plain < touched + 2 * made.nbytes + 100_000
    twin = pickle.loads(whole)
    twin.rws.verify()
    twin.rws.clear()
    assert identical(twin, before)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    loaded.half()  # before its patcher is used for the first time
    loaded.rws.clear()
    assert identical(loaded, {k: v.half() if v.is_floating_point() else v for k, v in before.items()})


def test_a_copy_of_a_copy_that_nobody_used():
    model, _, before = patched()
    twin = deepcopy(deepcopy(model))
    twin.rws.clear()
    assert identical(twin, before)


# --- tied weights ---


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


# --- compiled, wrapped, exported ---


def test_switching_does_not_recompile():
    model = trio("vgg16_bn_gap").base()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    patcher = hf_rws.patch(compiled, [signature("vgg16_bn_gap", label) for label in ("fog", "snow")])
    batch = images()
    with torch.no_grad():
        compiled(batch)
        assert counter.frame_count == 1
        for scales in ({"fog": 1.0}, {"fog": 0.3, "snow": 0.3}, {"snow": 1.0}, {}):
            patcher.set(scales)
            assert torch.equal(compiled(batch), model(batch))
    assert counter.frame_count == 1


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(os.name == "nt", reason="gloo over a file store")
def test_distributed_models_are_switched_between_steps(one_process):
    model = trio("vgg16_bn_gap").base()
    before = state(model)
    wrapped = nn.parallel.DistributedDataParallel(model)
    patcher = hf_rws.patch(wrapped, signature("vgg16_bn_gap"))
    assert model.rws is patcher
    wrapped(images()).sum().backward()  # broadcasts the buffers, which writes their own values to them
    patcher.set({"fog": 0.5})
    patcher.verify()
    wrapped(images()).sum().backward()
    patcher.clear()
    assert identical(model, before)


def test_a_baked_model_is_exported():
    model, patcher, _ = patched(scale=1.0)
    batch = images()
    with torch.no_grad():
        expected = model(batch)
    exported = torch.export.export(patcher.bake(), (batch,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(batch), expected)


def test_a_baked_model_goes_to_onnx():
    reference = pytest.importorskip("onnx.reference")
    pytest.importorskip("onnxscript")
    model, patcher, _ = patched(scale=1.0)
    batch = images()
    with torch.no_grad():
        expected = model(batch)
    program = torch.onnx.export(patcher.bake(), (batch,), dynamo=True, verbose=False)
    evaluator = reference.ReferenceEvaluator(program.model_proto)
    (found,) = evaluator.run(None, {evaluator.input_names[0]: batch.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected)


# --- transfers ---


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


# --- odd tensors ---


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
