"""README and guides: their Python blocks run as they stand, their commands exist, their speeds are the measured."""

import json
import re
import shlex
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import timm
from pyarrow import parquet
from torch import nn

import hf_rws
from hf_rws import cli
from hf_rws.timm_repo import save_timm_repo
from tests.helpers import pixels
from tests.hub import hub_fixture  # noqa: F401
from tests.hub.storage import WRITE
from tests.models import identical, signature, state, trio

ROOT = Path(__file__).resolve().parent.parent
GUIDES = ROOT / "scripts" / "docs"
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(GUIDES.glob("*.md")), ROOT / "CONTRIBUTING.md")
}
BASE = "vgg16_bn_gap"
METRICS = {"standard": {"ta": 0.6, "ra": 0.3}, "patched": {"ta": 0.5, "ra": 0.5}, "n": 40, "split": "test"}
pytestmark = [
    pytest.mark.filterwarnings("ignore:the distillation did not help"),  # in two steps
    pytest.mark.filterwarnings("ignore:frost is left out"),
]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def command_lines(text: str) -> list[list[str]]:
    """The words of every line of a bash block, and of every `hf-rws ...` in the text that has more than a command."""
    lines = "".join(blocks("bash", text)).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split("&&")]
    inline = re.findall(r"`(hf-rws [^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [shlex.split(part) for part in (*parts, *inline)]


def of_small_images(model: nn.Module) -> nn.Module:
    copy = deepcopy(model)
    copy.pretrained_cfg = {**copy.pretrained_cfg, "input_size": (3, 32, 32)}
    return copy


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone in which `hf-rws quickstart` has run, with a network of next to nothing."""
    clone = tmp_path_factory.mktemp("clone")
    sample, made_here = clone / "scripts" / "quickstart" / "cifar10-sample", clone / "hf-rws-quickstart"
    for folder in (sample, made_here):
        folder.mkdir(parents=True)
    for part in (ROOT / "scripts" / "quickstart" / "cifar10-sample").iterdir():
        parquet.write_table(parquet.read_table(part).slice(0, 40), sample / part.name)
    for script in (ROOT / "scripts").glob("*.py"):
        (clone / "scripts" / script.name).symlink_to(script)
    models = trio(BASE)
    for name, model in (("pretrained", models.start), ("base", models.standard), ("robust-fog", models.robust)):
        save_timm_repo(of_small_images(model), made_here / name, label_names=CLASSES)
    for label in ("fog", "contrast", "gaussian_noise"):
        made = signature(BASE, label).with_results(metrics=METRICS)
        made.save_pretrained(made_here / f"rws-{label}")
        method = replace(made.config.method, kind="distilled", projection=None)
        distilled = replace(made, config=replace(made.config, method=method))
        distilled.save_pretrained(made_here / f"rws-{label}-distilled")
    published = made_here / "CIFAR-10-C"
    published.mkdir()
    np.save(published / "fog.npy", pixels(40).permute(0, 2, 3, 1).numpy())
    np.save(published / "labels.npy", np.tile(np.arange(8), 5))
    return clone


@pytest.fixture
def quickstart(clone, tmp_path, monkeypatch):
    """The folder that `hf-rws quickstart` leaves, a copy of one's own; we are in it."""
    shutil.copytree(clone, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "hf-rws-quickstart")
    monkeypatch.setattr("hf_rws.distillation.loop.default_steps", lambda *arguments, **options: 2)


@pytest.fixture
def hub_account(hub, monkeypatch):
    """Logged in at a Hub on loopback."""
    monkeypatch.setenv("HF_TOKEN", WRITE)
    return hub


def run(text: str) -> dict[str, object]:
    """Run the Python blocks of a page from top to bottom, as in one session."""
    names: dict[str, object] = {}
    verbosity = hf_rws.logging.get_verbosity()
    try:
        for block in blocks("python", text):
            exec(block, names)
    finally:
        hf_rws.logging.set_verbosity(verbosity)
    return names


def run_command(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.run(cli.cli, words[1:])
    return ended.value.code


# --- Python ---


def check_push(names, printed):
    expected = state(hf_rws.load_patched("base", ["rws-fog-distilled"]))
    for name in ("model", "pinned", "again", "cached", "carried"):
        assert identical(names[name], expected), name
    assert "corruption fog, severity 5" in printed
    assert "fits       yes" in printed


def check_corruptions(names, printed):
    assert names["foggy"].shape == names["images"].shape
    assert names["transform"](names["images"][0]).shape == (3, 32, 32)
    assert names["augmentation"](names["images"]).dtype == np.uint8


def check_measure(names, printed):
    assert "| snow | 5 |" in printed
    assert set(names["foggy"].labels.tolist()) == {0, 1}


CHECKS = {"push.md": check_push, "corruptions.md": check_corruptions, "measure.md": check_measure}


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if blocks("python", text)])
def test_the_blocks_of_a_page_run(page, quickstart, hub_account, capsys):
    names = run(PAGES[page])
    if page in CHECKS:
        CHECKS[page](names, capsys.readouterr().out)


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if blocks("python", text)])
def test_what_a_page_uses_of_a_module_needs_no_other_import(page):
    """In one process with other tests every module has been imported; in a user's only what `hf_rws` offers."""
    text = "".join(blocks("python", PAGES[page]))
    imported = set(re.findall(r"^import hf_rws\.(\w+)", text, re.MULTILINE))
    used = set(re.findall(r"(?<!import )\bhf_rws\.(\w+)", re.sub(r"^from .*", "", text, flags=re.MULTILINE)))
    assert used <= {*dir(hf_rws), *imported}


