import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
from huggingface_hub import ModelCard

import hf_rws
from hf_rws import cards, plots
from hf_rws.bases import load_base
from hf_rws.errors import (
    AccessError,
    FormatError,
    MismatchError,
    NetworkError,
    NotFoundError,
    OptionError,
)
from hf_rws.hub import folders, push_all, push_folder
from hf_rws.loading import load_patched, save_patched
from hf_rws.timm_repo import save_timm_repo
from tests.hub import Fault, hub_fixture  # noqa: F401
from tests.hub.storage import READ, WRITE
from tests.models import identical, signature, state, trio

NAME = "vgg16_gap"
REPOS = ["user/cifar", "user/cifar-rws-fog", "user/cifar-rws-snow"]
TRAINING = {
    "dataset": "uoft-cs/cifar10",
    "epochs": 2,
    "data_dir": "/home/somebody/images",
    "hub_token": "hf_secretsecret",
}


def metrics(ra):
    return {
        "dataset": "uoft-cs/cifar10",
        "split": "test",
        "n": 10000,
        "standard": {"ta": 0.7, "ra": ra},
        "patched": {"ta": 0.6, "ra": 0.6},
    }


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Drawing takes longer than pushing."""
    monkeypatch.setattr(plots, "before_and_after", lambda metrics: metrics["patched"])
    monkeypatch.setattr(plots, "png", lambda figure: b"\x89PNG of " + repr(figure).encode())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study as it is left: base/, pretrained/, robust-fog/, rws-fog/, rws-snow/, with cards and other files."""
    folder = tmp_path_factory.mktemp("studies") / "cifar"
    for name, model in {"base": "standard", "pretrained": "start", "robust-fog": "robust"}.items():
        save_timm_repo(getattr(trio(NAME), model), folder / name)
    for label, ra in (("fog", 0.3), ("snow", 0.4)):
        signature(NAME, label).with_results(metrics=metrics(ra)).save_pretrained(folder / f"rws-{label}")
    (folder / "base" / "training_args.json").write_text(json.dumps(TRAINING))
    last = {"epoch": 1, "test_accuracy": {"clean": 0.7}, "n": 10000}
    (folder / "base" / "metrics.jsonl").write_text("{}\n" + json.dumps(last) + "\n")
    config = json.loads((folder / "base" / "config.json").read_text())
    (folder / "base" / "README.md").write_text(cards.base_card(config, training=TRAINING, repo_id="base"))
    (folder / "study.json").write_text("[]")
    (folder / "base" / ".env").write_text("HF_TOKEN=hf_secretsecret")
    return folder


@pytest.fixture
def study(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, "cifar"))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commits(hub):
    return {name: len(repo.commits) for name, repo in hub.repos.items()}


# --- a study ---


def test_a_study_is_pushed_and_put_into_a_collection(hub, study):
    before = contents(study)
    pushed = push_all(study, token=WRITE)
    assert (pushed.base, list(pushed.commits)) == ("user/cifar", REPOS)
    assert contents(study) == before
    assert list(hub.repos) == REPOS
    assert {repo_id: commit.oid for repo_id, commit in pushed.commits.items()} == {
        repo_id: repo.refs["main"] for repo_id, repo in hub.repos.items()
    }
    signature_files = {"config.json", "signature.safetensors", "README.md", cards.PICTURE_NAME}
    assert set(hub.files("user/cifar-rws-fog")) == signature_files
    assert set(hub.files("user/cifar")) == {"config.json", "model.safetensors", "README.md", "training_args.json"}
    (collection,) = hub.collections.values()
    assert pushed.collection == f"{hub.endpoint}/collections/{collection['slug']}"
    assert (collection["title"], collection["private"]) == ("cifar: base and robust weight signatures", False)
    assert [item["id"] for item in collection["items"]] == REPOS


def test_what_was_pushed_loads_with_its_base_named(hub, study):
    pushed = push_all(study, token=WRITE)
    model = load_patched("user/cifar", ["user/cifar-rws-fog"], strict=True)
    assert identical(model, state(load_patched(study / "base", [study / "rws-fog"])))
    assert identical(timm.create_model("local-dir:" + str(study / "base"), pretrained=True), state(trio(NAME).standard))
    origin = model.rws.signatures["cifar-rws-fog"].config.base_model
    assert (origin.repo_id, origin.revision) == ("user/cifar", pushed.commits["user/cifar"].oid)
    assert [found.id for found in hf_rws.list_signatures(base="user/cifar", corruption="snow")] == REPOS[2:]
    assert (
        (hub.files("user/cifar-rws-fog")["signature.safetensors"])
        == (study / "rws-fog" / "signature.safetensors").read_bytes()
    )


