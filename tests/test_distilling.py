"""Distillations that cannot go well: too little time, no room for the result."""

import os
import tempfile
from functools import partial
from pathlib import Path

import pytest

import hf_rws
from hf_rws import cli
from hf_rws.distillation import Distiller
from hf_rws.errors import AccessError, RWSWarning
from hf_rws.timm_repo import save_timm_repo
from hf_rws.training import train
from tests import helpers
from tests.helpers import datasets_cache, on_cpu, toy_dataset  # noqa: F401
from tests.test_cli import call  # noqa: F401

pytestmark = [
    pytest.mark.usefixtures("on_cpu", "datasets_cache"),
    pytest.mark.filterwarnings("ignore:the distillation did not help"),
]


# --- time ---


@pytest.fixture
def three_steps_fit(monkeypatch):
    """Into whatever time is given."""
    monkeypatch.setattr(Distiller, "_fraction", lambda self: min(1.0, self.step / 3))


def in_minutes(minutes=0.5):
    return hf_rws.distill(helpers.model(), helpers.pixels(40), minutes=minutes, batch_size=8, progress=False)


@pytest.mark.usefixtures("three_steps_fit")
def test_too_few_minutes_are_said_with_what_would_do(monkeypatch):
    monkeypatch.setattr("hf_rws.distillation.loop.default_steps", lambda *arguments, **options: 100)
    with pytest.warns(RWSWarning, match="0.5 minutes are enough for about 3 steps on this machine") as caught:
        in_minutes()
    (warning,) = [one for one in caught if "enough for" in str(one.message)]  # once
    assert "100 are usual for these images. minutes=17 would do" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.usefixtures("three_steps_fit")
def test_enough_minutes_are_no_matter_for_a_warning(monkeypatch, recwarn):
    monkeypatch.setattr("hf_rws.distillation.loop.default_steps", lambda *arguments, **options: 12)
    in_minutes()
    assert not [one for one in recwarn if "enough for" in str(one.message)]


# --- room ---


@pytest.fixture
def distill(tmp_path, monkeypatch, call):  # noqa: F811
    (tmp_path / "here").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    save_timm_repo(helpers.model(), "base")
    toy_dataset(tmp_path / "here" / "toy")
    words = ["distill", "--base", "base", "--images", "toy", "--corruption", "fog", "--steps", "2"]
    return lambda *more: call(cli.cli, *words, "--batch-size", "8", *more)


def no_room(monkeypatch, *folders):
    """None in these folders, once the work is done."""
    save = hf_rws.Signature.save_pretrained

    def save_where_there_is_room(self, folder, **options):
        if Path(folder).resolve().parent in folders:
            raise AccessError(f"cannot save the signature in {folder}: No space left on device")
        return save(self, folder, **options)

    monkeypatch.setattr(hf_rws.Signature, "save_pretrained", save_where_there_is_room)


def test_what_has_no_room_is_left_elsewhere(distill, tmp_path, monkeypatch):
    full = tmp_path / "full"
    full.mkdir()
    no_room(monkeypatch, full)
    code, out, err = distill("--output-dir", full / "rws-fog")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].endswith("No space left on device; the signature is in rws-fog")
    assert hf_rws.Signature.from_pretrained("rws-fog").config.method.kind == "distilled"


def test_the_last_resort_is_where_temporary_files_are(distill, tmp_path, monkeypatch):
    no_room(monkeypatch, tmp_path / "here")
    (tmp_path / "temporary" / "rws-fog").mkdir()
    code, _, err = distill("--output-dir", "rws-fog")
    left = tmp_path / "temporary" / "rws-fog-2"
    assert (code, err.splitlines()[-1].endswith(f"; the signature is in {left}")) == (1, True)
    assert hf_rws.Signature.from_pretrained(left).config.method.kind == "distilled"


def test_what_is_lost_is_said_to_be(distill, tmp_path, monkeypatch):
    no_room(monkeypatch, tmp_path / "here", tmp_path / "temporary")
    code, _, err = distill("--output-dir", "rws-fog")
    assert (code, err.splitlines()[-1].endswith("is room for the signature: it is lost")) == (1, True)


@pytest.mark.parametrize("work", [train, partial(hf_rws.study.run_study, corruptions=["fog"])])
def test_a_training_finds_it_first_too(work, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_rws.training.trainer._TrainingRun", None)
    make = os.mkdir

    def read_only(path, *arguments, **options):
        if Path(path).is_relative_to(tmp_path):
            raise OSError(30, "Read-only file system")
        make(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", read_only)
    with pytest.raises(AccessError, match="Read-only file system"):
        work(helpers.model(), helpers.splits(), tmp_path / "run", helpers.arguments())
