import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import timm

import hf_rws
from hf_rws import cli
from hf_rws.cli import making
from hf_rws.cli.options import parse_bits, parse_pairs
from hf_rws.errors import OptionError
from hf_rws.training import trainer
from tests.helpers import datasets_cache, model, on_cpu, pixels, toy_dataset  # noqa: F401

pytestmark = pytest.mark.usefixtures("on_cpu", "datasets_cache")

TINY = ["--epochs", "1", "--batch-size", "8", "--mixed-precision", "no"]
SMALL_MODEL = ["--model", "vgg16_gap", "--model-arg", "width=0.05"]


@pytest.fixture
def call(capsys):
    """Run a command as the shell would: exit code, stdout, stderr."""

    def run(command, *arguments):
        with pytest.raises(SystemExit) as ended:
            cli.run(command, [str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return ended.value.code, streams.out, streams.err

    return run


def _cells(out):
    """What a table for agents holds."""
    return [line.split("\t") for line in out.splitlines()]


COMMANDS = cli.cli.commands


# --- exit codes and streams ---


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that takes nothing")
@pytest.mark.parametrize("words", [["--version"], ["evaluate", "--help"]])
def test_what_stdout_does_not_take_is_told_in_a_line(words):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "hf_rws.cli", *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (ended.returncode, ended.stderr) == (1, "error: No space left on device\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name, call):
    code, out, err = call(COMMANDS[name], "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: ")
    for option in COMMANDS[name].params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} --{option.name} says nothing"


def test_the_group(call):
    assert call(cli.cli, "--version") == (0, f"hf-rws, version {hf_rws.__version__}\n", "")
    code, out, _ = call(cli.cli, "-h")
    assert code == 0
    assert all(name in out for name in cli.cli.commands)
    assert call(cli.cli)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'"),
        (["train"], "Missing option"),
        (["train", "--dataset", "x", "--output-dir", "y"], "give either --model or --init-from"),
        (["train", "--dataset", "x", "--output-dir", "y", "--model", "a", "--init-from", "b"], "give either"),
        (["train", "--dataset", "x", "--output-dir", "y", "--init-from", "b", "--pretrained"], "goes with --model"),
        (["train", "--dataset", "x", "--output-dir", "y", "--model", "vgg16_gap", "--model-arg", "w"], "width=0.25"),
        (["train", "--dataset", "x", "--output-dir", "y", "--model", "vgg16_gap", "--severity", "6"], "1<=x<=5"),
        (["train", "--dataset", "x", "--output-dir", "y", "--model", "vgg16_gap", "--limit", "0"], "x>=1"),
        (["evaluate", "base", "--dataset", "x", "--corruption", "rain"], "'rain' is not one of"),
        (["evaluate", "b", "--dataset", "x", "--corruption", "bar", "--corruption", "fog"], "bar stands alone"),
        (["train", "--dataset", "x", "--output-dir", "y", "--model", "a", "--corruption", "ripple"], "'ripple' is not"),
        (["train", "--dataset", "x", "--output-dir", "y", "--model", "a", "--milestones", "20;40"], "look like 20,40"),
        (["extract", "a", "b", "--output-dir", "y"], "--corruption"),
    ],
)
def test_usage_errors(arguments, message, call):
    code, out, err = call(cli.cli, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_usage_errors_of_a_study(call):
    common = ["--dataset", "x", "--output-dir", "y", *SMALL_MODEL]
    assert "name at least one --corruption" in call(cli.cli, "study", *common)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "vgg17"], "timm has no model 'vgg17'"),
        ([*SMALL_MODEL, "--model-arg", "depth=3"], "vgg16_gap does not take --model-arg width=0.05 depth=3"),
        (["--init-from", "nowhere"], "nowhere"),
        ([*SMALL_MODEL, "--classes", "0-9"], "beyond the 4 classes"),
        ([*SMALL_MODEL, "--lr", "-1"], "error: --lr must be above 0"),
        ([*SMALL_MODEL, "--batch-size", "500"], "--batch-size 500 must be"),
    ],
)
def test_our_errors_are_one_line_and_change_nothing(arguments, message, tmp_path, call):
    dataset = toy_dataset(tmp_path / "toy")
    code, out, err = call(making.train, "--dataset", dataset, "--output-dir", tmp_path / "run", *arguments)
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]  # above it, `datasets` may have shown a bar
    assert last.startswith("error: ")
    assert message in last
    assert not (tmp_path / "run").exists()