def test_cards_of_what_was_pushed(hub, study):
    config = json.loads((study / "base" / "config.json").read_text())
    config["pretrained_cfg"]["license"] = "apache-2.0"  # timm's of its own weights, which these are not
    (study / "base" / "config.json").write_text(json.dumps(config))
    push_all(study, token=WRITE, license="bsd-3-clause")
    base, fog = (hub.files(name)["README.md"].decode() for name in REPOS[:2])
    assert 'timm.create_model("hf-hub:user/cifar", pretrained=True)' in base
    assert 'hf_rws.load_patched("user/cifar", ["user/cifar-rws-fog"])' in fog
    for line in ("| clean (TA) | 70.0 |", "| fog-5 (RA) | 30.0 |", "| snow-5 (RA) | 40.0 |", "| epochs | 2 |"):
        assert line in base.splitlines()
    assert "Top-1 accuracy in %, 10,000 images of uoft-cs/cifar10 (test)." in base
    data = ModelCard(fog).data
    assert (data.base_model, data.base_model_relation, data.license) == ("user/cifar", "adapter", "bsd-3-clause")
    assert ModelCard(base).data.license == "bsd-3-clause"
    everything = b"".join(content for name in REPOS for content in hub.files(name).values())
    for secret in (b"hf_secretsecret", b"somebody", str(study.resolve()).encode()):
        assert secret not in everything


def test_pushed_again_nothing_changes(hub, study):
    first = push_all(study, token=WRITE)
    before = commits(hub)
    assert push_all(study, token=WRITE) == first
    assert commits(hub) == before
    (study / "rws-snow").rename("elsewhere")
    signature(NAME, "rain").save_pretrained(study / "rws-rain")
    pushed = push_all(study, token=WRITE)
    assert commits(hub) == {**before, "user/cifar": before["user/cifar"] + 1} | {  # its card has lost a row
        name: before.get(name, 2) for name in ("user/cifar-rws-rain",)
    } | {"user/cifar-rws-fog": before["user/cifar-rws-fog"] + 1}
    (collection,) = hub.collections.values()
    assert [item["id"] for item in collection["items"]] == [*REPOS, "user/cifar-rws-rain"]
    assert pushed.collection == first.collection


def test_other_names_an_organisation_and_no_collection(hub, study):
    pushed = push_all(study, namespace="team", name="vgg", collection=False, private=True, token=WRITE)
    assert list(hub.repos) == ["team/vgg", "team/vgg-rws-fog", "team/vgg-rws-snow"]
    assert all(repo.private for repo in hub.repos.values())
    assert (pushed.collection, hub.collections) == (None, {})
    push_all(study, namespace="team", name="vgg", collection="My own " * 20, private=True, token=WRITE)
    (collection,) = hub.collections.values()
    assert len(collection["title"]) == folders._LONGEST_TITLE
    assert collection["private"]


def test_the_words_of_an_author_go_along(hub, study):
    for name, heading in (("base", "## Use"), ("rws-fog", "## Limits")):
        readme = study / name / "README.md"
        mine = (
            readme.read_text()
            .replace(heading, f"## Mine\n\nHello.\n\n{heading}")
            .replace("license: bsd-3-clause\n", "")
            .replace("tags:", "license: mit\ntags:", 1)
        )
        readme.write_text(mine)
    push_all(study, token=WRITE)
    base, fog = (hub.files(name)["README.md"].decode() for name in REPOS[:2])
    assert "Hello." in base
    assert "Hello." in fog
    assert 'timm.create_model("hf-hub:user/cifar", pretrained=True)' in base
    assert 'hf_rws.load_patched("user/cifar", ["user/cifar-rws-fog"])' in fog
    assert (ModelCard(base).data.license, ModelCard(fog).data.base_model) == ("mit", "user/cifar")
    hub.commit("user/cifar", {"README.md": base.replace("Hello.", "Hello from the Hub.").encode()})
    (study / "base" / "README.md").unlink()
    push_all(study, token=WRITE)
    assert "Hello from the Hub." in hub.files("user/cifar")["README.md"].decode()


