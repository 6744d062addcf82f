import os

import pytest
import torch
from accelerate.state import PartialState

from hf_rws import _accelerator
from hf_rws._accelerator import resolve_device, state_kept, training_on
from hf_rws.errors import OptionError


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [({}, "cpu"), ({"mps": 1}, "mps"), ({"cuda": 2}, "cuda"), ({"cuda": 1, "mps": 1}, "cuda")],
)
def test_auto_is_the_gpu_where_there_is_one(gpus, expected, monkeypatch):
    monkeypatch.setattr(_accelerator, "_count", lambda kind: gpus.get(kind, 0))
    assert resolve_device() == resolve_device("auto") == torch.device(expected)


def test_what_is_named_is_taken_where_it_is_there(monkeypatch):
    monkeypatch.setattr(_accelerator, "_count", lambda kind: 2 if kind == "cuda" else 0)
    for named in ("cpu", "cuda", "cuda:1", "meta", torch.device("cuda", 1)):
        assert resolve_device(named) == torch.device(named)
    for missing in ("cuda:2", "mps", torch.device("cuda", 7)):
        with pytest.raises(OptionError, match=r"there is no device .*; there is: cpu, cuda:0, cuda:1$"):
            resolve_device(missing)


@pytest.mark.parametrize("given", ["gpu", "", "cuda:x", None, 1.5])
def test_what_torch_does_not_know_is_refused_with_words(given):
    with pytest.raises(OptionError, match="device must be auto, cpu, cuda"):
        resolve_device(given)


# --- what Accelerate is told ---

VARIABLES = ("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE")


@pytest.mark.parametrize(
    ("device", "told"),
    [("auto", ["yes", None]), ("cpu", ["true", None]), ("cuda", ["false", "cuda"]), ("cuda:1", ["false", "cuda:1"])],
)
def test_a_training_is_told_its_device_while_it_lasts(device, told, monkeypatch):
    monkeypatch.setattr(_accelerator, "_count", lambda kind: 2)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "yes")
    with training_on(device):
        assert [os.environ.get(name) for name in VARIABLES] == told
    assert [os.environ.get(name) for name in VARIABLES] == ["yes", None]


def test_a_training_that_names_its_device_does_not_get_that_of_an_earlier_one():
    with state_kept():
        PartialState._reset_state()
        PartialState(cpu=True).device = torch.device("meta")  # as a GPU
        with training_on("cpu"):
            assert PartialState(cpu=True).device == torch.device("cpu")
        assert PartialState().device == torch.device("meta")


def test_processes_do_not_share_a_gpu(monkeypatch):
    monkeypatch.setattr(_accelerator, "_count", lambda kind: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionError, match="device=cuda:1 is one device, and 2 processes"), training_on("cuda:1"):
        pass
    with training_on("cuda"):
        assert "ACCELERATE_TORCH_DEVICE" not in os.environ  # each takes its own