def test_a_message_of_several_lines_is_put_into_one(call):
    @click.command()
    def fail():
        raise OptionError("one:\n\ttwo\n\tthree")

    assert call(fail) == (1, "", "error: one: two three\n")


def test_a_mistake_of_ours_is_not_hidden():
    @click.command()
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(fail, [])


@pytest.mark.parametrize(("name", "said"), [("train", "stopped; with --resume"), ("info", "stopped\n")])
def test_ctrl_c(call, name, said):
    @click.command(name)
    def stop():
        raise KeyboardInterrupt

    code, out, err = call(stop)
    assert (code, out) == (130, "")
    assert err.lstrip().startswith(said)


# --- values ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", 4),
        ("ternary", "ternary"),
        ("default", "default"),
        ("none", None),
        ("8,4,ternary", [8, 4, "ternary"]),
        ("8,none", [8, None]),
    ],
)
def test_parse_bits(text, expected):
    assert parse_bits(text) == expected


@pytest.mark.parametrize(
    ("pair", "expected"),
    [("width=0.25", 0.25), ("depth=3", 3), ("pool=avg", "avg"), ("bias=true", True), ("bias=False", False)],
)
def test_model_arguments_are_read_by_their_look(pair, expected):
    ((name, value),) = parse_pairs((pair,)).items()
    assert (name, value, type(value)) == (pair.split("=")[0], expected, type(expected))


# --- published benchmarks ---


def test_evaluate_what_is_corrupted_already(tmp_path, call):
    created = model()
    timm.models.save_for_hf(created, tmp_path / "base", model_args={"width": 0.05}, safe_serialization=True)
    dataset = toy_dataset(tmp_path / "toy-fog")
    asked = ["evaluate", tmp_path / "base", "--dataset", dataset, "--format", "agent", "--clean-only"]
    code, out, _ = call(cli.cli, *asked)
    expected = hf_rws.evaluate(created, str(dataset), [])
    assert [row.corruption for row in expected.rows] == ["clean"]
    names, values = csv.reader(io.StringIO(expected.to_csv()))
    values[2] = str(round(expected["clean"], 4))
    assert (code, _cells(out)) == (0, [names, values])
    code, _, err = call(cli.cli, *asked, "--corruption", "fog")
    assert code == 2
    assert "--clean-only goes without --corruption" in err


def test_evaluate_on_a_benchmark(tmp_path, call):
    created = model()
    timm.models.save_for_hf(created, tmp_path / "base", model_args={"width": 0.05}, safe_serialization=True)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", pixels(40).permute(0, 2, 3, 1).numpy())
    np.save(folder / "labels.npy", np.tile(np.arange(8) % 4, 5))
    asked = ["evaluate", tmp_path / "base", "--dataset", folder, "--format", "agent", "--severity", "2"]
    code, out, err = call(cli.cli, *asked, "--severity", "4")
    expected = hf_rws.evaluate(created, folder, severities=[2, 4])
    assert (code, _cells(out), err) == (0, list(csv.reader(io.StringIO(expected.to_csv()))), "")
    code, out, _ = call(cli.cli, *asked, "--classes", "1", "--limit", "1")
    assert [(row[:2], row[3]) for row in _cells(out)[1:]] == [(["fog", "2"], "1")]
    (folder / "labels.npy").unlink()
    code, out, err = call(cli.cli, *asked)
    assert (code, out) == (1, "")
    assert "labels.npy is missing" in err


# --- corrupted copies ---


def test_corrupt_from_the_command_line(tmp_path, call):
    dataset = toy_dataset(tmp_path / "toy")
    asked = ["corrupt", "--dataset", dataset, "--corruption", "contrast", "--output-dir", tmp_path / "copy"]
    code, out, _ = call(cli.cli, *asked, "--split", "test", "--seed", "2", "--jpeg-quality", "85")
    assert (code, out) == (0, f"folder: {tmp_path / 'copy'}\nimages: 12\n")
    record = json.loads((tmp_path / "copy" / "corruption.json").read_text())
    expected = {"corruption": "contrast", "severity": 5, "seed": 2, "splits": {"test": 12}, "jpeg_quality": 85}
    assert expected.items() <= record.items()
    code, out, err = call(cli.cli, *asked, "--split", "test")
    assert (code, out) == (1, "")
    assert "holds another copy (seed: 2 then, 0 now; --jpeg-quality: 85 then, None now)" in err


