"""A folder that holds something else stays as it is, unless --overwrite is given; and that is found out at once."""

import json

import pytest

import hf_rws
from hf_rws import bases, cli, data, extraction, loading
from hf_rws._files import MODEL, contents_of, locked
from hf_rws.hub import bases as hub_bases  # noqa: F401  (before what it imports is replaced)
from hf_rws.hub import bundles  # noqa: F401
from hf_rws.timm_repo import save_timm_repo
from tests.helpers import datasets_cache, on_cpu, toy_dataset  # noqa: F401
from tests.models import signature, trio
from tests.test_cli import call  # noqa: F401

pytestmark = pytest.mark.usefixtures("on_cpu", "datasets_cache")

NAME = "vgg16_gap"
MAKE = {
    "distill": ["--base", "base", "--images", "toy", "--corruption", "fog", "--steps", "1", "--batch-size", "8"],
    "extract": ["robust", "base", "start", "--corruption", "fog"],
    "apply": ["base", "rws-fog"],
    "train": ["--model", NAME, "--model-arg", "width=0.05", "--dataset", "toy", "--epochs", "1"],
    "bundle": ["base", "rws-fog"],
    "corrupt": ["--dataset", "toy", "--corruption", "fog"],
    "save-base": ["start"],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """base/, robust/, start/, rws-fog/, toy/ in the current folder."""
    models = trio(NAME)
    for name, model in (("base", models.standard), ("robust", models.robust), ("start", models.start)):
        save_timm_repo(model, tmp_path / name)
    signature(NAME).save_pretrained(tmp_path / "rws-fog")
    toy_dataset(tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "held"),
    [(command, held) for command in MAKE for held in ("base", "rws-fog") if (command, held) not in {
        ("distill", "rws-fog"), ("extract", "rws-fog")
    }],
)  # fmt: skip
def test_what_a_folder_holds_is_not_lost(command, held, here, call, monkeypatch):  # noqa: F811
    for module, name in (
        (bases, "load_base"), (data, "load_splits"), (loading, "load_patched"), (extraction, "extract")
    ):  # fmt: skip
        monkeypatch.setattr(module, name, None)  # so no work begins
    before = contents(here)
    code, out, err = call(cli.cli, command, *MAKE[command], "--output-dir", held)
    assert (code, out) == (1, "")
    assert err.startswith(("error: ", f"error: '{held}'"))
    assert held in err
    assert err.count("\n") == 1
    assert contents(here) == before


def test_a_copy_gives_way_to_another_if_told_to(here, call):  # noqa: F811
    asked = ["corrupt", *MAKE["corrupt"], "-q", "--output-dir", "toy-fog"]
    assert call(cli.cli, *asked)[:2] == (0, "toy-fog\n")
    assert call(cli.cli, *asked, "--seed", "1")[0] == 1
    assert call(cli.cli, *asked, "--seed", "1", "--overwrite")[:2] == (0, "toy-fog\n")
    assert json.loads((here / "toy-fog" / "corruption.json").read_text())["seed"] == 1


@pytest.mark.filterwarnings("ignore:the distillation did not help")
@pytest.mark.parametrize("command", ["distill", "extract"])
def test_a_signature_gives_way_to_a_signature_and_a_model_if_told_to(command, here, call):  # noqa: F811
    before = hf_rws.Signature.from_pretrained("rws-fog").sha256
    asked = [command, *MAKE[command], "--num-layers", "2", "--bits", "8", "-q", "--output-dir"]
    assert call(cli.cli, *asked, "rws-fog")[:2] == (0, "rws-fog\n")
    assert hf_rws.Signature.from_pretrained("rws-fog").sha256 != before
    assert call(cli.cli, *asked, "robust", "--overwrite")[:2] == (0, "robust\n")
    assert hf_rws.Signature.from_pretrained("robust").config.method.kind.startswith(command)


def test_a_training_begins_anew_if_told_to(here, call):  # noqa: F811
    asked = ["train", *MAKE["train"], "--batch-size", "8", "--mixed-precision", "no", "-q", "--output-dir", "base"]
    for more in ([], ["--lr", "0.02"]):
        assert call(cli.cli, *asked, *more)[0] == 1
        assert call(cli.cli, *asked, *more, "--resume", "--overwrite")[0] == 2
        assert call(cli.cli, *asked, *more, "--overwrite")[0] == 0
    assert json.loads((here / "base" / "training_args.json").read_text())["lr"] == 0.02
    assert call(cli.cli, *asked[:-1], "rws-fog", "--overwrite")[0] == 0
    assert contents_of(here / "rws-fog") == [MODEL]


def test_a_patched_model_gives_way_to_another_and_a_base_if_told_to(here, call):  # noqa: F811
    for folder, *more in (["new"], ["new"], ["start", "--overwrite"]):
        code, out, err = call(cli.cli, "apply", "base", "rws-fog", "--output-dir", folder, "--json", *more)
        assert (code, err) == (0, "")
        assert json.loads(out)["folder"] == folder


@pytest.mark.filterwarnings("ignore:the distillation did not help")
@pytest.mark.parametrize("command", ["distill", "extract", "apply", "save-base"])
def test_a_readme_of_ones_own_keeps_its_text(command, here, call):  # noqa: F811
    (here / "new").mkdir()
    (here / "new" / "README.md").write_text("my readme\n")
    assert call(cli.cli, command, *MAKE[command], "-q", "--output-dir", "new")[0] == 0
    assert "my readme\n" in (here / "new" / "README.md").read_text()


def test_a_training_that_is_under_way_is_not_removed(here, call):  # noqa: F811
    run = here / "run"
    (run / "checkpoint").mkdir(parents=True)
    (run / "training_args.json").write_text("{}")
    before = contents(run)
    with locked(run / "checkpoint"):
        code, _, err = call(cli.cli, "train", *MAKE["train"], "--output-dir", "run", "--overwrite")
    assert code == 1
    assert "is being written to by another process" in err
    assert contents(run) == before
