"""What starts at once: importing the package, and the commands that need neither torch nor timm."""

import json
import os
import subprocess
import sys

import pytest

from hf_rws import cli
from hf_rws.timm_repo import save_timm_repo
from tests.hub import hub_fixture  # noqa: F401
from tests.models import signature, trio
from tests.test_cli import call  # noqa: F401

SCRIPT = """
import contextlib, io, json, sys
import hf_rws
from hf_rws import cli, hub

hub.info, hub.list_signatures, hf_rws.RWSError, hf_rws.CORRUPTIONS
seen = {}
for words in json.loads(sys.argv[1]):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            cli.run(cli.cli, words)
        except SystemExit as end:
            code = end.code
    heavy = sorted({"torch", "timm", "torchvision", "datasets", "numpy", "PIL", "jinja2"} & set(sys.modules))
    seen[" ".join(words)] = [code, bool(printed.getvalue()), heavy]
print(json.dumps(seen))
"""


def started(folder, *commands):
    """What became of commands run in one new process: {words: [exit code, whether it printed, heavy modules]}."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)], capture_output=True, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path):
    signature("vgg16_gap", "fog").save_pretrained(tmp_path / "rws-fog")
    return tmp_path


def test_what_only_looks_imports_neither_torch_nor_timm(folder):
    helps = [[name, "--help"] for name in cli.cli.commands]
    found = started(folder, ["--version"], ["--help"], *helps, ["info", "rws-fog"], ["ls"])
    assert found.pop("ls") == [1, False, []]  # offline
    assert set(map(str, found.values())) == {str([0, True, []])}, found


# --- the Hub ---


@pytest.fixture
def local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = trio("vgg16_gap")
    for who, model in (("pretrained", models.start), ("standard", models.standard), ("robust", models.robust)):
        save_timm_repo(model, who)
    signature("vgg16_gap", "fog").save_pretrained("rws-fog")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["info", "rws-fog", "--base", "standard"],
        ["extract", "robust", "standard", "pretrained", "--corruption", "fog", "--output-dir", "made"],
        ["apply", "standard", "rws-fog", "--output-dir", "made"],
    ],
)
@pytest.mark.parametrize("agent", ["", "1"])
def test_what_needs_nothing_from_the_hub_sends_nothing_to_it(words, agent, local, hub, call, monkeypatch):  # noqa: F811
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", None)
    monkeypatch.setattr("huggingface_hub.constants.AGENT_HARNESSES_PATH", "no-list-of-agents")
    monkeypatch.setenv("AI_AGENT", agent)
    code, out, err = call(cli.cli, *words)  # stdout is no terminal
    assert (code, err) == (0, "")
    assert out
    assert hub.requests == []
