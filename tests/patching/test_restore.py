"""Whatever was called in whatever order, `clear` gives the clean bits back, and `using` what was on."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_rws
from tests.models import CONV_NETS, DEVICES, identical, signature, state, trio

LABELS = ("fog", "gaussian_noise", "snow")


def patched(name, *labels, **options):
    """A patched copy of the standard model, its patcher, and the state before."""
    model = trio(name).base()
    before = state(model)
    return model, hf_rws.patch(model, [signature(name, label) for label in labels], **options), before


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


def test_using_keeps_what_its_body_attached():
    _, patcher, _ = patched("vgg16_gap", "fog", scales=[0.3])
    with patcher.using({"fog": 1.0}):
        patcher.add(signature("vgg16_gap", "snow"), scale=0.7)
    assert patcher.scales == {"fog": 0.3, "snow": 0.7}


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
