import json
import os
from pathlib import Path

import pytest
import timm
from huggingface_hub import constants

from hf_rws._transport import calls
from hf_rws._transport.ids import Location, parse_id
from hf_rws.errors import (
    AccessError,
    FormatError,
    NetworkError,
    NotFoundError,
    OptionError,
    RWSError,
)
from hf_rws.hub.bases import push_base
from hf_rws.loading import load_patched
from tests.hub import Fault, fetch, hub_fixture  # noqa: F401
from tests.hub.samples import CARD, CONFIG, FILES, NAMES, PUSHED, SHA, contents, folder_fixture, push  # noqa: F401
from tests.hub.server import OTHER, READ, WRITE
from tests.models import signature, trio

# --- ids ---


@pytest.mark.parametrize(
    ("id", "revision", "expected", "name"),
    [
        ("user/rws-fog", None, Location("hub", "user/rws-fog"), "rws-fog"),
        ("user/rws-fog@v1.0", None, Location("hub", "user/rws-fog", "v1.0"), "rws-fog"),
        ("user/rws-fog@v1.0", "v1.0", Location("hub", "user/rws-fog", "v1.0"), "rws-fog"),
        ("hf-hub:user/rws-fog@refs/pr/1", None, Location("hub", "user/rws-fog", "refs/pr/1"), "rws-fog"),
        ("user/rws-fog", SHA, Location("hub", "user/rws-fog", SHA), "rws-fog"),
        ("hf-hub:gpt2", None, Location("hub", "gpt2"), "gpt2"),
        ("resnet50.a1_in1k", None, Location("name", "resnet50.a1_in1k"), "resnet50.a1_in1k"),
        ("resnet50@v2", None, Location("name", "resnet50", "v2"), "resnet50"),
        ("here", None, Location("local", "here"), "here"),
        (Path("here"), None, Location("local", "here"), "here"),
        ("here/rws", None, Location("local", "here/rws"), "rws"),  # a folder wins over the Hub
        ("hf-hub:here/rws", None, Location("hub", "here/rws"), "rws"),
        ("fog@5", None, Location("local", "fog@5"), "fog@5"),  # so does one with an @ in its name
    ],
)
def test_an_id_means(id, revision, expected, name, tmp_path, monkeypatch):
    (tmp_path / "here" / "rws").mkdir(parents=True)
    (tmp_path / "fog@5").mkdir()
    monkeypatch.chdir(tmp_path)
    location = parse_id(id, revision=revision)
    assert location == expected
    assert location.name == name
    assert (location.path is not None, location.repo_id is not None) == (
        location.kind == "local",
        location.kind == "hub",
    )


@pytest.mark.parametrize(
    ("id", "revision", "error", "words"),
    [
        ("user/rws-fog@v1", "v2", OptionError, "v2"),
        ("user/rws-fog@", None, OptionError, "give one"),
        ("user/rws-fog@../main", None, OptionError, "../main"),
        ("user/rws-fog", "a b", OptionError, "a b"),
        *[
            ("user/rws-fog", name, OptionError, "cannot be a revision")
            for name in (
                ".",
                "..",
                "a.",
                "a/.b",
                ".a",
                "a.lock",
                "a.lock/b",
                "@",
                "a//b",
                "a/",
                "\ud800",
                "a\udfff",
                "a\n",
            )
        ],
        ("user/rws-fog@\ud800", None, OptionError, "cannot be a revision"),
        ("here@v1", None, OptionError, "here"),
        ("here", "v1", OptionError, "hf-hub:here"),
        ("", None, OptionError, "user/name"),
        ("user name", None, OptionError, "user/name"),
        ("hf-hub:a/b/c", None, OptionError, "user/name"),
        (3, None, OptionError, "int"),
        ("./there", None, NotFoundError, "./there"),
        ("/nowhere/at/all", None, NotFoundError, "/nowhere/at/all"),
        ("a/b/c", None, NotFoundError, "a/b/c"),
        (Path("user/rws-fog"), None, NotFoundError, "user/rws-fog"),
        ("file.json", None, NotFoundError, "is a file"),
    ],
)
def test_bad_ids(id, revision, error, words, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "file.json").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as raised:
        parse_id(id, revision=revision)
    assert words in str(raised.value)


