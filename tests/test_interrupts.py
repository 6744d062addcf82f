"""Ctrl-C: what is kept, and what is said of it."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest

import hf_rws
from hf_rws import cli
from hf_rws.distillation import DistillationStopped, Distiller
from hf_rws.timm_repo import save_timm_repo
from tests import helpers
from tests.helpers import datasets_cache, on_cpu, toy_dataset  # noqa: F401
from tests.test_cli import call  # noqa: F401
from tests.test_distillation import base

pytestmark = pytest.mark.usefixtures("on_cpu", "datasets_cache")
QUICK = {"steps": 20, "batch_size": 8, "mixed_precision": "no", "progress": False}


@pytest.mark.parametrize(
    ("name", "said"),
    [("train", "; with --resume the same command goes on"), ("study", "; the same command goes on"),
     ("corrupt", "; the same command goes on"), ("evaluate", "; nothing is kept"), ("distill", "; nothing is kept"),
     ("info", ""), ("ls", "")],
)  # fmt: skip
def test_each_command_says_what_is_left_of_it(name, said, call):  # noqa: F811
    @click.command(name)
    def command():
        raise KeyboardInterrupt

    code, out, err = call(command)
    assert (code, out, err.strip()) == (130, "", f"stopped{said}")


# --- a distillation ---


def stops(monkeypatch, at, *, better=True):
    """Ctrl-C in a step of every distillation; what is seen before gets better from step to step, or does not."""
    learn, look = Distiller.learn, Distiller._snapshot

    def learn_or_stop(self, *arguments, **options):
        if self.step == at:
            raise KeyboardInterrupt
        learn(self, *arguments, **options)

    monkeypatch.setattr(Distiller, "learn", learn_or_stop)
    monkeypatch.setattr(
        Distiller,
        "_snapshot",
        lambda self, check: replace(look(self, check), loss=1 / (1 + self.step) if better else 1 + self.step),
    )


def test_the_best_so_far_comes_with_the_interrupt(monkeypatch):
    model, images = base(), helpers.pixels(40)
    stops(monkeypatch, at=3)
    with pytest.raises(DistillationStopped) as stopped:
        hf_rws.distill(model, images, **QUICK)
    kept = stopped.value.signature
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert kept.config.method.training["stopped_early"] == "at step 3 of 20"
    assert kept.config.method.training["steps"] == 3
    assert any(bool(value.any()) for value in kept.deltas().values())


def test_a_run_of_minutes_says_how_far_it_came(monkeypatch):
    stops(monkeypatch, at=3)
    monkeypatch.setattr(Distiller, "_fraction", lambda self: self.step / 10)
    monkeypatch.setattr("hf_rws.distillation.loop.default_steps", lambda *arguments, **options: 10)
    with pytest.raises(DistillationStopped) as stopped:
        hf_rws.distill(base(), helpers.pixels(40), minutes=1, **{**QUICK, "steps": None})
    training = stopped.value.signature.config.method.training
    assert training["stopped_early"] == "at step 3, after 30 % of 1 minutes"


@pytest.mark.parametrize(("at", "better"), [(0, True), (3, False)])
def test_what_is_no_better_than_the_base_is_not_kept(at, better, monkeypatch):
    stops(monkeypatch, at=at, better=better)
    with pytest.raises(KeyboardInterrupt) as stopped:
        hf_rws.distill(helpers.model(), helpers.pixels(40), **QUICK)
    assert not isinstance(stopped.value, DistillationStopped)


def test_a_second_time_it_gives_up(monkeypatch):
    stops(monkeypatch, at=3)
    look = Distiller._snapshot

    def stop_again(self, check):
        if self.step == 3:
            raise KeyboardInterrupt
        return look(self, check)

    monkeypatch.setattr(Distiller, "_snapshot", stop_again)
    with pytest.raises(KeyboardInterrupt) as stopped:
        hf_rws.distill(helpers.model(), helpers.pixels(40), **QUICK)
    assert not isinstance(stopped.value, DistillationStopped)


@pytest.fixture
def distill(tmp_path, monkeypatch, call):  # noqa: F811
    """The command, on a base and images that are there."""
    monkeypatch.chdir(tmp_path)
    save_timm_repo(helpers.model(), "base")
    toy_dataset(tmp_path / "toy")
    words = ["distill", "--base", "base", "--images", "toy", "--corruption", "fog", "--steps", "20"]
    return lambda *more: call(cli.cli, *words, "--batch-size", "8", *more)


@pytest.mark.parametrize("where", [["--output-dir", "rws-fog"], ["--push-to", "user/rws-fog"]])
def test_the_command_keeps_the_best_so_far(where, distill, monkeypatch):
    stops(monkeypatch, at=3)
    code, out, err = distill(*where)
    assert (code, out.splitlines()[0]) == (130, "folder: rws-fog")
    assert err.splitlines()[-1] == "stopped early, at step 3 of 20: the best signature so far is in rws-fog"
    assert "stopped_early" in hf_rws.Signature.from_pretrained("rws-fog").config.method.training
    assert "at step 3 of 20" in Path("rws-fog", "README.md").read_text()


def test_the_command_says_that_nothing_is_kept(distill, monkeypatch):
    stops(monkeypatch, at=0)
    code, out, err = distill("--output-dir", "rws-fog")
    assert (code, out, err.splitlines()[-1]) == (130, "", "stopped; nothing is kept")
    assert not Path("rws-fog").exists()


# --- imports ---

IMPORTS = """
import signal, sys
from hf_rws import __main__
from hf_rws._interrupts import stop_within_imports

stop_within_imports()
sys.path.insert(0, sys.argv[1])
print("ready", flush=True)
import slow
"""


def test_an_import_is_ended_at_once(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\ntry:\n    time.sleep(60)\nexcept BaseException:\n    print('an import went on')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTS, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "\nstopped\n")


def test_elsewhere_it_is_pythons():
    code = "from hf_rws._interrupts import stop_within_imports as begin\nbegin()\nimport signal\nsignal.raise_signal(2)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert "KeyboardInterrupt" in done.stderr
