"""Datasets of a Hub: only the files of the split that is used are fetched."""

import datasets
import pytest
import torch

from hf_rws.data import as_images, load_split, load_splits
from hf_rws.errors import NotFoundError
from tests.helpers import datasets_cache, pixels, toy_dataset  # noqa: F401
from tests.hub import hub_fixture  # noqa: F401

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