# --- reading ---


def test_a_local_folder(folder):
    fetched = fetch(folder, NAMES, optional=["router"])
    assert (fetched.folder, fetched.repo_id, fetched.revision) == (folder, None, None)
    with pytest.raises(NotFoundError, match=r"no model\.safetensors"):
        fetch(folder, ["config.json", "model.safetensors"])


def test_files_of_one_commit_and_the_cache(hub):
    first = hub.commit("user/rws-fog", FILES)
    fetched = fetch("user/rws-fog", NAMES)
    assert (contents(fetched), fetched.repo_id, fetched.revision) == (FILES, "user/rws-fog", first)
    assert all(headers["user-agent"].startswith("hf-rws/") for _, headers in hub.requests)
    hub.requests.clear()
    assert fetch("user/rws-fog", NAMES) == fetched
    assert len(hub.requests) == 1
    assert fetch(f"user/rws-fog@{first}", NAMES) == fetched
    assert len(hub.requests) == 1
    second = hub.commit("user/rws-fog", {"config.json": b"{}"})
    assert fetch("user/rws-fog", NAMES).revision == second
    assert contents(fetch("user/rws-fog", NAMES, revision=first)) == FILES


def test_a_repo_that_moves_between_config_and_weights(hub):
    first = hub.commit("user/rws-fog", FILES)
    changed = dict.fromkeys(NAMES, b"new")
    hub.faults.append(Fault(r"GET .*/resolve/.*config\.json", before=lambda: hub.commit("user/rws-fog", changed)))
    fetched = fetch("user/rws-fog", NAMES)
    assert (contents(fetched), fetched.revision) == (FILES, first)
    assert hub.repos["user/rws-fog"].refs["main"] != first


def test_branches_tags_and_short_ids(hub):
    hub.commit("user/rws-fog", {"config.json": b"old"})
    hub.repos["user/rws-fog"].refs["v1.0"] = hub.repos["user/rws-fog"].refs["main"]
    hub.commit("user/rws-fog", {"config.json": b"dev"}, branch="dev/one")
    hub.commit("user/rws-fog", {"config.json": b"new"})
    for id, content in [("@v1.0", b"old"), ("@dev/one", b"dev"), ("", b"new"), ("@main", b"new")]:
        fetched = fetch("user/rws-fog" + id, ["config.json"])
        assert (fetched.folder / "config.json").read_bytes() == content
    assert (
        fetch("user/rws-fog@v1.0", ["config.json"], local_files_only=True).folder.name
        == fetch("user/rws-fog@v1.0", ["config.json"]).revision
    )


def test_optional_files(hub):
    hub.commit("user/rws-fog", {**FILES, "README.md": b"card"})
    fetched = fetch("user/rws-fog", NAMES, optional=["README.md", "router.json"])
    assert (fetched.folder / "README.md").read_bytes() == b"card"
    assert not (fetched.folder / "router.json").exists()
    hub.requests.clear()
    fetch("user/rws-fog", NAMES, optional=["README.md", "router.json"])
    assert len(hub.requests) == 1  # what is not there is remembered, too
    assert fetch("user/rws-fog", NAMES, optional=["other"], local_files_only=True) == fetched


