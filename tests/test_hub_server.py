"""The tests' own Hub: the client's calls get what the real Hub would give."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub import errors as hub_errors
from safetensors.numpy import save

from tests.hub import Fault, hub_fixture, xet  # noqa: F401
from tests.hub.server import OTHER, READ, WRITE

CARD = """---
library_name: hf-rws
base_model: user/base
base_model_relation: adapter
pipeline_tag: image-classification
license: mit
datasets: [uoft-cs/cifar10]
tags: [rws, "corruption:{}"]
---
"""


def card(corruption):
    return {"README.md": CARD.format(corruption).encode(), "signature.safetensors": b"\0" * 8}


def names(models):
    return [model.id for model in models]


def test_models_are_found_by_filters(hub):
    api = HfApi(token=False)
    hub.commit("user/rws-fog", card("fog"))
    hub.commit("user/rws-snow", card("snow"))
    hub.commit("other/rws-fog", card("fog"))
    hub.commit("user/secret", card("fog"), private=True)
    hub.commit("user/base", {"config.json": b"{}"})
    adapters = "base_model:adapter:user/base"
    assert names(api.list_models()) == ["user/base", "other/rws-fog", "user/rws-snow", "user/rws-fog"]
    assert names(api.list_models(filter=[adapters, "corruption:fog"])) == ["other/rws-fog", "user/rws-fog"]
    assert names(api.list_models(filter=adapters, author="user", search="SNOW")) == ["user/rws-snow"]
    assert names(api.list_models(filter=[adapters, "corruption:fog"], author="user", token=WRITE)) == [
        "user/secret",
        "user/rws-fog",
    ]
    assert names(api.list_models(pipeline_tag="image-classification", limit=2)) == ["other/rws-fog", "user/rws-snow"]
    (found,) = api.list_models(filter="corruption:snow", cardData=True)
    assert set(found.tags) >= {"hf-rws", "rws", "base_model:user/base", adapters, "license:mit", "safetensors"}
    assert (found.card_data.base_model, found.sha) == ("user/base", hub.repos["user/rws-snow"].refs["main"])
    (found,) = api.list_models(filter="corruption:snow", expand=["sha", "tags"])
    assert (found.sha, found.siblings) == (hub.repos["user/rws-snow"].refs["main"], None)


def test_listings_come_in_pages(hub):
    for number in range(5):
        hub.commit(f"user/rws-{number}", {f"{n}.json": b"" for n in range(3)})
    hub.page = 2
    api = HfApi(token=WRITE)
    assert len(names(api.list_models(author="user"))) == 5
    assert hub.asked("GET /api/models[?]") == 3
    assert len(list(api.list_repo_tree("user/rws-0"))) == 4


def test_collections(hub):
    api = HfApi(token=WRITE)
    for number in range(6):
        hub.commit(f"user/rws-{number}", card("fog"))
    made = api.create_collection("A study", description="of fog")
    assert made.slug.startswith("user/a-study-")
    assert api.create_collection("A study", exists_ok=True).slug == made.slug
    with pytest.raises(hub_errors.HfHubHTTPError):
        api.create_collection("A study")
    for number in range(6):
        api.add_collection_item(made.slug, f"user/rws-{number}", "model", note="n", exists_ok=True)
    api.add_collection_item(made.slug, "user/rws-0", "model", exists_ok=True)
    found = HfApi(token=False).get_collection(made.slug)
    assert [item.item_id for item in found.items] == [f"user/rws-{number}" for number in range(6)]
    assert (found.title, found.description, found.owner, found.items[0].note) == ("A study", "of fog", "user", "n")
    (listed,) = api.list_collections(owner="user", item="models/user/rws-5")
    assert (listed.slug, len(listed.items)) == (made.slug, 4)
    assert list(api.list_collections(owner="other")) == []
    assert api.update_collection_metadata(made.slug, title="B", private=True).title == "B"
    assert list(HfApi(token=OTHER).list_collections(owner="user")) == []
    api.delete_collection_item(made.slug, found.items[0].item_object_id)
    assert len(api.get_collection(made.slug).items) == 5
    for token in (READ, OTHER, False):
        with pytest.raises(hub_errors.HfHubHTTPError):
            api.create_collection("C", namespace="user", token=token)
    with pytest.raises(hub_errors.HfHubHTTPError):
        api.add_collection_item(made.slug, "user/nothing", "model")
    api.delete_collection(made.slug)
    with pytest.raises(hub_errors.HfHubHTTPError):
        api.get_collection(made.slug)


# --- files ---

WEIGHTS = save({"codes": np.arange(20_000, dtype=np.uint8), "scales": np.linspace(0, 1, 9_999, dtype=np.float32)})
FILES = {"config.json": b"{}", "signature.safetensors": WEIGHTS, "figures/deep/curve.png": b"png"}


def test_files_and_what_is_known_about_them(hub):
    commit = hub.commit("user/repo", FILES)
    api = HfApi(token=False)
    assert {file.path for file in api.list_repo_tree("user/repo")} == {
        ".gitattributes", "config.json", "signature.safetensors", "figures",
    }  # fmt: skip
    (weights, config) = api.get_paths_info("user/repo", ["signature.safetensors", "config.json", "nothing"])
    assert (weights.size, weights.lfs.size, config.lfs) == (len(WEIGHTS), len(WEIGHTS), None)
    files = [file.path for file in api.list_repo_tree("user/repo", recursive=True, revision=commit)]
    assert files == [".gitattributes", "config.json", "figures", "figures/deep", *sorted(FILES)[1:]]
    assert [file.path for file in api.list_repo_tree("user/repo", "figures")] == ["figures/deep"]
    info = api.model_info("user/repo", files_metadata=True)
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    assert {name: sizes[name] for name in FILES} == {name: len(content) for name, content in FILES.items()}
    assert api.file_exists("user/repo", "config.json")
    assert not api.file_exists("user/repo", "nothing")
    metadata = api.parse_safetensors_file_metadata("user/repo", "signature.safetensors")
    assert metadata.tensors["scales"].shape == [9_999]
    folder = snapshot_download("user/repo")
    assert folder.endswith(commit)


def test_large_files_come_from_another_origin_which_sees_no_token(hub):
    commit = hub.commit("user/repo", FILES, private=True)
    known = get_hf_file_metadata(hf_hub_url("user/repo", "signature.safetensors"), token=WRITE)
    assert (known.commit_hash, known.size, len(known.etag)) == (commit, len(WEIGHTS), 64)
    assert known.location.startswith(hub.cdn)
    path = hf_hub_download("user/repo", "signature.safetensors", token=WRITE)
    assert Path(path).read_bytes() == WEIGHTS
    tokens = [headers.get("authorization") for request, headers in hub.requests if "/resolve/" in request]
    assert tokens == [f"Bearer {WRITE}"] * 2
    (headers,) = [headers for request, headers in hub.requests if "?signature=" in request]
    assert "authorization" not in headers
    known = get_hf_file_metadata(hf_hub_url("user/repo", "config.json"), token=WRITE)
    assert (known.location.startswith(hub.endpoint), len(known.etag)) == (True, 40)


@pytest.mark.parametrize("way", ["in the commit", "LFS", "Xet"])
def test_uploads(hub, way, monkeypatch):
    if way == "Xet" and find_spec("hf_xet") is None:
        pytest.skip("hf_xet is not installed")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", way == "LFS")
    hub.lfs = way != "in the commit"
    api = HfApi(token=WRITE)
    api.create_repo("user/repo")
    contents = {
        **FILES,
        "random.safetensors": np.random.default_rng(0).bytes(300_000),
        "floats.safetensors": np.random.default_rng(1).normal(size=30_000).astype("float32").tobytes(),
        "zeros.safetensors": bytes(500_000),
    }

    def commit(contents, **options):
        changes = [CommitOperationAdd(name, content) for name, content in contents.items()]
        return api.create_commit("user/repo", changes, commit_message="m", **options)

    first = commit(contents)
    assert hub.files("user/repo") == contents
    assert commit(contents).oid == first.oid
    asked = {"LFS": "PUT /[0-9a-f]{64}", "Xet": "POST /v1/shards", "in the commit": "POST .*/commit/"}
    assert [bool(hub.asked(asked[name])) for name in asked] == [way == "LFS", way == "Xet", True]
    with pytest.raises(hub_errors.HfHubHTTPError, match="A commit has happened since"):
        commit({"config.json": b"late"}, parent_commit="0" * 40)
    api.create_commit("user/repo", [CommitOperationDelete("figures/")], commit_message="m")
    assert "figures/deep/curve.png" not in hub.files("user/repo")
    proposal = commit({"signature.safetensors": b"new", "config.json": b"new"}, create_pr=True)
    assert proposal.pr_num == 1
    assert hub.files("user/repo", "refs/pr/1")["signature.safetensors"] == b"new"
    with pytest.raises((hub_errors.HfHubHTTPError, ConnectionError)):
        HfApi(token=READ).create_commit("user/repo", [CommitOperationAdd("a", b"a")], commit_message="m")


def test_what_was_not_uploaded_cannot_be_committed(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.lfs = True
    api = HfApi(token=WRITE)
    api.create_repo("user/repo")
    hub.faults = [Fault("PUT", status=200), Fault("POST .*/verify", status=200)]
    with pytest.raises(hub_errors.BadRequestError, match="was not uploaded"):
        api.create_commit("user/repo", [CommitOperationAdd("a.safetensors", b"abc")], commit_message="m")
    assert hub.files("user/repo") == {}


def test_lz4_as_its_specification_has_it():
    """A literal run, a copy that overlaps itself, a long run; a stored block."""
    block = bytes([0x3F]) + b"abc" + (3).to_bytes(2, "little") + bytes([255, 1]) + bytes([0x20]) + b"yz"
    frame = bytes.fromhex("04224d18604082") + len(block).to_bytes(4, "little") + block
    frame += (1 << 31 | 4).to_bytes(4, "little") + b"tail" + bytes(4)
    assert xet.lz4(frame) == b"abc" + (b"abc" * 100)[: 4 + 15 + 255 + 1] + b"yz" + b"tail"


# --- repos and refs ---


def test_repos(hub):
    api = HfApi(token=WRITE)
    assert (api.whoami()["name"], api.whoami()["auth"]["accessToken"]["role"]) == ("user", "write")
    assert api.create_repo("user/repo", private=True).repo_id == "user/repo"
    api.create_repo("user/repo", exist_ok=True)
    assert hub.repos["user/repo"].private
    api.create_repo("team/repo")
    api.update_repo_settings("user/repo", private=False, gated="manual")
    assert api.model_info("user/repo").gated == "manual"
    assert not hub.repos["user/repo"].private
    api.delete_repo("user/repo")
    assert set(hub.repos) == {"team/repo"}


def test_refs_and_history(hub):
    api = HfApi(token=WRITE)
    first = hub.commit("user/repo", FILES)
    api.create_branch("user/repo", branch="dev/one")
    api.create_tag("user/repo", tag="v1.0", revision="dev/one")
    second = hub.commit("user/repo", {"config.json": b"[]"})
    refs = api.list_repo_refs("user/repo", include_pull_requests=True)
    assert {ref.ref: ref.target_commit for ref in (*refs.branches, *refs.tags, *refs.pull_requests)} == {
        "refs/heads/main": second,
        "refs/heads/dev/one": first,
        "refs/tags/v1.0": first,
    }
    history = api.list_repo_commits("user/repo")
    assert [commit.commit_id for commit in history][:2] == [second, first]
    assert history[-1].title == "initial commit"
    api.create_branch("user/repo", branch="from-tag", revision="v1.0")
    api.delete_tag("user/repo", tag="v1.0")
    api.delete_branch("user/repo", branch="dev/one")
    assert set(hub.repos["user/repo"].refs) == {"main", "from-tag"}


def test_pull_requests(hub):
    api = HfApi(token=OTHER)
    hub.commit("user/repo", FILES)
    opened = api.create_pull_request("user/repo", title="Better")
    assert (opened.num, opened.status, opened.git_reference) == (1, "open", "refs/pr/1")
    assert [one.title for one in api.get_repo_discussions("user/repo")] == ["Better"]
    owner = HfApi(token=WRITE)
    change = [CommitOperationAdd("config.json", b"better")]
    owner.create_commit("user/repo", change, commit_message="m", revision="refs/pr/1")
    assert hub.files("user/repo")["config.json"] == b"{}"
    owner.merge_pull_request("user/repo", 1)
    assert hub.files("user/repo")["config.json"] == b"better"
    assert api.get_discussion_details("user/repo", 1).status == "merged"


REFUSALS = [
    (lambda api: api.model_info("user/nothing"), WRITE, hub_errors.RepositoryNotFoundError, 404),
    (lambda api: api.model_info("user/nothing"), False, hub_errors.RepositoryNotFoundError, 401),
    (lambda api: api.model_info("user/private"), OTHER, hub_errors.RepositoryNotFoundError, 404),
    (lambda api: api.model_info("user/repo", revision="no"), False, hub_errors.RevisionNotFoundError, 404),
    (lambda api: api.hf_hub_download("user/repo", "no"), False, hub_errors.RemoteEntryNotFoundError, 404),
    (lambda api: api.hf_hub_download("user/gated", "config.json"), False, hub_errors.GatedRepoError, 401),
    (lambda api: api.hf_hub_download("user/gated", "config.json"), OTHER, hub_errors.GatedRepoError, 403),
    (lambda api: api.model_info("user/repo"), "hf_wrong", hub_errors.HfHubHTTPError, 401),
    (lambda api: api.create_repo("user/new"), READ, hub_errors.HfHubHTTPError, 403),
    (lambda api: api.create_repo("team/new"), OTHER, hub_errors.HfHubHTTPError, 403),
    (lambda api: api.create_branch("user/repo", branch="main"), WRITE, hub_errors.HfHubHTTPError, 409),
    (lambda api: api.create_tag("user/repo", tag="v", revision="no"), WRITE, hub_errors.RevisionNotFoundError, 404),
    (lambda api: api.delete_tag("user/repo", tag="main"), WRITE, hub_errors.RevisionNotFoundError, 404),
    (lambda api: api.delete_branch("user/repo", branch="main"), WRITE, hub_errors.HfHubHTTPError, 403),
    (lambda api: api.delete_repo("user/repo"), OTHER, hub_errors.HfHubHTTPError, 403),
    (lambda api: list(api.list_repo_tree("user/repo", "no")), False, hub_errors.RemoteEntryNotFoundError, 404),
]


@pytest.mark.parametrize(("act", "token", "kind", "status"), REFUSALS)
def test_refusals(hub, act, token, kind, status):
    hub.commit("user/repo", FILES)
    hub.commit("user/private", FILES, private=True)
    hub.commit("user/gated", FILES, gated=True)
    with pytest.raises(kind) as raised:
        act(HfApi(token=token))
    assert raised.value.response.status_code == status
