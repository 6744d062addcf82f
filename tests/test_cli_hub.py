import json
import os
import re
import shutil
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import timm
from huggingface_hub.cli import extensions
from huggingface_hub.cli._output import OutputFormat
from huggingface_hub.cli.hf import app as hf_app

import hf_rws
from hf_rws import __main__, cli, hub
from hf_rws.cli.output import _FORMATS, Output
from hf_rws.timm_repo import save_timm_repo
from tests.hub import hub_fixture  # noqa: F401
from tests.hub.storage import READ, WRITE
from tests.models import identical, signature, state, trio
from tests.test_cli import call  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore:.*which model on the Hub it was made from")

NAME = "vgg16_gap"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "cifar"
    save_timm_repo(trio(NAME).standard, folder / "base")
    for label in ("fog", "snow"):
        signature(NAME, label).save_pretrained(folder / f"rws-{label}")
    return folder


@pytest.fixture
def study(finished, tmp_path, monkeypatch):
    """base/, rws-fog/ and rws-snow/ in the current folder."""
    shutil.copytree(finished, tmp_path / "cifar")
    monkeypatch.chdir(tmp_path / "cifar")
    return tmp_path / "cifar"


@pytest.fixture
def logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITE)
    return hub


# --- info ---


def test_info_of_a_folder(study, call):  # noqa: F811
    found = hub.info("rws-fog", base="base")
    assert call(cli.cli, "info", "rws-fog", "--base", "base") == (0, f"{found!r}\n", "")
    code, out, err = call(cli.cli, "info", "rws-fog", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["nbytes"] == found.nbytes
    assert json.loads(out)["corruptions"] == ["fog"]
    assert call(cli.cli, "info", "rws-fog", "--format", "agent")[1] == out
    assert call(cli.cli, "info", "rws-fog", "-q") == (0, "rws-fog\n", "")


def test_info_of_a_repo(logged_in, study, call):  # noqa: F811
    signature(NAME).push_to_hub("user/rws-fog", private=True)
    commit = logged_in.repos["user/rws-fog"].refs["main"]
    assert json.loads(call(cli.cli, "info", "user/rws-fog", "--json")[1])["revision"] == commit
    assert call(cli.cli, "info", "user/rws-fog", "--revision", "v9", "--token", READ) == (
        1, "", "error: user/rws-fog has no revision 'v9'\n"
    )  # fmt: skip
    code, out, err = call(cli.cli, "info", "user/rws-fog", "--local-files-only", "--cache-dir", "elsewhere")
    assert (code, out) == (1, "")
    assert "not in the cache" in err


# --- apply ---


def test_apply(study, call):  # noqa: F811
    asked = ["apply", "base", "rws-fog", "rws-snow", "--scale", "0.7", "--scale", "0.3", "--output-dir"]
    code, out, err = call(cli.cli, *asked, "robust", "--json")
    assert (code, err) == (0, "")
    size = (study / "robust" / "model.safetensors").stat().st_size
    assert json.loads(out) == {"folder": "robust", "scales": ["rws-fog=0.7", "rws-snow=0.3"], "nbytes": size}
    expected = hf_rws.load_patched("base", ["rws-fog", "rws-snow"], scales=[0.7, 0.3])
    assert identical(timm.create_model("local-dir:robust", pretrained=True), state(expected))
    assert call(cli.cli, *asked, "again", "--format", "human")[1] == (
        f"folder: again\nscales: rws-fog=0.7, rws-snow=0.3\nnbytes: {size}\n"
    )
    assert call(cli.cli, *asked, "again", "--format", "agent")[1] == (
        f"folder=again scales=rws-fog=0.7, rws-snow=0.3 nbytes={size}\n"
    )
    assert call(cli.cli, *asked, "again", "--quiet")[1] == "again\n"


def test_apply_a_lockfile(study, call):  # noqa: F811
    model = hf_rws.load_patched("base", ["rws-fog"], scales=[0.5])
    (study / "lockfile.json").write_text(json.dumps(model.rws.lockfile()))
    assert call(cli.cli, "apply", "--lockfile", "lockfile.json", "--output-dir", "robust", "-q") == (0, "robust\n", "")
    assert identical(timm.create_model("local-dir:robust", pretrained=True), state(model))


def test_apply_a_lockfile_to_a_base_that_is_elsewhere(study, call):  # noqa: F811
    model = hf_rws.load_patched("base", ["rws-fog"], scales=[0.5])
    (study / "lockfile.json").write_text(json.dumps(model.rws.lockfile()))
    (study / "base").rename(study / "moved")
    asked = ["apply", "--lockfile", "lockfile.json", "--output-dir", "robust", "-q"]
    assert call(cli.cli, *asked)[0] == 1
    assert call(cli.cli, "apply", "moved", *asked[1:]) == (0, "robust\n", "")
    assert identical(timm.create_model("local-dir:robust", pretrained=True), state(model))


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ([], None),
        (["0.25"], {"rws-fog": 0.25, "rws-snow": 0.25}),
        (["rws-snow=0.7"], {"rws-fog": 0.0, "rws-snow": 0.7}),
        (["rws-snow=0.7", "rws-fog=-1"], {"rws-fog": -1.0, "rws-snow": 0.7}),
    ],
)
def test_scales_by_one_number_or_by_name(study, call, scales, expected):  # noqa: F811
    options = [word for scale in scales for word in ("--scale", scale)]
    code, out, err = call(cli.cli, "apply", "base", "rws-fog", "rws-snow", *options, "--output-dir", "x", "--json")
    assert (code, err) == (0, "")
    expected = expected or hf_rws.load_patched("base", ["rws-fog", "rws-snow"]).rws.scales
    assert json.loads(out)["scales"] == [f"{name}={scale:g}" for name, scale in expected.items()]


