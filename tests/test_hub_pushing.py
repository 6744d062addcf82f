"""What goes wrong while pushing: faults, kills, and others who push at the same time."""

import os
import signal
import threading
import tracemalloc
from dataclasses import replace
from importlib.util import find_spec

import pytest
from huggingface_hub import HfApi, constants

from hf_rws._transport import calls
from hf_rws._transport.ids import Location
from hf_rws._transport.pushing import _proposed
from hf_rws.errors import (
    AccessError,
    NetworkError,
    NotFoundError,
    RWSError,
)
from tests.hub import Fault, fetch, hub_fixture  # noqa: F401
from tests.hub.processes import eventually, forked, forks, succeeded
from tests.hub.samples import CARD, FILES, MANY, NAMES, PUSHED, REPO, SHA, contents, folder_fixture, push  # noqa: F401
from tests.hub.server import OTHER, WRITE


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault("POST .*/commit/", reset=True), NetworkError, "broke"),
        (Fault("POST .*/commit/", stall=True), NetworkError, "no answer from the Hub in time"),
        (Fault("POST .*/create", stall=True), NetworkError, "no answer from the Hub in time"),
        (Fault("POST .*/create", body=b"{}"), NetworkError, "the answer broke"),
        (Fault("POST .*/validate-yaml", body=b"<html>"), NetworkError, "the answer broke"),
        (Fault("POST .*/commit/", status=413), RWSError, r"refused \(HTTP 413\)"),
    ],
)
def test_faults_while_pushing(hub, folder, fault, kind, words, monkeypatch):
    monkeypatch.setattr(calls, "TIME_LIMIT", 0.5 if fault.stall else 60)
    hub.faults = [replace(fault, times=MANY)]
    with pytest.raises(kind, match=rf"user/rws-fog.*{words}"):
        push(folder)


@pytest.mark.parametrize("again", ["by the library", "by the user"])
def test_a_commit_whose_answer_was_lost(hub, folder, again, monkeypatch):
    hub.faults = [Fault("POST .*/commit/", lose=True)]
    if again == "by the user":
        monkeypatch.setattr(calls, "PAUSES", ())
        with pytest.raises(NetworkError, match="user/rws-fog"):
            push(folder)
    commit = push(folder)
    assert commit.oid == hub.repos[REPO].refs["main"]
    assert len(hub.repos[REPO].messages) == 2


def test_pull_requests_are_compared_without_holding_a_file_in_memory(hub, folder):
    (folder / "signature.safetensors").write_bytes(bytes(20_000_000))
    hub.commit(REPO, FILES)
    api = HfApi(token=WRITE)
    for title in ("one", "another"):
        api.create_pull_request(REPO, title=title)
    where, name = Location("hub", REPO), "signature.safetensors"
    tracemalloc.start()
    try:
        assert _proposed(where, {name: str(folder / name)}, WRITE) is None
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lfs", [False, True])
def test_a_pull_request_is_not_opened_twice(hub, folder, lfs):
    hub.lfs = lfs
    hub.commit(REPO, FILES)
    api = HfApi(token=WRITE)
    api.create_discussion(REPO, title="a question")
    HfApi(token=OTHER).create_pull_request(REPO, title="somebody else's")
    api.create_pull_request(REPO, title="another of ours")
    hub.faults = [Fault("POST .*/commit/", lose=True)]
    with pytest.raises(NetworkError, match="user/rws-fog"):
        push(folder, create_pr=True)
    assert len(hub.repos[REPO].discussions) == 4
    again = push(folder, create_pr=True)
    assert len(hub.repos[REPO].discussions) == 4
    assert (again.pr_num, again.pr_revision) == (4, "refs/pr/4")
    assert again.oid == hub.repos[REPO].refs["refs/pr/4"]
    assert hub.files(REPO, again.oid) == PUSHED

    (folder / "config.json").write_bytes(b"changed")
    assert push(folder, create_pr=True).pr_num == 5
    api.change_discussion_status(REPO, 5, "closed")
    assert push(folder, create_pr=True).pr_num == 6  # who closed it may have changed their mind
    push(folder)
    assert push(folder, create_pr=True).pr_num == 6
    api.change_discussion_status(REPO, 6, "closed")
    assert push(folder, create_pr=True).pr_url is None  # it is on main


