"""Whatever writes to a patched model, the next call refuses and changes nothing; nothing else makes it refuse."""

import ctypes
import multiprocessing
import warnings
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import hf_rws
from hf_rws.errors import IntegrityError
from hf_rws.loading import save_patched
from hf_rws.patching import _samples
from hf_rws.patching._samples import Samples
from tests.models import identical, moved, signature, state, trio


def patched(name="vgg16_gap"):
    model = trio(name).base()
    return model, hf_rws.patch(model, signature(name), scales=[0.5])


# --- what may write ---


def _step(make):
    def change(model):
        optimizer = make([p for p in model.parameters() if p.requires_grad])
        model(torch.ones(2, 3, 32, 32)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return change


def _by_all(write):
    def change(model):
        for parameter in model.parameters():
            write(parameter)

    return change


def _other_process(tensors):
    for tensor in tensors:
        tensor.add_(1)


def _shared_memory(model):
    model.share_memory()
    model.rws.set(model.rws.scales)  # follows the tensors there
    process = multiprocessing.get_context("fork").Process(
        target=_other_process, args=([parameter.detach() for parameter in model.parameters()],)
    )
    process.start()
    process.join(30)
    assert process.exitcode == 0


def _with_kept_version(parameter):
    with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(parameter):
        parameter.mul_(0.5)


OPTIMIZERS = {
    f"{kind.__name__}-{way}": _step(lambda params, kind=kind, way=way: kind(params, lr=1e-3, **{way: True}))
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)
    for way in ("fused", "foreach")
}
WRITES = OPTIMIZERS | {
    "data": _by_all(lambda p: p.data.add_(1e-3)),
    "data of one tensor": lambda model: model.features[2].bias.data.add_(1e-3),
    "other data": _by_all(lambda p: setattr(p, "data", p.detach() + 1)),
    "detach": _by_all(lambda p: p.detach().add_(1)),
    "set_": torch.no_grad()(_by_all(lambda p: p.set_(p.detach() + 1))),
    "numpy": _by_all(lambda p: p.detach().numpy().__iadd__(1)),
    "DLPack": _by_all(lambda p: torch.from_dlpack(p.detach()).add_(1)),
    "storage": _by_all(lambda p: p.untyped_storage().copy_((p.detach() + 1).untyped_storage())),
    "raw memory": _by_all(lambda p: ctypes.memset(p.data_ptr(), 1, p.nbytes)),
    "no version": _by_all(_with_kept_version),
    "swap_tensors": lambda model: torch.utils.swap_tensors(
        model.features[0].weight, nn.Parameter(torch.ones(3, 3, 3, 3))
    ),
    "vector_to_parameters": lambda model: vector_to_parameters(
        parameters_to_vector(model.parameters()).detach() + 1, model.parameters()
    ),
    "init": _by_all(lambda p: nn.init.normal_(p)),
    "inference mode": torch.inference_mode()(_by_all(lambda p: p.add_(1))),
    "foreach": torch.no_grad()(lambda model: torch._foreach_add_(list(model.parameters()), 1.0)),
    "load_state_dict": lambda model: model.load_state_dict(moved(model, 5).state_dict()),
    "load_state_dict assign": lambda model: model.load_state_dict(moved(model, 5).state_dict(), assign=True),
    "other process": _shared_memory,
}
CALLS = {
    "set": lambda rws: rws.set({"fog": 0.7}),
    "set again": lambda rws: rws.set({"fog": 0.5}),
    "clear": lambda rws: rws.clear(),
    "add": lambda rws: rws.add(signature("vgg16_gap", "snow")),
    "remove": lambda rws: rws.remove("fog"),
    "using": lambda rws: rws.using({}).__enter__(),
    "recalibrate": lambda rws: rws.recalibrate(torch.ones(2, 3, 32, 32)),
    "verify": lambda rws: rws.verify(),
    "lockfile": lambda rws: rws.lockfile(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_every_call_refuses_after_any_write_and_changes_nothing(write):
    model, patcher = patched()
    write(model)
    now, scales = state(model), patcher.scales
    for _ in range(2):
        for call in CALLS.values():
            with pytest.raises(IntegrityError, match=r"features.*bake\(\).*clear\(force=True\)"):
                call(patcher)
    assert identical(model, now)
    assert patcher.scales == scales
    patcher.clear(force=True)
    patcher.verify()
    touched = signature("vgg16_gap").specs
    standard = trio("vgg16_gap").standard.state_dict()
    assert all(torch.equal(model.state_dict()[name], standard[name]) for name in touched)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_writes_are_noticed_in_every_dtype_and_layout(dtype, layout):
    model = trio("resnet18").base().to(dtype).to(memory_format=layout)
    patcher = hf_rws.patch(model, signature("resnet18"))
    for name in ("conv1.weight", "bn1.bias", "bn1.running_var", "layer1.0.conv2.weight"):
        model.state_dict(keep_vars=True)[name].data.mul_(1.5)
        with pytest.raises(IntegrityError, match=name):
            patcher.clear()
        patcher.clear(force=True)
        patcher.set({"fog": 1.0})


def test_writes_to_tensors_that_are_not_touched_are_none_of_its_business():
    model, patcher = patched()
    model.head.fc.weight.data.add_(1)
    patcher.set({"fog": 0.7})
    patcher.clear()


def test_a_write_in_the_body_of_using_is_not_undone():
    model, patcher = patched()
    body = patcher.using({"fog": 1.0})
    body.__enter__()
    model.features[0].weight.data.add_(1)
    now = state(model)
    with pytest.raises(IntegrityError):
        body.__exit__(None, None, None)
    assert identical(model, now)


# --- what is said for good ---


@pytest.fixture
def loaded(tmp_path):
    """A model whose signature has a home, so that a lockfile can name it."""
    folder = signature("vgg16_gap").save_pretrained(tmp_path / "fog")
    model = trio("vgg16_gap").base()
    hf_rws.patch(model, folder)
    return model


def test_one_value_that_no_sample_shows_is_seen_by_lockfile_save_and_bake(loaded, tmp_path):
    assert loaded.rws.lockfile()["signatures"][0]["name"] == "fog"
    weight = loaded.features[10].weight
    for index in range(weight.numel()):  # one that no sample shows
        weight.data.view(-1)[index].add_(1)
        if loaded.rws._touched._watch.sees_no_change():
            break
        weight.data.view(-1)[index].sub_(1)
        loaded.rws.clear(force=True)
        loaded.rws.set({"fog": 1.0})
    now = state(loaded)
    with pytest.raises(IntegrityError, match=r"features.10.weight"):
        loaded.rws.lockfile()
    with pytest.raises(IntegrityError, match=r"features.10.weight"):
        save_patched(loaded, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.warns(UserWarning, match=r"not those of base and signatures, but kept.*features.10.weight") as told:
        loaded.rws.bake()
    assert len(told) == 1
    assert told[0].filename == __file__
    assert identical(loaded, now)
    assert not hasattr(loaded, "rws")


def test_bake_says_nothing_where_there_is_nothing_to_say():
    _model, patcher = patched()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patcher.bake()


def test_bake_keeps_a_model_in_which_a_tensor_is_gone_or_in_another_dtype():
    for change in (lambda model: setattr(model, "features", nn.Identity()), lambda model: model.to(torch.float8_e5m2)):
        model, patcher = patched()
        change(model)
        with pytest.warns(UserWarning, match="not those of base and signatures"):
            assert patcher.bake() is model


# --- devices that are not waited for ---


@pytest.fixture
def not_waited_for(monkeypatch):
    monkeypatch.setattr(_samples, "_READ_AT_ONCE", set())


CHANGING = ("set", "clear", "add", "remove", "using")


def test_where_nothing_waits_using_tells_at_its_end(not_waited_for):
    model, patcher = patched()
    model.features[0].weight.data.add_(1)
    with pytest.raises(IntegrityError, match="has overwritten"), patcher.using({}):
        pass
    patcher.verify()


@pytest.mark.parametrize("first", CHANGING[:-1])
@pytest.mark.parametrize("second", [*CHANGING, "verify"])
def test_where_nothing_waits_the_next_call_tells(not_waited_for, first, second):
    model, patcher = patched()
    patcher.add(signature("vgg16_gap"), name="second")
    calls = CALLS | {
        "add": lambda rws: rws.add(signature("vgg16_gap", "snow"), name=str(len(rws.scales))),
        "remove": lambda rws: rws.remove(list(rws.scales)[-1]),
    }
    _by_all(lambda p: p.data.add_(1e-3))(model)
    calls[first](patcher)
    now, scales = state(model), patcher.scales
    if second != "verify":  # which finds the weights as they should be
        with pytest.raises(IntegrityError, match="before the last call of the patcher, which has overwritten"):
            calls[second](patcher)
        assert identical(model, now)
        assert patcher.scales == scales
    patcher.verify()


def test_where_nothing_waits_it_is_told_once_and_not_after_force(not_waited_for):
    model, patcher = patched()
    model.features[0].weight.data.add_(1)
    patcher.set({"fog": 0.7})
    with pytest.raises(IntegrityError):
        patcher.set({"fog": 0.8})
    patcher.set({"fog": 0.8})
    model.features[0].weight.data.add_(1)
    patcher.set({"fog": 0.7})
    patcher.clear(force=True)
    patcher.set({"fog": 0.8})
    model.features[0].weight.data.add_(1)
    patcher.clear(force=True)
    patcher.set({"fog": 0.8})
    patcher.clear()


def test_where_nothing_waits_a_change_that_was_not_overwritten_stays_refused(not_waited_for):
    model, patcher = patched()
    model.features[0].weight.data.add_(1)
    now = state(model)
    with pytest.raises(hf_rws.RWSError, match="finite number"):
        patcher.set({"fog": torch.nan})  # begins a comparison, and fails before anything is written
    for _ in range(3):
        with pytest.raises(IntegrityError, match=r"features.0.weight.*since the patcher last wrote"):
            patcher.set({"fog": 0.7})
    assert identical(model, now)
    patcher.clear(force=True)
    patcher.set({"fog": 0.7})


def test_where_nothing_waits_lockfile_and_verify_read_every_value(not_waited_for, loaded):
    loaded.features[0].weight.data.add_(1)
    for call in (loaded.rws.lockfile, loaded.rws.verify):
        with pytest.raises(IntegrityError, match=r"features.0.weight"):
            call()


# --- no false alarms ---


@pytest.mark.parametrize("waits", [True, False])
def test_calls_one_after_another_and_copies_raise_no_alarm(waits, monkeypatch):
    if not waits:
        monkeypatch.setattr(_samples, "_READ_AT_ONCE", set())
    model, patcher = patched("vgg16_bn_gap")
    before = state(trio("vgg16_bn_gap").standard)
    for scale in (0.5, 1.0, 1.0, 0.3):
        patcher.set({"fog": scale})
        with torch.no_grad():
            model(torch.ones(1, 3, 32, 32))
        with patcher.using({}):
            model(torch.ones(1, 3, 32, 32)).sum().backward()
    twin = deepcopy(model)
    twin.rws.set({"fog": 1.0})
    twin.rws.clear()
    model.to(memory_format=torch.channels_last).half()
    patcher.set({"fog": 1.0})
    patcher.set({"fog": 0.2})
    patcher.clear()
    assert identical(twin, before)


# --- samples ---


@pytest.mark.parametrize(
    "shape", [(), (0,), (0, 3), (1,), (5,), (16,), (17,), (1000,), (40, 3, 3, 3), (1, 1, 1, 900), (3, 0, 2)], ids=str
)
@pytest.mark.parametrize("layout", ["plain", "transposed", "every second"])
@pytest.mark.parametrize("others", [0, 3, 200])
def test_samples_are_spread_and_see_every_write_of_a_whole_tensor(shape, layout, others):
    whole = torch.randn((*shape, 2), generator=torch.Generator().manual_seed(0))
    tensor = {
        "plain": whole[..., 0].clone(),
        "transposed": torch.permute(whole[..., 0].clone(), tuple(reversed(range(len(shape))))),
        "every second": whole[..., 0],
    }[layout]
    samples = Samples([*torch.zeros(others, 7), tensor])
    samples.mark()
    assert not samples.differ()
    tensor.add_(1)
    assert samples.differ() == (tensor.numel() > 0)
    samples.mark()
    assert not samples.differ()
    if layout == "every second":
        whole[..., 1].add_(1)  # what lies between is not the tensor's
        assert not samples.differ()


def test_samples_of_a_tensor_lie_far_apart_and_others_have_theirs_elsewhere():
    tensors = [torch.zeros(10_000) for _ in range(4)]
    places = []
    for tensor in tensors:
        samples = Samples(tensors)
        samples.mark()
        seen = []
        for start in range(0, 10_000, 100):
            tensor[start : start + 100] = 1
            seen.append(samples.differ())
            tensor.zero_()
        places.append(tuple(seen))
        gaps = "".join(map(str, map(int, seen))).split("1")
        assert max(map(len, gaps)) < 20  # a stretch of a fifth of a tensor never goes unseen
    assert len(set(places)) == len(places)


def test_samples_that_are_nan_equal_themselves():
    tensor = torch.full((100,), torch.nan)
    samples = Samples([tensor])
    samples.mark()
    assert not samples.differ()
