"""Training, studies and distillation in two processes, one after the other in one launch, as a launch takes seconds.

The launch is that of two nodes with a process each, here on loopback.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from hf_rws._files import locked
from hf_rws.cli import run
from hf_rws.cli.making import study as study_command
from hf_rws.cli.making import train as train_command
from tests.helpers import log_of, toy_dataset
from tests.test_distillation import IMAGES, base
from tests.test_training import _far

pytestmark = pytest.mark.filterwarnings("ignore:the distillation did not help")  # in two steps

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ["--batch-size", "8", "--epochs", "1", "--schedule", "constant", "--mixed-precision", "no"]
TRAINING = ["--model", "vgg16_gap", "--model-arg", "width=0.05", "--limit", "80", *RECIPE]
STUDY = ["--model", "vgg16_bn_gap", "--model-arg", "width=0.05", "--limit", "40", *RECIPE]
STUDY += ["--corruption", "fog", "--corruption", "contrast", "--distilled", "20", "--no-scale-curve"]
STUDY_MODELS = ("pretrained", "base", "robust-fog", "robust-contrast")
SIGNATURES = ("rws-fog", "rws-contrast", "rws-fog-distilled", "rws-contrast-distilled")
ALL = """
import json, os, runpy, sys, time, warnings
from pathlib import Path
import torch, hf_rws
from hf_rws.distillation import loop
from hf_rws.study import run as study_run
from tests.test_distillation import last_is_best

warnings.simplefilter("ignore", hf_rws.errors.RWSWarning)
rank = os.environ["RANK"]

def launched(script, arguments):
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return end.code

train, study, arguments = json.loads(Path("launched.json").read_text())
assert launched(train, arguments["train"]) == 0

usual, loop.default_steps = loop.default_steps, lambda *_, **__: 2
real = study_run.train
def failing(start, data, folder, *rest, **options):
    if folder.name == "robust-fog":
        raise hf_rws.RWSError("this one fails")
    return real(start, data, folder, *rest, **options)
study_run.train = failing
code = launched(study, arguments["study"])
Path(f"ended-{rank}").write_text(str(code))
deadline = time.monotonic() + 60
while not (there := Path("ended-0").exists()) and time.monotonic() < deadline:
    time.sleep(0.05)
assert there, "the first process waits for one that has failed"
study_run.train = real
assert launched(study, arguments["study"]) == 0
loop.default_steps = usual

real = loop.Distiller._snapshot
loop.Distiller._snapshot = lambda self, check: last_is_best(self, real(self, check))
model, images = torch.load("given.pt", weights_only=False)
s = hf_rws.distill(model, images, corruption="contrast", steps=3, batch_size=8, bits=None,
                   lr=1e-5, mixed_precision="no", progress=False)
torch.save(s.deltas(), f"{rank}.pt")
"""


def _ended_well(command, options):
    with pytest.raises(SystemExit) as ended:
        run(command, options)
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """What one process made in `one` and `study-one`, and two in `two` and `study-two`, and what the two said.

    It is made once, whichever of the processes that share out the tests comes first.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder, said = shared / "launched", shared / "launched" / "said.json"
    with locked(shared, wait=900):
        if not said.is_file():
            folder.mkdir()
            said.write_text(json.dumps(_made(folder)))
    return SimpleNamespace(folder=folder, nodes=json.loads(said.read_text()))


def _made(folder):
    data = ["--dataset", str(toy_dataset(folder / "toy", train=90))]
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("ACCELERATE_USE_CPU", "true")
        patched.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "datasets-cache"))
        patched.setattr("hf_rws.distillation.loop.default_steps", lambda *_, **__: 2)
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.set_num_threads(1)
        try:
            _ended_well(train_command, [*TRAINING, *data, "--output-dir", "one"])
            _ended_well(study_command, [*STUDY, *data, "--output-dir", "study-one"])
        finally:
            torch.set_num_threads(threads)
            AcceleratorState._reset_state(reset_partial_state=True)
    torch.save((base(), IMAGES), folder / "given.pt")
    arguments = {"train": [*TRAINING, *data, "--output-dir", "two"]}
    arguments["study"] = [*STUDY, *data, "--output-dir", "study-two"]
    scripts = [str(ROOT / "scripts" / name) for name in ("train.py", "train_study.py")]
    (folder / "launched.json").write_text(json.dumps([*scripts, arguments]))
    (folder / "all.py").write_text(ALL)
    return _launch(folder)


def _launch(folder):
    """Run all.py on two nodes; returns what each wrote on stdout and stderr."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--local_addr", "127.0.0.1", "all.py"]
    environment = {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(folder / "home"),
        "HF_DATASETS_CACHE": str(folder / "datasets-cache"),
        "PYTHONPATH": str(ROOT),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    nodes = [subprocess.Popen(command, cwd=folder, env=os.environ | environment, **pipes) for _ in range(2)]
    try:
        said = [node.communicate(timeout=900) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    for node, (_, errors) in zip(nodes, said, strict=True):
        assert node.returncode == 0, errors
    return said


def test_two_processes_train_as_one(launched):
    one, two = (load_file(launched.folder / name / "model.safetensors") for name in ("one", "two"))
    torch.manual_seed(0)
    start = timm.create_model("vgg16_gap", num_classes=4, width=0.05).state_dict()
    assert one.keys() == two.keys() == start.keys()
    records = [json.loads((launched.folder / name / "training_args.json").read_text()) for name in ("one", "two")]
    assert records[0] == records[1]
    assert _far(one, two) < 1e-3 * _far(one, start)
    losses = [log_of(launched.folder / name)[0]["loss"] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_two_processes_distill_the_same_signature(launched):
    mine, its = (torch.load(launched.folder / f"{rank}.pt") for rank in (0, 1))
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert any(value.abs().max() > 0 for value in mine.values())


def test_a_study_spread_over_processes_is_that_of_one(launched):
    """Also after one of the processes has failed, and the study was started again."""
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (launched.folder / "study-one", launched.folder / "study-two")
    )
    assert {path.parts[0] for path in one} == {"study.json", *STUDY_MODELS, *SIGNATURES}
    assert one.keys() == two.keys()
    assert [path for path in one if one[path] != two[path]] == []


def test_the_main_process_alone_reports(launched):
    together = "".join(out for out, _ in launched.nodes)
    assert together.count("clean") == 1
    assert together.count("recovery") == 1


def test_no_process_waits_for_one_that_has_failed(launched):
    assert [(launched.folder / f"ended-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]
    errors = [errors for _, errors in launched.nodes]
    failed = next(text for text in errors if "this one fails" in text)
    other = next(text for text in errors if text is not failed)
    assert "another process of this study has ended before its share was made" in other