@pytest.mark.parametrize(
    ("prepare", "options", "error", "words"),
    [
        (lambda study: shutil.rmtree(study / "base"), {}, NotFoundError, "holds no base/model.safetensors"),
        (lambda study: (study / "rws-fog").rename(study / "rws fog"), {}, OptionError, "rename the folder"),
        (lambda study: None, {"name": "a name"}, OptionError, "give another name"),
        (lambda study: None, {"token": False}, AccessError, "a push needs a token"),
        (lambda study: None, {"token": None}, AccessError, "no token on this machine"),
        (lambda study: None, {"token": READ}, AccessError, "token does not allow this"),
        (lambda study: None, {"namespace": "other"}, AccessError, "token does not allow this"),
        (
            lambda study: save_timm_repo(trio(NAME).start, study / "base"),
            {},
            MismatchError,
            "rws-fog was not made from cifar/base",
        ),
        (
            lambda study: (study / "base" / "model.safetensors").write_bytes(b"version https://git-lfs"),
            {},
            FormatError,
            "not a safetensors file",
        ),
        (lambda study: (study / "base" / "config.json").write_text("[]"), {}, FormatError, "must hold a JSON object"),
        (lambda study: (study / "base" / "README.md").write_bytes(b"\xff\xfe"), {}, FormatError, "not UTF-8"),
        (lambda study: link(study / "base" / "config.json"), {}, OptionError, "is a link and is not pushed"),
        (lambda study: link(study / "base" / "model.safetensors"), {}, OptionError, "is a link and is not pushed"),
        (lambda study: link(study / "base" / "README.md"), {}, OptionError, "is a link and is not pushed"),
    ],
)
def test_what_is_not_pushed(hub, study, prepare, options, error, words):
    prepare(study)
    with pytest.raises(error, match=words):
        push_all("cifar", **{"token": WRITE, **options})
    assert not any(hub.files(name) for name in hub.repos)
    assert hub.collections == {}


def link(path):
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved").resolve())


def test_a_push_that_broke_off_is_taken_up_again(hub, study):
    hub.faults = [Fault("POST .*cifar-rws-snow/commit", status=503, times=9)]
    with pytest.raises(NetworkError, match="user/cifar-rws-snow"):
        push_all(study, token=WRITE)
    before = commits(hub)
    hub.faults = [Fault("POST /api/collections", status=500, times=9)]
    with pytest.raises(NetworkError, match=r"the collection 'cifar: base"):
        push_all(study, token=WRITE)
    hub.faults = []
    push_all(study, token=WRITE)
    assert commits(hub) == {**before, "user/cifar-rws-snow": 2}


# --- one folder ---


def test_one_signature_with_its_base(hub, study):
    commit = hub.commit("user/base", {"config.json": b"{}"})
    push_folder(study / "rws-fog", "user/fog", base="user/base", token=WRITE)
    config = json.loads(hub.files("user/fog")["config.json"])
    assert (config["base_model"]["repo_id"], config["base_model"]["revision"]) == ("user/base", commit)
    assert 'load_patched("user/base", ["user/fog"])' in hub.files("user/fog")["README.md"].decode()
    again = push_folder("cifar/rws-fog", "user/fog", base=f"user/base@{commit}", token=WRITE)
    assert again.oid == hub.repos["user/fog"].refs["main"]
    assert len(hub.repos["user/fog"].commits) == 2
    with pytest.raises(NotFoundError, match="user/nothing"):
        push_folder(study / "rws-fog", "user/fog", base="user/nothing", token=WRITE)


@pytest.mark.parametrize("push", ["push_folder", "push_to_hub"])
def test_a_signature_that_names_no_base_says_so(hub, study, push):
    def pushed(**options):
        if push == "push_folder":
            return push_folder(study / "rws-fog", "user/fog", token=WRITE, **options)
        return hf_rws.Signature.from_pretrained(study / "rws-fog").push_to_hub("user/fog", token=WRITE, **options)

    with pytest.warns(UserWarning, match="rws-fog does not say which model.*push it again with base="):
        pushed()
    assert '"base"' not in hub.files("user/fog")["README.md"].decode()
    hub.commit("user/base", {"config.json": b"{}"})
    pushed(base="user/base", license="mit")
    card = hub.files("user/fog")["README.md"].decode()
    assert 'load_patched("user/base", ["user/fog"])' in card
    assert ModelCard(card).data.license == "mit"
    with pytest.warns(UserWarning, match="does not say which model"):
        pushed(license="apache-2.0")
    assert ModelCard(hub.files("user/fog")["README.md"].decode()).data.license == "apache-2.0"


