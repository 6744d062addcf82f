"""A patched model that goes to another dtype or device, is copied, wrapped, compiled or exported."""

import io
import os
import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import hf_rws
from hf_rws.errors import IntegrityError
from tests.models import DEVICES, identical, signature, state, trio


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def patched(name, *labels, **options):
    """A patched copy of the standard model, its patcher, and the state before."""
    model = trio(name).base()
    before = state(model)
    return model, hf_rws.patch(model, [signature(name, label) for label in labels], **options), before


def patched_by_half(name="vgg16_bn_gap", *, scale=0.5, **options):
    model = trio(name).base()
    before = state(model)
    return model, hf_rws.patch(model, signature(name, **options), scales=[scale]), before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_clean_values_follow_the_model_to_another_dtype(dtype):
    model, patcher, before = patched("vgg16_bn_gap", "fog", scales=[0.5])
    model.to(dtype)
    patcher.verify()
    patcher.set({"fog": 1.0})
    patcher.clear()
    assert identical(model, {key: v.to(dtype) if v.is_floating_point() else v for key, v in before.items()})


@pytest.mark.parametrize("device", DEVICES)
def test_the_clean_values_follow_the_model_to_another_device(device):
    model, patcher, before = patched("vgg16_bn_gap", "fog", scales=[0.5])
    model.to(device)
    patcher.verify()
    patcher.set({"fog": 1.0})
    patcher.clear()
    assert identical(model.cpu(), before)


@pytest.mark.parametrize(
    "copy", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_a_copy_has_a_patcher_of_its_own(copy):
    model, patcher, before = patched("vgg16_bn_gap", "fog", scales=[0.5])
    twin = copy(model)
    assert twin.rws is not patcher
    assert identical(twin, state(model))
    twin.rws.clear()
    assert identical(twin, before)
    assert patcher.scales == {"fog": 0.5}
    patcher.verify()


def test_a_copy_of_a_changed_model_still_notices():
    model, _, _ = patched("vgg16_bn_gap", "fog")
    with torch.no_grad():
        model.features[0].weight.add_(1.0)
    with pytest.raises(IntegrityError):
        deepcopy(model).rws.clear()


def test_wrappers_are_seen_through():
    model = trio("vgg16_gap").base()
    before = state(model)
    wrapped = torch.compile(nn.DataParallel(model), backend="eager")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean = wrapped(images)
        patcher = hf_rws.patch(wrapped, signature("vgg16_gap"))
        assert model.rws is patcher
        assert not torch.equal(wrapped(images), clean)
        patcher.clear()
        assert torch.equal(wrapped(images), clean)
    assert identical(model, before)


def test_inference_mode_and_frozen_parameters():
    model = trio("vgg16_bn_gap").base().requires_grad_(False)
    before = state(model)
    with torch.inference_mode():
        hf_rws.patch(model, signature("vgg16_bn_gap"))
        model.rws.set({"fog": 0.5})
        model.rws.clear()
    assert identical(model, before)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_gradients_and_training_mode_are_left_alone():
    model = trio("vgg16_bn_gap").base().train()
    hf_rws.patch(model, signature("vgg16_bn_gap"))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_cast_after_patching_stays_what_it_is(dtype):
    model, patcher, before = patched_by_half()
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


@pytest.mark.parametrize("device", DEVICES)
def test_signatures_with_batch_norms_verify_on_every_device(device):
    model, patcher, before = patched_by_half()
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


def test_a_pickled_patcher_is_not_larger_than_what_it_holds():
    model, patcher, before = patched_by_half("resnet18", scale=1.0)
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
    model, _, before = patched_by_half()
    twin = deepcopy(deepcopy(model))
    twin.rws.clear()
    assert identical(twin, before)


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
    model, patcher, _ = patched_by_half(scale=1.0)
    batch = images()
    with torch.no_grad():
        expected = model(batch)
    exported = torch.export.export(patcher.bake(), (batch,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(batch), expected)


def test_a_baked_model_goes_to_onnx():
    reference = pytest.importorskip("onnx.reference")
    pytest.importorskip("onnxscript")
    model, patcher, _ = patched_by_half(scale=1.0)
    batch = images()
    with torch.no_grad():
        expected = model(batch)
    program = torch.onnx.export(patcher.bake(), (batch,), dynamo=True, verbose=False)
    evaluator = reference.ReferenceEvaluator(program.model_proto)
    (found,) = evaluator.run(None, {evaluator.input_names[0]: batch.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected)
