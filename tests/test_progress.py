"""Where progress bars are drawn, and where not."""

import ast
import io
import sys

import click
import pytest

import hf_rws
from hf_rws import _progress, cli
from hf_rws._progress import bar, bars_are_drawn, bars_as_ours, no_bars
from hf_rws.cli.output import output_options
from hf_rws.training import train
from tests import helpers
from tests.helpers import datasets_cache, on_cpu, toy_dataset  # noqa: F401
from tests.test_layout import MODULES

pytestmark = [
    pytest.mark.usefixtures("on_cpu", "datasets_cache"),
    pytest.mark.filterwarnings("ignore:the distillation did not help"),
]
VARIABLES = ("TQDM_DISABLE", "TQDM_POSITION", "HF_HUB_DISABLE_PROGRESS_BARS", "RANK", "LOCAL_RANK")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    """Puts a stream in place of stderr, where pytest cannot take it back."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def put(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return put


@pytest.mark.parametrize(
    ("variables", "drawn"),
    [
        ({}, True),
        ({"TQDM_DISABLE": "1"}, False),
        ({"TQDM_DISABLE": "0"}, True),
        ({"HF_HUB_DISABLE_PROGRESS_BARS": "1"}, False),
        ({"HF_HUB_DISABLE_PROGRESS_BARS": "0"}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "1", "LOCAL_RANK": "1"}, False),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),  # the first process of another machine
    ],
)
def test_who_switches_them_off(variables, drawn, stderr, monkeypatch):
    terminal = stderr(Terminal())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert bars_are_drawn() is drawn
    for _ in bar(range(3), desc="counting"):
        pass
    assert ("counting" in terminal.getvalue()) is drawn


def test_without_a_terminal_they_are_drawn_where_they_are_forced(stderr, monkeypatch):
    stderr(io.StringIO())
    assert not bars_are_drawn()
    monkeypatch.setenv("TQDM_POSITION", "-1")
    assert bars_are_drawn()
    monkeypatch.delenv("TQDM_POSITION")
    monkeypatch.setattr(_progress, "_IN_A_NOTEBOOK", True)
    assert bars_are_drawn()


def test_the_hubs_switch_is_ours(stderr):
    stderr(Terminal())
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    disable_progress_bars()
    try:
        assert not bars_are_drawn()
    finally:
        enable_progress_bars()
    assert bars_are_drawn()


@pytest.mark.parametrize("library", ["datasets", "huggingface_hub"])
def test_libraries_draw_none_where_we_draw_none(library, stderr):
    stderr(Terminal())
    utils = pytest.importorskip(f"{library}.utils")
    with bars_as_ours(library):
        assert not utils.are_progress_bars_disabled()
    with no_bars():
        with bars_as_ours(library):
            assert utils.are_progress_bars_disabled()
        assert not utils.are_progress_bars_disabled()
        utils.disable_progress_bars()
        try:
            with bars_as_ours(library):
                pass
            assert utils.are_progress_bars_disabled()  # as the caller had it
        finally:
            utils.enable_progress_bars()


def test_nothing_else_makes_bars():
    for module, path in MODULES.items():
        names = [
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tqdm"
            for alias in node.names
        ]
        assert not names or module == "hf_rws._progress", module


# --- what takes long ---


def trained(folder):
    train(helpers.model(), helpers.splits(), folder / "run", helpers.arguments(epochs=1))


def distilled(folder):
    hf_rws.distill(helpers.model(), helpers.pixels(40), steps=2, batch_size=8, mixed_precision="no")


def evaluated(folder):
    hf_rws.evaluate(helpers.model(), helpers.image_set(8), ["fog", "contrast"], progress=True)


def loaded(folder):
    hf_rws.data.load_split(str(folder))


@pytest.mark.parametrize("work", [trained, distilled, evaluated, loaded])
def test_work_draws_on_a_terminal_only(work, tmp_path, stderr):
    with no_bars(), bars_as_ours("datasets"):
        for name in ("one", "two", "three"):
            toy_dataset(tmp_path / name)
    terminal = stderr(Terminal())
    with no_bars():
        work(tmp_path / "one")
    assert terminal.getvalue() == ""
    if work is not loaded:  # too quick for one of ours
        work(tmp_path / "two")
        assert "%|" in terminal.getvalue()
    plain = stderr(io.StringIO())
    work(tmp_path / "three")
    assert plain.getvalue() == ""


def test_quiet_commands_draw_none(stderr):
    stderr(Terminal())
    drawn = []

    @click.command()
    @output_options
    def work(output):
        drawn.append(bars_are_drawn())

    for words in ([], ["-q"], ["--quiet"], ["--format", "quiet"], ["--json"]):
        with pytest.raises(SystemExit):
            cli.run(work, words)
    assert drawn == [True, False, False, False, True]