def test_the_snippets_of_the_cards_on_the_hub(quickstart, hub_account, capsys):
    hf_rws.hub.push_all(".", name="vgg16")
    Path("base").rename("elsewhere")  # only the Hub has it now
    expected = state(trio(BASE).standard)
    for repo_id, words in (("user/vgg16", ""), ("user/vgg16-rws-fog", "vgg16-rws-fog: scale 1")):
        names = {}
        (snippet,) = blocks("python", hub_account.files(repo_id)["README.md"].decode())
        exec(snippet, names)
        assert words in capsys.readouterr().out
        if words:
            names["model"].rws.clear()
        assert identical(names["model"], expected)


# --- commands ---


LINES = [
    pytest.param(words, id=f"{page}: {' '.join(words)[:70]}")
    for page, text in PAGES.items()
    for words in command_lines(text)
]


@pytest.mark.parametrize("words", LINES)
def test_a_command_line_is_one_that_there_is(words, quickstart):
    program, *arguments = words
    if Path(program).name.startswith("python") and arguments[:1] != ["-m"]:
        assert Path(arguments[0]).is_file()
    if Path(program).name != "hf-rws":
        return
    if arguments[0].startswith("-"):
        assert arguments[0] in {name for option in cli.cli.params for name in option.opts}
        return
    with click.Context(cli.cli) as context:
        name, command, rest = cli.cli.resolve_command(context, arguments)
        if rest:  # else it is only named
            command.make_context(name, rest, parent=context)


def test_the_guide_to_the_commands_has_them_all():
    listed = re.findall(r"^\| `([\w-]+)` \|", PAGES["commands.md"], re.MULTILINE)
    assert sorted(listed) == sorted(cli.cli.list_commands(click.Context(cli.cli)))


def test_the_commands_of_the_readme_run(quickstart, capsys):
    lines = [words for words in command_lines(PAGES["README.md"]) if words[0] == "hf-rws" and len(words) > 2]
    assert [words[1] for words in lines] == ["distill", "evaluate"]
    for words in lines:
        quick = ["--steps=2" if word == "--minutes" else word for word in words if word != "2"]
        assert run_command(quick) == 0, capsys.readouterr().err
    assert "| fog | 5 |" in capsys.readouterr().out


def test_the_commands_on_the_hub_run(quickstart, hub_account, capsys):
    names = run(PAGES["push.md"])
    printed = {}
    for words in command_lines(PAGES["push.md"]):
        if words[0] == "hf-rws" and len(words) > 2:
            capsys.readouterr()
            code = run_command(words)
            streams = capsys.readouterr()
            assert code == 0, streams.err
            printed[words[1], words[2]] = streams.out
    listed = printed["ls", "--base"].splitlines()
    assert {"user/rws-fog", "user/vgg16-cifar10-rws-fog"} <= {line.split()[0] for line in listed[1:]}
    assert json.loads(printed["info", "user/rws-fog@v1.0"])["corruptions"] == ["fog"]
    baked = timm.create_model("hf-hub:user/vgg16-fog", pretrained=True)
    again = hf_rws.load_patched(names["base"], ["user/rws-fog"], scales=[0.8])
    assert identical(baked, state(again))


# --- numbers and shape ---


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
    assert f"| {side} px {shown}" in PAGES["corruptions.md"]


def test_the_readme_stays_short():
    assert len(PAGES["README.md"].splitlines()) < 220
