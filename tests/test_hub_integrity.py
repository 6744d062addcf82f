"""Damaged, wrong and hostile contents, from the Hub and in the cache."""

import hashlib
import json
import os

import pytest

import hf_rws
from hf_rws.errors import (
    FormatError,
    IntegrityError,
)
from tests.hub import Fault, fetch, hub_fixture  # noqa: F401
from tests.hub.samples import CARD, FILES, MANY, NAMES, PUSHED, REPO, SHA, contents, folder_fixture, push, wrong  # noqa: F401
from tests.models import create, identical, signature, state

ARCHITECTURE = "vgg16_bn_gap"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The files of a real signature."""
    folder = signature(ARCHITECTURE).save_pretrained(tmp_path_factory.mktemp("saved") / "rws-fog")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_damaged_on_the_way_is_refused_and_not_kept(hub, name):
    hub.commit(REPO, FILES)
    where = "GET /[0-9a-f]{64}" if name.endswith("safetensors") else f"GET .*resolve/.*{name}"
    hub.faults = [Fault(where, times=9, flip=True)]  # the client may ask again on a busy machine
    with pytest.raises(IntegrityError, match=rf"user/rws-fog \({name}\): damaged on the way"):
        fetch(REPO, NAMES)
    hub.faults = []
    assert contents(fetch(REPO, NAMES)) == FILES


def test_wrong_weights_on_the_hub(hub, saved):
    for name, content in wrong(saved["signature.safetensors"]).items():
        commit = hub.commit(REPO, {**saved, "signature.safetensors": content})
        with pytest.raises(IntegrityError, match=rf"user/rws-fog@{commit} signature.*sha256.*force_download=True"):
            hf_rws.Signature.from_pretrained(REPO)
        assert hub.files(REPO)["signature.safetensors"] == content, name


def bombs(good):
    """Files that are small and ask for much, or for what is not there."""
    size = int.from_bytes(good[:8], "little")
    header, data = json.loads(good[8 : 8 + size]), good[8 + size :]

    def made(header, data=data):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data

    codes = header["codes"]
    return {
        "header beyond the file": (10**9).to_bytes(8, "little") + b"{}",
        "header of all memory": (2**64 - 1).to_bytes(8, "little") + b"{}",
        "deep": made(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        "shape that overflows": made(header | {"codes": codes | {"shape": [2**62, 8]}}),
        "more than is there": made(header | {"codes": codes | {"shape": [10**12], "data_offsets": [0, 10**12]}}),
        "negative": made(header | {"codes": codes | {"shape": [-1]}}),
        "overlap": made(header | {"other": codes}),
        "no such dtype": made(header | {"codes": codes | {"dtype": "F7"}}),
        "other dtype": made(header | {"codes": codes | {"dtype": "I8"}}),
        "nothing": made({}, b""),
        "NaN": good[: 8 + size] + b"\xff" * len(data),
        **{name: wrong(good)[name] for name in ("truncated", "empty", "LFS pointer", "HTML", "pickle")},
    }


def test_weights_that_their_config_vouches_for(hub, saved):
    """Who made them wrote their sha256 into config.json, too."""
    for name, content in bombs(saved["signature.safetensors"]).items():
        config = json.loads(saved["config.json"]) | {"sha256": hashlib.sha256(content).hexdigest()}
        commit = hub.commit(REPO, {"config.json": json.dumps(config).encode(), "signature.safetensors": content})
        with pytest.raises(FormatError, match=f"user/rws-fog@{commit} signature.safetensors: ") as raised:
            hf_rws.Signature.from_pretrained(REPO)
        assert len(str(raised.value)) < 500, name


def test_a_file_that_was_damaged_in_the_cache(hub, saved):
    hub.commit(REPO, saved)
    path = fetch(REPO, NAMES).folder / "signature.safetensors"
    os.truncate(path, 7)
    with pytest.raises(IntegrityError, match=r"user/rws-fog@.*force_download=True"):
        hf_rws.Signature.from_pretrained(REPO)
    hf_rws.Signature.from_pretrained(REPO, force_download=True)
    hf_rws.Signature.from_pretrained(REPO, local_files_only=True)


@pytest.mark.filterwarnings("ignore:rws-fog is a transfer")
def test_a_broken_repo_leaves_the_model_as_it_was(hub, saved):
    hub.commit(REPO, saved)
    model = create(ARCHITECTURE)
    hf_rws.patch(model, [REPO])
    before, cases = state(model), wrong(saved["signature.safetensors"])
    broken = [{"signature.safetensors": cases["one bit"]}, {"config.json": b"[1]"}, {"config.json": b"\xff"}]
    for number, files in enumerate(broken):
        hub.commit(f"user/broken-{number}", {**saved, **files})
        with pytest.raises((IntegrityError, FormatError), match=rf"user/broken-{number}@[0-9a-f]{{40}} "):
            model.rws.add(f"user/broken-{number}")
    assert identical(model, before)
    assert model.rws.scales == {"rws-fog": 1.0}


def test_links_in_a_local_repo(hub, saved):
    """As in the Hub's cache: they are read, and what they point to is never written to."""
    hub.commit(REPO, saved)
    snapshot = fetch(REPO, [*saved]).folder
    contents = {path: path.read_bytes() for path in (snapshot.parents[1] / "blobs").iterdir()}
    assert len(contents) == len(saved)
    assert (snapshot / "config.json").is_symlink()
    loaded = hf_rws.Signature.from_pretrained(snapshot, name="rws-fog")
    (0.5 * loaded).save_pretrained(snapshot)
    assert {path: path.read_bytes() for path in contents} == contents
