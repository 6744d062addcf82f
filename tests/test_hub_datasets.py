"""Datasets of a Hub: only the files of the split that is used are fetched."""

import datasets
import pytest
import torch

from hf_rws.data import as_images, load_split, load_splits
from hf_rws.errors import NotFoundError, OptionError
from tests.helpers import datasets_cache, pixels, toy_dataset  # noqa: F401
from tests.hub import Fault, hub_fixture  # noqa: F401
from tests.hub.samples import MANY

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.fixture
def toy(hub, tmp_path, monkeypatch):
    """A dataset on a Hub: 8 images for training, 12 for the test."""
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    folder = toy_dataset(tmp_path / "toy", train=8)
    hub.commit("user/toy", {f"data/{path.name}": path.read_bytes() for path in folder.iterdir()})
    return hub


def fetched(hub):
    return {
        request.split("/")[-1].split("-")[0]
        for request, _ in hub.requests
        if "GET" in request and ".parquet" in request
    }


def test_only_the_split_that_is_used_is_fetched(toy):
    assert torch.equal(load_split("user/toy").images, pixels(12, seed=1))
    assert fetched(toy) == {"test"}
    assert len(as_images("user/toy", side=32)) == 8
    assert fetched(toy) == {"test", "train"}


def test_what_was_fetched_is_there_without_a_network(toy, monkeypatch):
    load_split("user/toy")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert torch.equal(load_split("user/toy").images, pixels(12, seed=1))
    with pytest.raises(NotFoundError, match="has no training split; it has: test"):
        load_splits("user/toy")


def committed_twice(toy, tmp_path):
    """The dataset has 5 images for the test in its second commit; gives both commits."""
    first = datasets.load_dataset_builder("user/toy").hash
    later = toy_dataset(tmp_path / "later", train=8, test_images=5)
    toy.commit("user/toy", {f"data/{path.name}": path.read_bytes() for path in later.iterdir()})
    return first, datasets.load_dataset_builder("user/toy").hash


def test_a_revision_that_is_not_there_is_refused_whatever_was_built(toy):
    load_split("user/toy")
    with pytest.raises(NotFoundError, match="nosuch"):
        load_split("user/toy", revision="nosuch")
    with pytest.raises(OptionError, match="choose a configuration"):
        load_split("user/toy", config="nosuch")


@pytest.mark.parametrize("whole", [False, True], ids=["a split", "as a whole"])
def test_without_a_network_only_the_revision_that_was_asked_for_is_taken(whole, toy, tmp_path, monkeypatch):
    first, second = committed_twice(toy, tmp_path)
    if whole:
        datasets.load_dataset("user/toy")
    assert len(load_split("user/toy")) == 5
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for revision in (None, "main", second):
        assert len(load_split("user/toy", revision=revision)) == 5
    for revision in (first, "nosuch"):
        with pytest.raises(NotFoundError, match=f"revision '{revision}', and the cache holds commit {second}"):
            load_split("user/toy", revision=revision)


@pytest.mark.parametrize("offline", [False, True])
def test_a_mistyped_folder_is_said_at_once(offline, toy, monkeypatch):
    """The client would try again and again, with a pause before each."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    toy.faults = [Fault(".*", reset=True, times=MANY)]
    with pytest.raises(NotFoundError, match=r"there is no folder 'nope' here, and "):
        load_split("nope")
    assert len(toy.requests) <= 1


def test_a_mistyped_folder_that_is_no_dataset_of_the_hub(toy):
    with pytest.raises(NotFoundError, match=r"there is no folder 'nope' here, and "):
        load_split("nope")
    with pytest.raises(NotFoundError, match="no such folder, and it is no Hub id"):
        load_split("ünï")