# --- bundle ---


def test_bundle(study, call):  # noqa: F811
    asked = ["bundle", "base", "rws-fog", "rws-snow", "--scale", "rws-fog=0.5", "--output-dir", "packed"]
    code, out, err = call(cli.cli, *asked, "--json")
    assert (code, err) == (0, "")
    made = json.loads(out)
    assert made["folder"] == "packed"
    assert made["nbytes"] > (study / "base" / "model.safetensors").stat().st_size
    code, _, err = call(cli.cli, *asked)
    assert (code, err) == (
        1,
        "error: 'packed' is there already and a bundle: choose another one, or give --overwrite\n",
    )
    code, _, err = call(cli.cli, *asked[:-1], ".", "--overwrite")
    assert (code, "the present folder" in err) == (1, True)
    assert call(cli.cli, "bundle", "base", "rws-fog", "--output-dir", "packed", "--overwrite", "-q")[0] == 0
    assert not [path for path in study.iterdir() if path.name.startswith(".")]
    shutil.rmtree("base")
    assert hf_rws.load_patched(lockfile="packed").rws.scales == {"rws-fog": 1.0}
    (study / "photos").mkdir()
    (study / "photos" / "cat.png").touch()
    code, _, err = call(cli.cli, "bundle", "packed/base", "rws-fog", "--output-dir", "photos", "--overwrite")
    assert (code, "not an empty folder" in err, (study / "photos" / "cat.png").is_file()) == (1, True, True)


# --- tokens ---


def test_a_token_reaches_whatever_a_command_loads(hub, tmp_path, call):  # noqa: F811
    for name in ("robust", "standard", "start"):
        folder = save_timm_repo(getattr(trio(NAME), name), tmp_path / name)
        hub.commit(f"user/{name}", {path.name: path.read_bytes() for path in folder.iterdir()}, private=True)
    asked = ["extract", "user/robust", "user/standard", "user/start", "--corruption", "fog", "--output-dir"]
    code, _, err = call(cli.cli, *asked, tmp_path / "rws")
    assert (code, err.endswith("or pass --token\n")) == (1, True)
    assert call(cli.cli, *asked, tmp_path / "rws", "--token", READ)[0] == 0
    assert "HF_TOKEN" not in os.environ


# --- push and ls ---


