"""The tests' own Hub: the client's calls get what the real Hub would give."""

import pytest
from huggingface_hub import HfApi
from huggingface_hub import errors as hub_errors

from tests.hub import hub_fixture  # noqa: F401
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