# --- the main job ---


def test_train_from_the_command_line(tmp_path, call, monkeypatch):
    dataset = toy_dataset(tmp_path / "toy")
    asked = ["train", *SMALL_MODEL, "--dataset", dataset, "--corruption", "contrast", "--severity", "3", *TINY]
    asked += ["--recipe", "paper-vgg16", "--limit", "16", "--output-dir", tmp_path / "robust"]
    code, out, err = call(cli.cli, *asked, "--json")
    assert code == 0
    assert [row["images"] for row in json.loads(out)] == ["clean", "contrast-3"]
    assert "best epoch 0" in err
    names = {path.name for path in (tmp_path / "robust").iterdir()}
    assert names == {"README.md", "config.json", "metrics.jsonl", "model.safetensors", "training_args.json"}
    record = json.loads((tmp_path / "robust" / "training_args.json").read_text())
    expected = {"lr": 0.01, "schedule": "step", "nesterov": False, "epochs": 1, "severity": 3, "train_images": 16}
    expected |= {"dataset": "toy", "model": "vgg16_gap", "model_args": {"width": 0.05}, "corruption": ["contrast"]}
    assert expected.items() <= record.items()
    for path in (tmp_path / "robust").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()

    code, again, err = call(cli.cli, *asked)
    assert (code, again) == (1, "")
    assert "resume it, or choose another output folder" in err
    monkeypatch.setattr(trainer, "_TrainingRun", None)
    assert call(cli.cli, *asked, "--resume", "--json")[:2] == (0, out)


def test_a_study_and_what_is_done_with_its_folders(tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = toy_dataset(tmp_path / "toy", test_images=20)
    asked = [*SMALL_MODEL, "--dataset", dataset, "--corruption", "contrast", "--corruption", "brightness", *TINY]
    asked += ["--num-layers", "3", "--bits", "8,4,2", "--no-scale-curve", "--output-dir", "study"]
    code, out, _ = call(cli.cli, "study", *asked)
    assert code == 0
    assert out.startswith("| corruption |")
    assert "recovery" in out
    folder = tmp_path / "study"
    corruptions = ("contrast", "brightness")
    made = {f"{kind}-{name}" for kind in ("robust", "rws") for name in corruptions}
    assert {path.name for path in folder.iterdir()} == {"pretrained", "base", "study.json"} | made
    rows = {row["corruption"]: row for row in json.loads((folder / "study.json").read_text())}

    written = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:  # a second start trains nothing and finds the same
        patched.setattr(trainer, "_TrainingRun", None)
        assert call(cli.cli, "study", *asked)[:2] == (0, out)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == written

    code, out, _ = call(
        cli.cli, "extract", "study/robust-contrast", "study/base", "study/pretrained", "--corruption", "contrast",
        "--severity", "5", "--num-layers", "3", "--bits", "8,4,2", "--output-dir", "again",
        "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out) == {"folder": "again", "nbytes": rows["contrast"]["extracted_nbytes"]}
    weights = "signature.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (folder / "rws-contrast" / weights).read_bytes()

    evaluated = ["evaluate", "study/base", "again", "--dataset", dataset, "--corruption", "contrast"]
    code, out, _ = call(cli.cli, *evaluated, "--json")
    assert code == 0
    found = {row["corruption"]: float(row["accuracy"]) for row in json.loads(out)}
    assert found == {"clean": rows["contrast"]["extracted_ta"], "contrast": rows["contrast"]["extracted_ra"]}
    code, out, _ = call(cli.cli, *evaluated, "--scale", "0", "--limit", "20")
    shown = f"{100 * rows['contrast']['standard_ta']:.1f}"
    assert f"| clean |  | {shown} | {shown} | +0.0 [-8.9, +8.9] | 20 |" in out.splitlines()
    code, out, err = call(cli.cli, *evaluated, "--scale", "1", "--scale", "2")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