def test_push_and_list(logged_in, study, call):  # noqa: F811
    code, out, err = call(cli.cli, "push", study, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    names = ["user/cifar", "user/cifar-rws-fog", "user/cifar-rws-snow"]
    assert [row["repo"] for row in rows] == [*names, "(collection)"]
    assert [row["commit"] for row in rows[:3]] == [logged_in.repos[name].refs["main"] for name in names]
    assert [row["url"] for row in rows[:3]] == [f"{logged_in.endpoint}/{name}" for name in names]
    assert rows[3]["url"].startswith(f"{logged_in.endpoint}/collections/user/cifar-base")
    assert json.loads(call(cli.cli, "push", study, "--json")[1]) == rows

    code, out, err = call(cli.cli, "ls", "--base", "user/cifar", "--corruption", "fog")
    assert (code, err) == (0, "")
    header, line = out.splitlines()
    assert header.split()[:4] == ["ID", "CORRUPTIONS", "SEVERITY", "KIND"]
    assert line.split()[0] == "user/cifar-rws-fog"
    assert call(cli.cli, "ls", "-q")[1].split() == names[:0:-1]
    assert call(cli.cli, "ls", "--limit", "1", "--format", "agent")[1].count("\n") == 2
    assert call(cli.cli, "ls", "--author", "nobody") == (0, "No results found.\n", "")
    assert call(cli.cli, "ls", "--author", "nobody", "--json") == (0, "[]\n", "")


def test_push_one(logged_in, study, call):  # noqa: F811
    commit = logged_in.commit("user/base", {"config.json": b"{}"})
    asked = ["push", "rws-fog", "user/fog", "--base", "user/base", "--private", "--license", "mit"]
    code, out, err = call(cli.cli, *asked, "--tag", "v1", "--commit-message", "my fog", "--format", "agent")
    assert (code, err) == (0, "")
    header, line = out.splitlines()
    head = logged_in.repos["user/fog"].refs["main"]
    assert (header, line) == ("repo\tcommit\turl", f"user/fog\t{head}\t{logged_in.endpoint}/user/fog")
    assert logged_in.repos["user/fog"].private
    assert b"\nlicense: mit\n" in logged_in.files("user/fog")["README.md"]
    assert logged_in.repos["user/fog"].refs["v1"] == head
    assert json.loads(logged_in.files("user/fog")["config.json"])["base_model"]["revision"] == commit
    code, out, _ = call(cli.cli, "push", "rws-snow", "user/fog", "--base", "user/base", "--create-pr", "-q")
    assert (code, out) == (0, f"{logged_in.endpoint}/user/fog/discussions/1\n")
    assert logged_in.repos["user/fog"].refs["main"] == head


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info"], "Missing argument 'SIGNATURE'"),
        (["info", "rws-fog", "--json", "-q"], "give only one of --format, --json and --quiet"),
        (["info", "rws-fog", "--format", "xml"], "'xml' is not one of"),
        (["apply", "base", "rws-fog"], "--output-dir"),
        (["apply", "base", "a", "b", "--scale", "a=1", "--scale", "2", "--output-dir", "x"], "NAME=NUMBER for each"),
        (["apply", "base", "a", "--scale", "a=1", "--scale", "a=2", "--output-dir", "x"], "names each signature once"),
        (["apply", "base", "a", "--scale", "much", "--output-dir", "x"], "must look like 0.7 or rws-fog=0.7"),
        (["apply", "base", "--output-dir", "x"], "give BASE and SIGNATURES, or --lockfile"),
        (["apply", "--output-dir", "x"], "give BASE and SIGNATURES, or --lockfile"),
        (["apply", "base", "rws-fog", "--lockfile", "r.json", "--output-dir", "x"], "or --lockfile"),
        (["push"], "Missing argument 'FOLDER'"),
        (["push", ".", "--tag", "v1"], "give REPO_ID"),
        (["push", "rws-fog"], "give REPO_ID, e.g. user/rws-fog"),
        (["push", "rws-fog", "user/x", "--namespace", "user"], "are for a study"),
        (["ls", "--limit", "0"], "x>=1"),
        (["ls", "--sort", "beauty"], "'beauty' is not one of"),
    ],
)
def test_usage_errors(study, call, arguments, message):  # noqa: F811
    code, out, err = call(cli.cli, *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nowhere"], "nowhere"),
        (["apply", "base", "rws-fog", "--scale", "nan", "--output-dir", "x"], "finite"),
        (["apply", "base", "nowhere", "--output-dir", "x"], "nowhere"),
        (["push", "nowhere", "user/x"], "holds neither"),
        (["push", "nowhere"], "holds no base"),
        (["push", "rws-fog", "no id"], "user/name"),
        (["apply", "base", "rws-fog", "--output-dir", "base"], "base holds a model, over which"),
        (["apply", "base", "rws-fog", "--output-dir", "rws-snow"], "or --overwrite"),
        (["push", "rws-fog", "user/x"], "which model it was made from, so its card could not say"),
        (["push", "rws-fog", "user/x"], "Hub id by --base"),
        (["ls", "--base", "no id"], "no id"),
    ],
)
def test_our_errors_are_one_line(study, call, arguments, message):  # noqa: F811
    code, out, err = call(cli.cli, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (study / "x").exists()


# --- the formats of hf ---


def test_every_command_has_the_formats_of_hf():
    assert set(_FORMATS) == {style.value for style in OutputFormat}
    for name, command in cli.cli.commands.items():
        opts = {opt for param in command.params for opt in param.opts}
        assert opts >= {"--format", "--json", "--quiet", "-q"}, name
        assert re.search(r"Examples?:\n +hf-rws ", command.help), name


def test_auto_is_agent_where_an_agent_runs_the_command(study, call, monkeypatch):  # noqa: F811
    for name in ("AI_AGENT", "AGENT"):
        monkeypatch.delenv(name, raising=False)
    human = call(cli.cli, "info", "rws-fog")[1]
    monkeypatch.setenv("AI_AGENT", "some-agent")
    agent = call(cli.cli, "info", "rws-fog", "--format", "auto")[1]
    assert human.startswith("signature  rws-fog")
    assert json.loads(agent)["id"] == "rws-fog"


def test_tables(capsys):
    first = {"id": "a/b", "tags": ("x", "y"), "n": 1, "none": None}
    rows = [first, {"id": "c\x1b[31m\nd", "tags": (), "n": 20, "none": None}]
    printed = {}
    for style in _FORMATS[1:]:
        Output(style).table(rows, id_key="id")
        printed[style] = capsys.readouterr().out
    assert printed["human"] == "ID           TAGS  N\na/b          x, y  1\nc\\x1b[31m d        20\n"
    assert printed["agent"] == "id\ttags\tn\tnone\na/b\tx, y\t1\t\nc\\x1b[31m d\t\t20\t\n"
    assert json.loads(printed["json"]) == [{**row, "tags": list(row["tags"])} for row in rows]
    assert printed["quiet"] == "a/b\nc\\x1b[31m d\n"
    Output("human").table(rows, id_key="id", human="| a |")
    assert capsys.readouterr().out == "| a |\n"


# --- hf rws ---


def test_hf_finds_in_this_repo_what_it_needs_of_an_extension(monkeypatch):
    """`hf extensions install OWNER/hf-rws` installs a Python package whose console script has the repo's name."""
    owner, repo, short = extensions._normalize_repo_id("owner/hf-rws")
    assert (owner, repo, short) == ("owner", "hf-rws", "rws")
    assert short not in hf_app.commands
    assert not (ROOT / extensions._get_executable_name(short)).exists()  # or hf would take that file for a binary

    class Page:
        def __init__(self, path):
            self.text = (ROOT / path).read_text()

        def json(self):
            return json.loads(self.text)

    monkeypatch.setattr(extensions, "_github_request", lambda _, url: Page(url.partition("/HEAD/")[2]))
    described = extensions._try_fetch_remote_description("owner", "hf-rws")
    assert described == "Robust weight signatures for timm models: robustness as easy as patching weights"


def test_hf_rws_runs_our_console_script(tmp_path, monkeypatch, capfd):
    (script,) = entry_points(group="console_scripts", name="hf-rws")
    assert script.load() is __main__.main
    installed = tmp_path / "hf-rws" / "venv" / "bin" / "hf-rws"
    installed.parent.mkdir(parents=True)
    installed.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    installed.chmod(0o755)
    monkeypatch.setattr(extensions, "EXTENSIONS_ROOT", tmp_path)
    monkeypatch.setattr(extensions, "_check_extension_update", lambda name: None, raising=False)
    manifest = {
        "owner": "owner", "repo": "hf-rws", "repo_id": "owner/hf-rws", "short_name": "rws", "type": "python",
        "executable_path": str(installed), "installed_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    (tmp_path / "hf-rws" / "manifest.json").write_text(json.dumps(manifest))
    asked = ["rws", "info", "user/rws-fog", "--json"]
    assert extensions.dispatch_unknown_top_level_extension(asked, set(hf_app.commands)) == 3
    assert capfd.readouterr().out == "info user/rws-fog --json\n"