@pytest.mark.parametrize("way", ["local_files_only", "HF_HUB_OFFLINE", "server gone", "server failing", "stalled"])
def test_offline_from_the_cache(hub, way, monkeypatch):
    commit = hub.commit("user/rws-fog", FILES)
    fetch("user/rws-fog", NAMES)
    options = {"local_files_only": True} if way == "local_files_only" else {}
    if way == "HF_HUB_OFFLINE":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if way == "server gone":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    if way == "server failing":
        hub.faults.append(Fault("", status=503, times=100))
    if way == "stalled":
        monkeypatch.setattr(calls, "TIME_LIMIT", 0.6)
        hub.faults.append(Fault("", stall=True, times=100))
    assert fetch("user/rws-fog", NAMES, **options).revision == commit
    with pytest.raises(NetworkError):
        fetch("user/rws-fog", ["config.json"], revision="other", **options)


def test_offline_without_a_cache(hub):
    hub.commit("user/rws-fog", FILES)
    with pytest.raises(NetworkError, match=r"user/rws-fog is not in the cache, and local_files_only"):
        fetch("user/rws-fog", NAMES, local_files_only=True)
    fetch("user/rws-fog", ["config.json"])
    with pytest.raises(NetworkError, match=r"user/rws-fog \(signature\.safetensors\) is not in the cache"):
        fetch("user/rws-fog", NAMES, local_files_only=True)
    with pytest.raises(OptionError, match="force_download needs"):
        fetch("user/rws-fog", NAMES, local_files_only=True, force_download=True)


def test_force_download_mends_a_damaged_cache(hub):
    hub.commit("user/rws-fog", FILES)
    damaged = fetch("user/rws-fog", NAMES).folder / "signature.safetensors"
    os.truncate(damaged, 7)
    assert contents(fetch("user/rws-fog", NAMES)) != FILES
    assert contents(fetch("user/rws-fog", NAMES, force_download=True)) == FILES


def test_another_cache(hub, tmp_path):
    hub.commit("user/rws-fog", FILES)
    fetched = fetch("user/rws-fog", NAMES, cache_dir=tmp_path / "elsewhere")
    assert fetched.folder.is_relative_to(tmp_path / "elsewhere")


# --- errors ---

READING = [
    (
        "user/nothing",
        NAMES,
        None,
        (NotFoundError, AccessError),
        r"no user/nothing on the Hub, or it is private.*log in",
    ),
    ("user/nothing", NAMES, READ, NotFoundError, r"no user/nothing on the Hub, or the token may not see it"),
    ("user/rws-fog@v9", NAMES, None, NotFoundError, r"user/rws-fog has no revision 'v9'"),
    (f"user/rws-fog@{SHA}", NAMES, None, NotFoundError, rf"user/rws-fog has no revision '{SHA}'"),
    ("user/rws-fog@main", ["model.bin"], None, NotFoundError, r"user/rws-fog@main has no file 'model\.bin'"),
    ("user/private", NAMES, None, (NotFoundError, AccessError), r"user/private.*private.*log in"),
    ("user/private", NAMES, OTHER, NotFoundError, r"user/private.*may not see it"),
    ("user/private", NAMES, "hf_wrongwrongwrong", AccessError, r"user/private.*does not accept this one"),
    ("user/gated", NAMES, None, AccessError, r"user/gated is gated: ask for access"),
    ("user/gated", NAMES, OTHER, AccessError, r"user/gated is gated: ask for access"),
    ("user/rws-fog", NAMES, True, AccessError, r"token=True, but there is no token"),
    ("user/rws--fog", NAMES, None, OptionError, r"'user/rws--fog' is no Hub id"),
    (f"user/rws--fog@{SHA}", NAMES, None, OptionError, r"'user/rws--fog' is no Hub id"),
    ("rws-fog", NAMES, None, NotFoundError, r"no folder 'rws-fog', and it is no Hub id"),
    ("user/rws-fog", [], None, OptionError, r"name at least one"),
]


@pytest.mark.parametrize(("id", "names", "token", "kinds", "words"), READING)
def test_errors_of_reading(hub, id, names, token, kinds, words):
    hub.commit("user/rws-fog", FILES)
    hub.commit("user/private", FILES, private=True)
    hub.commit("user/gated", FILES, gated=True)
    with pytest.raises(RWSError, match=words) as raised:
        fetch(id, names, token=token)
    assert all(isinstance(raised.value, kind) for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))


