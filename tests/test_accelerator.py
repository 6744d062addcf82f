import pytest
import torch

from hf_rws import _accelerator
from hf_rws._accelerator import resolve_device
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
        with pytest.raises(OptionError, match="there is no device .*; there is: cpu, cuda:0, cuda:1$"):
            resolve_device(missing)


@pytest.mark.parametrize("given", ["gpu", "", "cuda:x", None, 1.5])
def test_what_torch_does_not_know_is_refused_with_words(given):
    with pytest.raises(OptionError, match="device must be auto, cpu, cuda"):
        resolve_device(given)
