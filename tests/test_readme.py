"""The README's sections on the Hub and on corruptions are run as they stand, and its speeds are the measured ones."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm

import hf_rws
from hf_rws import cli
from hf_rws.timm_repo import save_timm_repo
from tests.helpers import model, pixels
from tests.hub import hub_fixture  # noqa: F401
from tests.hub.storage import WRITE
from tests.models import identical, signature, state, trio

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION, CORRUPTIONS = (
    re.search(rf"^## {title}\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)[1]
    for title in ("On the Hub", "Corruptions")
)


def blocks(language: str, text: str = SECTION) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def study(hub, tmp_path, monkeypatch):
    """Logged in, with a study in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", WRITE)
    save_timm_repo(trio("vgg16_gap").standard, "study/base")
    for label in ("fog", "snow"):
        signature("vgg16_gap", label).save_pretrained(f"study/rws-{label}")
    return tmp_path / "study"


def test_the_section_on_the_hub(hub, study, capsys):
    names = {}
    for block in blocks("python"):
        exec(block, names)
    expected = state(hf_rws.load_patched("study/base", ["study/rws-fog"]))
    for name in ("model", "pinned", "again", "cached", "carried"):
        assert identical(names[name], expected), name
    printed = capsys.readouterr().out
    assert "corruption fog, severity 5" in printed
    assert "fits       yes" in printed

    printed = {}
    for line in "".join(blocks("bash")).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "hf-rws"
        with pytest.raises(SystemExit) as ended:
            cli.run(cli.cli, arguments)
        streams = capsys.readouterr()
        assert ended.value.code == 0, streams.err
        printed[arguments[0], arguments[1]] = streams.out
    listed = printed["ls", "--base"].splitlines()
    assert {line.split()[0] for line in listed[1:]} == {"user/rws-fog", "user/vgg16-cifar10-rws-fog"}
    assert json.loads(printed["info", "user/rws-fog@v1.0"])["corruptions"] == ["fog"]
    baked = timm.create_model("hf-hub:user/vgg16-fog", pretrained=True)
    names["cached"].rws.set({"vgg16-cifar10-rws-fog": 0.8})
    assert identical(baked, state(names["cached"]))


def test_the_snippets_of_the_cards_on_the_hub(hub, study, capsys):
    hf_rws.hub.push_all("study", name="vgg16")
    (study / "base").rename(study / "elsewhere")  # only the Hub has it now
    expected = state(trio("vgg16_gap").standard)
    for repo_id, words in (("user/vgg16", ""), ("user/vgg16-rws-fog", "vgg16-rws-fog: scale 1")):
        names = {}
        (snippet,) = blocks("python", hub.files(repo_id)["README.md"].decode())
        exec(snippet, names)
        assert words in capsys.readouterr().out
        if words:
            names["model"].rws.clear()
        assert identical(names["model"], expected)


def test_the_section_on_corruptions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CIFAR-10-C").mkdir()
    np.save("CIFAR-10-C/fog.npy", pixels(40).permute(0, 2, 3, 1).numpy())
    np.save("CIFAR-10-C/labels.npy", np.tile(np.arange(8) % 4, 5))
    images, benchmark = blocks("python", CORRUPTIONS)
    names = {"hf_rws": hf_rws, "model": model()}
    exec(images, names)
    assert names["foggy"].shape == names["images"].shape
    assert names["transform"](names["images"][0]).shape == (3, 32, 32)
    assert names["augmentation"](names["images"]).dtype == np.uint8
    exec(benchmark, names)
    assert names["foggy"].labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("side", [32, 64, 224])
def test_the_speeds_of_the_corruptions(side):
    rows = json.loads((ROOT / f"scripts/results/corruptions_{side}.json").read_text())["rows"]
    totals = {label: sum(row[label]["ms"] for row in rows.values()) for label in next(iter(rows.values()))}
    ours, per_image, library = totals.pop("hf_rws"), totals.pop("per image"), min(totals.values())
    worst, name = min(
        (min(cell["ms"] for label, cell in row.items() if label != "hf_rws") / row["hf_rws"]["ms"], name)
        for name, row in rows.items()
    )
    shown = (
        f"| {ours:.{2 if ours < 10 else 1}f} | {per_image / ours:.1f} | {library / ours:.1f} | {worst:.2f} ({name}) |"
    )
    assert f"| {side} px {shown}" in README