def test_private_and_gated_repos_with_the_right_token(hub):
    hub.commit("user/private", FILES, private=True)
    hub.commit("user/gated", FILES, gated=True)
    assert contents(fetch("user/private", NAMES, token=READ)) == FILES
    assert contents(fetch("user/gated", NAMES, token=READ)) == FILES


# --- writing ---


def test_push_then_fetch(hub, folder):
    commit = push(folder, commit_message="First")
    assert hub.files("user/rws-fog") == PUSHED  # and nothing else of the folder
    assert hub.repos["user/rws-fog"].messages == ["initial commit", "First"]
    fetched = fetch("user/rws-fog", NAMES)
    assert (contents(fetched), fetched.revision) == (FILES, commit.oid)
    assert commit.commit_url == f"{hub.endpoint}/user/rws-fog/commit/{commit.oid}"
    assert not hub.repos["user/rws-fog"].private
    assert all(headers["user-agent"].startswith("hf-rws/") for _, headers in hub.requests)


def test_a_second_push_makes_no_commit(hub, folder):
    first = push(folder)
    hub.requests.clear()
    assert push(folder).oid == first.oid
    assert hub.asked("POST .*/commit/") == 0
    (folder / "config.json").write_bytes(b"{}")
    second = push(folder)
    assert second.oid != first.oid
    assert hub.files("user/rws-fog")["config.json"] == b"{}"


def test_the_readme_of_a_user_is_kept(hub, folder):
    push(folder)
    mine = CARD.replace("# rws-fog", "# My signature\n\nI made it.").replace("- rws", "- rws\n- mine")
    hub.commit("user/rws-fog", {"README.md": mine.encode()})
    (folder / "README.md").write_text(CARD.replace("TA 60", "TA 61"))
    push(folder)
    text = hub.files("user/rws-fog")["README.md"].decode()
    assert "I made it." in text
    assert "- mine" in text
    assert "TA 61" in text
    assert "TA 60" not in text
    hub.requests.clear()
    push(folder)
    assert hub.asked("POST .*/commit/") == 0


def test_private_branch_tag_and_pull_request(hub, folder):
    push(folder, private=True)
    repo = hub.repos["user/rws-fog"]
    assert repo.private
    with pytest.raises(OptionError, match=r"user/rws-fog exists and is private"):
        push(folder, private=False)
    (folder / "config.json").write_bytes(b"dev")
    dev = push(folder, revision="dev/one", tag="v0.1")
    assert repo.refs["dev/one"] == repo.refs["v0.1"] == dev.oid != repo.refs["main"]
    (folder / "config.json").write_bytes(b"proposed")
    proposal = push(folder, create_pr=True)
    assert (proposal.pr_num, repo.refs["refs/pr/1"]) == (1, proposal.oid)
    assert hub.files("user/rws-fog")["config.json"] == CONFIG
    assert hub.files("user/rws-fog", "refs/pr/1")["config.json"] == b"proposed"


def test_a_stranger_may_propose(hub, folder):
    push(folder)
    (folder / "config.json").write_bytes(b"proposed")
    assert push(folder, token=OTHER, create_pr=True).pr_num == 1
    assert hub.files("user/rws-fog")["config.json"] == CONFIG
    assert hub.files("user/rws-fog", "refs/pr/1")["config.json"] == b"proposed"


