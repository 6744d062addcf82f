from dataclasses import replace
from functools import cache

import pytest
import torch

import hf_rws
from hf_rws.bases import load_base
from hf_rws.data.datasets import load_splits
from hf_rws.fingerprints import weights_digest
from hf_rws.study import quickstart as module
from hf_rws.study.run import create_start

REAL = module._EMBEDDED


@cache
def sample():
    return load_splits(str(REAL / "cifar10-sample"))


@pytest.fixture
def quick(monkeypatch):
    """The real sample and the real start, a little of each."""
    whole = sample()
    part = replace(whole, train=whole.train.subset(slice(40)), test=whole.test.subset(slice(20)))
    part = replace(part, validation=whole.validation.subset(slice(20)))
    monkeypatch.setattr(module, "_data", lambda dataset, embedded: part)
    monkeypatch.setattr(module, "_RECIPE", replace(module._RECIPE, epochs=1, batch_size=20))
    monkeypatch.setattr("hf_rws.distillation.loop.default_steps", lambda *arguments, **options: 2)
    return part


def test_the_sample_is_real_and_small():
    data = sample()
    assert (len(data.train), len(data.validation), len(data.test)) == (3600, 400, 1000)
    assert data.train.images.shape[1:] == (3, 32, 32)
    assert data.train.classes[0] == "airplane"
    assert data.test.labels.bincount().tolist() == [100] * 10
    assert sum(path.stat().st_size for path in (module._EMBEDDED / "cifar10-sample").iterdir()) < 10_000_000
    assert (module._EMBEDDED / "NOTICE").is_file()
    mean = torch.tensor(data.train.mean_std()[0])
    assert (mean - torch.tensor([0.4914, 0.4822, 0.4465])).abs().max() < 0.01  # CIFAR-10's own


def test_the_start_is_a_timm_model_that_says_how_it_was_trained():
    base = load_base(module._EMBEDDED / "start")
    assert base.training["epochs"] == 8
    data = sample()
    assert weights_digest(create_start(module._EMBEDDED / "start", data)) == weights_digest(base.model)


def test_quickstart_leaves_what_the_design_says_also_without_matplotlib(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = module.quickstart("out", corruptions=["fog"])[1]
    first = capsys.readouterr().err
    assert (
        "distilled from 500 images without labels:\n| corruption | TA standard | TA distilled | RA standard |" in first
    )
    assert "| fog-5 |" in text
    assert "TA distilled | TA extracted | TA robust" in text
    assert (tmp_path / "out" / "overview.png").stat().st_size > 10_000
    monkeypatch.chdir(tmp_path / "out")
    model = hf_rws.load_patched("base", ["rws-fog-distilled", "rws-fog"], scales=[1.0, 0.0], strict=True)
    assert model.rws.scales == {"rws-fog-distilled": 1.0, "rws-fog": 0.0}
    model.rws.clear()

    def missing(*arguments, **options):
        raise hf_rws.errors.MissingExtraError('figures need matplotlib: pip install "hf-rws[plots]"')

    monkeypatch.setattr(module.plots, "overview", missing)
    again = module.quickstart(tmp_path / "out", corruptions=["fog"])[1]
    assert again.splitlines()[:5] == text.splitlines()[:5]
    assert "| fog-5 |" in again
    assert "no picture: figures need matplotlib" in again
    assert "no picture" not in text


def test_without_the_sample_the_hub_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_EMBEDDED", tmp_path / "not-there")
    asked = []
    real = sample()

    def load(dataset, **options):
        asked.append((dataset, options))
        return replace(real, test=real.train)

    monkeypatch.setattr(module, "load_splits", load)
    monkeypatch.setattr(module, "create_start", lambda start, data, **options: asked.append((start, options)))
    data = module._data(None, False)
    assert len(data.test) == 1000
    assert data.test.labels.bincount().min() > 50  # drawn at random
    module._start(data, False)
    assert asked == [("uoft-cs/cifar10", {"limit": 3600}), ("resnet18.a1_in1k", {"pretrained": True})]


def test_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(hf_rws.RWSError, match="nowhere"):
        module.quickstart(tmp_path / "out", dataset=str(tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()
