"""Training and distillation in two processes, one after the other in one launch, as a launch takes many seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from hf_rws.cli import run
from hf_rws.cli.making import train as train_command
from tests.helpers import datasets_cache, log_of, on_cpu, toy_dataset  # noqa: F401
from tests.test_distillation import IMAGES, base
from tests.test_training import _far

pytestmark = pytest.mark.usefixtures("on_cpu", "datasets_cache")

ROOT = Path(__file__).resolve().parent.parent
TRAINING = ["--model", "vgg16_gap", "--model-arg", "width=0.05", "--batch-size", "8", "--limit", "80", "--epochs", "1"]
TRAINING += ["--schedule", "constant", "--mixed-precision", "no"]
BOTH = """
import os, runpy, sys
import torch, hf_rws
from hf_rws.distillation.loop import Distiller
from tests.test_distillation import last_is_best

script, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    assert end.code == 0

real = Distiller._snapshot
Distiller._snapshot = lambda self, check: last_is_best(self, real(self, check))
model, images = torch.load("given.pt", weights_only=False)
s = hf_rws.distill(model, images, corruption="contrast", steps=3, batch_size=8, bits=None,
                   lr=1e-5, mixed_precision="no", progress=False)
torch.save(s.deltas(), f"{os.environ['RANK']}.pt")
"""


def test_two_processes_train_as_one_and_distill_the_same_signature(tmp_path, monkeypatch):
    options = [*TRAINING, "--dataset", str(toy_dataset(tmp_path / "toy", train=90))]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(train_command, [*options, "--output-dir", "one"])
    assert ended.value.code == 0
    torch.save((base(), IMAGES), "given.pt")
    Path("both.py").write_text(BOTH)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "both.py"]
    environment = {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_DATASETS_CACHE": str(tmp_path / "datasets-cache"),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [*command, str(ROOT / "scripts" / "train.py"), *options, "--output-dir", "two"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("clean") == 1  # the main process alone reports
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    torch.manual_seed(0)
    start = timm.create_model("vgg16_gap", num_classes=4, width=0.05).state_dict()
    assert one.keys() == two.keys() == start.keys()
    records = [json.loads((tmp_path / name / "training_args.json").read_text()) for name in ("one", "two")]
    assert records[0] == records[1]
    assert _far(one, two) < 1e-3 * _far(one, start)
    assert log_of(tmp_path / "one")[0]["loss"] == pytest.approx(log_of(tmp_path / "two")[0]["loss"], rel=1e-4)

    mine, its = (torch.load(f"{rank}.pt") for rank in (0, 1))
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert any(value.abs().max() > 0 for value in mine.values())