def test_a_tag_names_one_commit(hub, folder):
    first = push(folder, tag="v1.0")
    assert push(folder, tag="v1.0").oid == first.oid
    (folder / "config.json").write_bytes(b"{}")
    with pytest.raises(OptionError, match=rf"its tag 'v1.0' names {first.oid[:7]} already"):
        push(folder, tag="v1.0")
    assert hub.repos["user/rws-fog"].refs["v1.0"] == first.oid


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"names": ["../secret"]}, OptionError, "'../secret' is not pushed"),
        ({"names": ["/etc/hostname"]}, OptionError, "not pushed"),
        ({"names": [".env"]}, OptionError, "'.env' is not pushed"),
        ({"names": ["link"]}, OptionError, "'link' is a link"),
        ({"names": ["model.safetensors"]}, NotFoundError, "no file 'model.safetensors'"),
        ({"names": []}, OptionError, "at least one"),
        ({"revision": SHA}, OptionError, "cannot be the name of a branch"),
        ({"revision": "a b"}, OptionError, "'a b'"),
        ({"tag": "a..b"}, OptionError, "'a..b'"),
        ({"create_pr": True, "tag": "v1"}, OptionError, "leave out revision and tag"),
        ({"create_pr": True, "revision": "dev"}, OptionError, "leave out revision and tag"),
    ],
)
def test_what_is_not_pushed(hub, folder, options, kind, words):
    with pytest.raises(kind, match=words):
        push(folder, **options)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "words"),
    [(None, "wants a token"), (READ, "write access"), (OTHER, "write access"), ("hf_wrongwrongwrong", "accept this")],
)
@pytest.mark.parametrize("exists", [False, True])
def test_who_may_push(hub, folder, token, words, exists):
    if exists:
        hub.commit("user/rws-fog", {"config.json": b"old"})
    with pytest.raises(AccessError, match=rf"user/rws-fog.*{words}"):
        push(folder, token=token)
    assert not exists or hub.files("user/rws-fog") == {"config.json": b"old"}


def test_a_card_that_the_hub_refuses(hub, folder):
    (folder / "README.md").write_text("---\nlicense: none-at-all\n---\n")
    with pytest.raises(FormatError, match=r'user/rws-fog.*"license" must be one of the known ones'):
        push(folder)
    assert hub.files("user/rws-fog") == {}


def test_a_readme_that_cannot_be_merged(hub, folder):
    hub.commit("user/rws-fog", {"README.md": b"\xff\xfe\x00"})
    with pytest.raises(FormatError, match="not UTF-8"):
        push(folder)


# --- bases ---


def test_push_a_base_and_load_it_with_timm(hub):
    model = timm.create_model("test_resnet", num_classes=3, pretrained=False).eval()
    commit = push_base(
        model, "user/base", token=WRITE, training={"dataset": "uoft-cs/cifar10"}, metrics={"ta": 0.7, "n": 100}
    )
    files = hub.files("user/base")
    assert set(files) == {"config.json", "model.safetensors", "README.md"}
    assert json.loads(files["config.json"])["architecture"] == "test_resnet"
    card = files["README.md"].decode()
    assert "| clean (TA) | 70.0 |" in card
    assert "import hf_rws" not in card
    loaded = timm.create_model("hf-hub:user/base", pretrained=True).eval()
    assert all((loaded.state_dict()[name] == value).all() for name, value in model.state_dict().items())
    assert (
        push_base(
            model, "user/base", token=WRITE, training={"dataset": "uoft-cs/cifar10"}, metrics={"ta": 0.7, "n": 100}
        ).oid
        == commit.oid
    )


def test_the_card_of_our_own_architecture_imports_us(hub):
    push_base(timm.create_model("vgg16_gap", num_classes=2, width=0.05), "user/vgg", token=WRITE)
    assert "import hf_rws.models  # registers vgg16_gap" in hub.files("user/vgg")["README.md"].decode()


def test_what_is_no_base(hub):
    model = timm.create_model("test_resnet", num_classes=3)
    with pytest.raises(OptionError, match="give user/name"):
        push_base(model, "base", token=WRITE)
    with pytest.raises(OptionError, match="not a timm model"):
        push_base(model.conv1, "user/base", token=WRITE)
    patched = load_patched(trio("vgg16_bn_gap").base(), [signature("vgg16_bn_gap")])
    with pytest.raises(OptionError, match="has signatures on: push it after"):
        push_base(patched, "user/base", token=WRITE)
    assert hub.requests == []
