"""What starts at once: importing the package, and the commands that need neither torch nor timm."""

import json
import os
import subprocess
import sys

import pytest

from hf_rws import cli
from tests.models import signature

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