def test_a_study_can_be_given_a_license_and_keeps_what_its_signatures_have(hub, study):
    def licenses():
        return [ModelCard(hub.files(name)["README.md"].decode()).data.license for name in REPOS]

    push_all(study, token=WRITE)
    assert licenses() == [None, None, None]
    (study / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    (study / "rws-fog" / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    push_all(study, token=WRITE)
    assert sorted(licenses()) == ["cc0-1.0", "mit", "mit"]
    push_all(study, token=WRITE, license="bsd-3-clause")
    assert licenses() == ["bsd-3-clause"] * 3


def test_a_base_that_the_config_names_stays(hub, study):
    named = signature(NAME)
    named = replace(named, config=replace(named.config, base_model=replace(named.config.base_model, repo_id="a/b")))
    named.save_pretrained("named")
    hub.commit("user/base", {"config.json": b"{}"})
    push_folder("named", "user/fog", base="user/base", token=WRITE)
    assert json.loads(hub.files("user/fog")["config.json"])["base_model"]["repo_id"] == "a/b"


def test_one_model_from_its_own_folder(hub, study, monkeypatch):
    monkeypatch.chdir(study / "base")
    push_folder(".", "user/vgg", token=WRITE, tag="v1", commit_message="my base")
    assert hub.repos["user/vgg"].refs["v1"] == hub.repos["user/vgg"].refs["main"]
    card = hub.files("user/vgg")["README.md"].decode()
    assert "# vgg" in card.splitlines()
    assert "| clean (TA) | 70.0 |" in card.splitlines()
    assert identical(load_base("user/vgg").model, state(trio(NAME).standard))


def test_a_baked_model_keeps_its_lockfile(hub, study):
    save_patched(load_patched(study / "base", [study / "rws-fog"]), "robust")
    push_folder("robust", "user/robust", token=WRITE)
    card = hub.files("user/robust")["README.md"].decode()
    assert 'timm.create_model("hf-hub:user/robust", pretrained=True)' in card
    assert "| rws-fog | rws-fog (local) |  | 1.0 |" in card
    assert str(study.resolve()) not in card
    push_folder("robust", "user/robust", token=WRITE)
    assert len(hub.repos["user/robust"].commits) == 2


@pytest.mark.parametrize(
    ("folder", "options", "error", "words"),
    [
        (".", {}, NotFoundError, "holds neither signature.safetensors nor model.safetensors"),
        ("gone", {}, NotFoundError, "'gone' holds neither"),
        ("cifar/base", {"base": "user/base"}, OptionError, "leave out base"),
        ("cifar/base", {"revision": "a b"}, OptionError, "branch or tag"),
    ],
)
def test_folders_that_are_not_pushed(hub, study, folder, options, error, words):
    with pytest.raises(error, match=words):
        push_folder(folder, "user/x", token=WRITE, **options)
    assert hub.repos == {}


# --- timm and the two kinds of repo ---


def test_plain_timm_loads_a_base_of_its_own_architectures(hub):
    hf_rws.push_base(trio("mobilenetv3_small_050").standard, "user/mobilenet", token=WRITE)
    loaded = timm.create_model("hf-hub:user/mobilenet", pretrained=True)
    assert identical(loaded, state(trio("mobilenetv3_small_050").standard))
    assert "import hf_rws" not in hub.files("user/mobilenet")["README.md"].decode()


def test_plain_timm_loads_our_bases_and_refuses_a_signature(hub, study):
    push_all(study, token=WRITE)
    loaded = timm.create_model("hf-hub:user/cifar", pretrained=True)
    assert identical(loaded, state(trio(NAME).standard))
    hub.requests.clear()
    with pytest.raises(Exception, match="architecture"):
        timm.create_model("hf-hub:user/cifar-rws-fog", pretrained=True)
    assert not hub.asked("safetensors")
    with pytest.raises(Exception, match="architecture"):
        timm.create_model(f"local-dir:{study / 'rws-fog'}", pretrained=True)


def test_an_id_that_is_none_is_refused_before_it_is_used(hub, study):
    with pytest.raises(OptionError, match="no Hub id"):
        push_folder(study / "base", "user/a\\1", token=WRITE)


def test_a_signature_in_a_folder_called_base_keeps_its_own_address(hub, study, tmp_path):
    push_folder(study / "base", "user/model", token=WRITE)
    (study / "rws-fog").rename(tmp_path / "base")
    push_folder(tmp_path / "base", "user/rws-x", base="user/model", token=WRITE)
    assert 'load_patched("user/model", ["user/rws-x"])' in hub.files("user/rws-x")["README.md"].decode()
