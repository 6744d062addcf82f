import pickle
import threading
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hf_rws
from hf_rws.errors import IntegrityError, MismatchError, OptionError
from hf_rws.patching._tiles import Tile, reference
from tests.models import ARCHITECTURES, CONV_NETS, DEVICES, create, identical, moved, signature, state, trio

LABELS = ("fog", "gaussian_noise", "snow")


def patched(name, *labels, **options):
    """A patched copy of the standard model, its patcher, and the state before."""
    model = trio(name).base()
    before = state(model)
    return model, hf_rws.patch(model, [signature(name, label) for label in labels], **options), before


# --- laws ---


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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CONV_NETS)
def test_clear_gives_back_identical_bits_in_the_same_storage(name, device):
    model = trio(name).base().to(device)
    before = state(model)
    pointers = {key: value.data_ptr() for key, value in model.state_dict().items()}
    hf_rws.patch(model, [signature(name)], scales=[1.3])
    assert not identical(model, before)
    model.rws.clear()
    assert identical(model, before)
    assert {key: value.data_ptr() for key, value in model.state_dict().items()} == pointers
    assert model.rws.scales == {"fog": 0.0}


OPERATIONS = st.one_of(
    st.tuples(st.just("set"), st.dictionaries(st.sampled_from(LABELS), st.floats(-2, 2, width=16))),
    st.tuples(st.just("using"), st.dictionaries(st.sampled_from(LABELS), st.floats(-2, 2, width=16))),
    st.tuples(st.just("add"), st.sampled_from(LABELS)),
    st.tuples(st.just("remove"), st.sampled_from(LABELS)),
    st.tuples(st.just("clear"), st.none()),
)


@pytest.mark.parametrize("name", CONV_NETS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(operations=st.lists(OPERATIONS, max_size=8))
def test_any_sequence_of_calls_is_undone_exactly_and_depends_on_the_scales_only(name, operations):
    model, patcher, before = patched(name, "fog", "snow")
    for kind, argument in operations:
        if kind == "set":
            patcher.set({label: scale for label, scale in argument.items() if label in patcher.scales})
        elif kind == "using":
            on = state(model)
            with patcher.using({label: scale for label, scale in argument.items() if label in patcher.scales}):
                pass
            assert identical(model, on)
        elif kind == "add" and argument not in patcher.scales:
            patcher.add(signature(name, argument), scale=0.7)
        elif kind == "remove" and argument in patcher.scales:
            patcher.remove(argument)
        elif kind == "clear":
            patcher.clear()
            assert identical(model, before)
        patcher.verify()
    on = {label: scale for label, scale in patcher.scales.items() if scale}
    fresh = trio(name).base()
    hf_rws.patch(fresh, [signature(name, label) for label in reversed(on)], scales=list(reversed(on.values())))
    assert identical(fresh, state(model))
    patcher.clear()
    assert identical(model, before)


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


def test_using_restores_also_after_an_exception():
    model, patcher, _ = patched("vgg16_bn_gap", "fog", "snow", scales=[0.4, 0.0])
    on = state(model)

    def body():
        assert patcher.scales == {"fog": 0.0, "snow": 1.0}
        raise RuntimeError("in the body")

    with pytest.raises(RuntimeError, match="in the body"), patcher.using({"snow": 1.0}):
        body()
    assert patcher.scales == {"fog": 0.4, "snow": 0.0}
    assert identical(model, on)


def test_using_restores_also_when_a_signature_was_removed_meanwhile():
    _, patcher, _ = patched("vgg16_bn_gap", "fog", "snow", scales=[0.4, 0.2])
    with patcher.using({"snow": 1.0}):
        patcher.remove("snow")
    assert patcher.scales == {"fog": 0.4}


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


# --- errors change nothing ---


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
    with pytest.raises(OptionError, match=r"features.2.weight of the model holds NaN"), pytest.warns(match="transfer"):
        hf_rws.patch(model, signature("vgg16_gap"))
    assert not hasattr(model, "rws")


def test_a_tuple_of_signatures_is_a_sequence_and_numpy_scales_are_numbers():
    both = (signature("vgg16_gap"), signature("vgg16_gap", "snow"))
    patcher = hf_rws.patch(trio("vgg16_gap").base(), both, scales=(np.float32(0.5), np.int64(1)))
    assert patcher.scales == {"fog": 0.5, "snow": 1.0}


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


def test_a_baked_patcher_cannot_be_used_again():
    _, patcher, _ = patched("vgg16_gap", "fog")
    patcher.bake()
    for call in (patcher.clear, patcher.verify, patcher.bake, lambda: patcher.add(signature("vgg16_gap", "snow"))):
        with pytest.raises(OptionError, match=r"bake\(\)"):
            call()
    assert "bake()" in repr(patcher)


def test_models_made_in_inference_mode_are_watched_by_value():
    with torch.inference_mode():
        model = create("vgg16_bn_gap")
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


def test_using_keeps_what_its_body_attached():
    _, patcher, _ = patched("vgg16_gap", "fog", scales=[0.3])
    with patcher.using({"fog": 1.0}):
        patcher.add(signature("vgg16_gap", "snow"), scale=0.7)
    assert patcher.scales == {"fog": 0.3, "snow": 0.7}


def test_a_second_patcher_on_the_same_model_is_refused():
    model, _, _ = patched("vgg16_gap", "fog")
    with pytest.raises(OptionError, match=r"model.rws.add"):
        hf_rws.patch(model, signature("vgg16_gap", "snow"))


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


# --- someone else changes the weights ---


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


# --- dtypes, devices, copies, wrappers ---


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


def test_a_change_of_values_and_dtype_at_once_is_noticed():
    model, patcher, _ = patched("vgg16_bn_gap", "fog")
    with torch.no_grad():
        model.features[0].weight.add_(1.0)
    model.half()
    with pytest.raises(IntegrityError):
        patcher.clear()


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


def test_set_from_several_threads_ends_in_one_of_the_settings():
    model, patcher, before = patched("vgg16_bn_gap", "fog", "snow")
    settings_ = [{"fog": 0.1 * i, "snow": 1 - 0.1 * i} for i in range(6)]

    def work(scales):
        for _ in range(5):
            patcher.set(scales)

    threads = [threading.Thread(target=work, args=(scales,)) for scales in settings_]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert patcher.scales in settings_
    patcher.verify()
    patcher.clear()
    assert identical(model, before)


# --- transfer ---


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