def test_a_commit_lost_and_somebody_elses_on_top(hub, folder):
    """Made again, ours does not undo theirs."""
    hub.commit(REPO, {"config.json": b"old"})
    theirs = {"config.json": b"theirs"}
    hub.faults = [
        Fault("POST .*/commit/", lose=True),
        Fault("POST .*/preupload/", skip=1, before=lambda: hub.commit(REPO, theirs)),
    ]
    with pytest.raises(RWSError, match="changed while it was being pushed to"):
        push(folder)
    assert hub.files(REPO) == {**PUSHED, **theirs}


def test_a_server_without_xet(hub, folder, monkeypatch):
    hub.lfs, hub.xet = True, False
    if find_spec("hf_xet"):
        with pytest.raises(NetworkError, match=r"user/rws-fog: the transfer by Xet broke.*HF_HUB_DISABLE_XET=1"):
            push(folder)
        assert hub.files(REPO) == {}
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    push(folder)
    assert hub.files(REPO) == PUSHED
    assert hub.asked("PUT /[0-9a-f]{64}") == 1


@pytest.mark.skipif(find_spec("hf_xet") is None, reason="hf_xet is not installed")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("POST /v1/xorbs", status=403, times=MANY), "the transfer by Xet broke"),
        (Fault("POST /v1/xorbs", stall=True, times=MANY), "no answer from the Hub in time"),
    ],
)
def test_an_upload_by_xet_that_breaks(hub, folder, fault, words, monkeypatch):
    monkeypatch.setattr(calls, "TIME_LIMIT", 1.0 if fault.stall else 60)
    hub.lfs, hub.faults = True, [replace(fault)]
    with pytest.raises(NetworkError, match=rf"user/rws-fog: .*{words}"):
        push(folder)
    assert hub.files(REPO) == {}


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault("PUT", status=403, times=MANY), AccessError, "token does not allow this"),
        (Fault("POST .*/batch", body=b'{"objects": 3}', times=MANY), NetworkError, "the answer broke"),
        (Fault("POST .*/verify", status=404, times=MANY), NotFoundError, "is not on the Hub"),
        (Fault("PUT", status=500), None, ""),
        (Fault("PUT", reset=True), None, ""),
        (Fault("POST .*/verify", lose=True), None, ""),
    ],
)
def test_faults_of_an_upload(hub, folder, fault, kind, words, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.lfs, hub.faults = True, [replace(fault)]
    if kind is not None:
        with pytest.raises(kind, match=rf"user/rws-fog.*{words}"):
            push(folder)
        assert hub.files(REPO) == {}
        hub.faults = []
    push(folder)
    assert hub.files(REPO) == PUSHED


@forks
def test_killed_between_blob_and_commit(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.lfs = True
    hub.faults = [Fault("POST .*/commit/", stall=True)]
    process = forked(lambda: push(folder))
    eventually(lambda: hub.asked("POST .*/commit/"))
    os.kill(process, signal.SIGKILL)
    assert not succeeded(process)
    assert hub.files(REPO) == {}
    push(folder)
    assert hub.files(REPO) == PUSHED
    assert (hub.asked("PUT"), len(hub.repos[REPO].messages)) == (1, 2)  # what was uploaded is used


def test_two_pushers_cannot_mix(hub, folder):
    push(folder)
    (folder / "config.json").write_bytes(b"mine")
    theirs = dict.fromkeys(NAMES, b"theirs")
    hub.faults = [Fault("POST .*/preupload/", before=lambda: hub.commit(REPO, theirs))]
    with pytest.raises(RWSError, match=r"user/rws-fog changed while it was being pushed to.*push again"):
        push(folder)
    assert hub.files(REPO) == {**theirs, "README.md": CARD.encode()}
    push(folder)
    assert hub.files(REPO)["config.json"] == b"mine"


def test_pushers_at_the_same_time(hub, tmp_path):
    hub.commit(REPO, FILES)
    together = threading.Barrier(4)
    hub.faults = [Fault("POST .*/preupload/", before=together.wait, times=4)]
    outcomes = {}

    def pusher(mark):
        folder = tmp_path / mark
        folder.mkdir()
        for name in NAMES:
            (folder / name).write_text(mark)
        try:
            outcomes[mark] = push(folder, NAMES).oid
        except RWSError as error:
            outcomes[mark] = error

    threads = [threading.Thread(target=pusher, args=(mark,)) for mark in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [mark for mark, outcome in outcomes.items() if isinstance(outcome, str)]
    assert set(hub.files(REPO).values()) == {winner.encode()}
    assert all("push again" in str(outcome) for mark, outcome in outcomes.items() if mark != winner)
