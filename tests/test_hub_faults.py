"""What pull and push must survive: everything that can go wrong is made to happen here, on a real connection."""

import hashlib
import json
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, utils
from huggingface_hub.utils import _http
from huggingface_hub.utils import logging as hub_logging

import hf_rws
from hf_rws._transport import calls, downloading
from hf_rws.errors import (
    AccessError,
    FormatError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    RWSError,
)
from tests.hub import Fault, fetch, hub_fixture  # noqa: F401
from tests.hub.samples import CARD, FILES, NAMES, PUSHED, REPO, SHA, contents, folder_fixture, push  # noqa: F401
from tests.hub.server import OTHER, READ, WRITE
from tests.models import create, identical, signature, state

MANY = 99
ARCHITECTURE = "vgg16_bn_gap"

# What a signature library must survive -> the tests that show it, in this file unless said otherwise.
COVERED = {
    "integrity": {
        "corrupted at the right length": (
            "test_what_is_damaged_on_the_way_is_refused_and_not_kept",
            "test_wrong_weights_on_the_hub",
        ),
        "truncated in the cache": ("test_a_file_that_was_damaged_in_the_cache",),
        "an LFS pointer, an HTML page, a pickle": ("test_wrong_weights_on_the_hub",),
        "safetensors bombs": ("test_weights_that_their_config_vouches_for",),
    },
    "network": {
        "cut": ("test_a_cut_download_is_resumed", "test_a_connection_that_always_breaks"),
        "reset": ("test_one_fault_is_survived", "test_a_connection_that_always_breaks"),
        "stalled": ("test_a_stalled_server_costs_a_bounded_time", "test_faults_while_pushing"),
        "429 and 503, with and without Retry-After": ("test_an_overloaded_hub", "test_a_hub_that_stays_overloaded"),
        "the answer to a commit lost": (
            "test_a_commit_whose_answer_was_lost",
            "test_a_pull_request_is_not_opened_twice",
        ),
        "a server without Xet": ("test_a_server_without_xet",),
    },
    "push": {
        "killed between blob and commit": ("test_killed_between_blob_and_commit",),
        "two pushers at once": ("test_two_pushers_cannot_mix", "test_pushers_at_the_same_time"),
        "only our own files": ("test_hub.py::test_push_then_fetch", "test_hub.py::test_what_is_not_pushed"),
        "README": (
            "test_hub.py::test_the_readme_of_a_user_is_kept",
            "test_hub.py::test_a_readme_that_cannot_be_merged",
        ),
    },
    "read consistency": {
        "one commit": ("test_hub.py::test_a_repo_that_moves_between_config_and_weights",),
    },
    "auth": {
        "distinct messages": (
            "test_every_refusal_has_words_of_its_own",
            "test_hub.py::test_who_may_push",
            "test_hub.py::test_errors_of_reading",
        ),
        "no token or home path anywhere": ("test_hub_secrets.py::test_no_token_and_no_home_path_anywhere",),
    },
    "local": {
        "disk full": ("test_a_full_disk",),
        "kill -9 while saving": ("test_killed_while_saving",),
        "kill -9 while downloading": ("test_killed_while_downloading",),
        "read-only cache": ("test_a_read_only_cache", "test_a_cache_that_cannot_be_written"),
        "several processes on one cache": ("test_several_processes_on_one_cache",),
        "symlinks in a local repo": ("test_links_in_a_local_repo", "test_hub.py::test_what_is_not_pushed"),
    },
    "content": {
        "config.json": (
            "test_signature.py::test_configs_that_are_no_json_object",
            "test_signature.py::test_broken_configs_are_explained",
            "test_a_broken_repo_leaves_the_model_as_it_was",
        ),
        "tensors": ("test_signature.py::test_arrays_that_do_not_fit_the_config",),
    },
    "revision": {
        "a pinned sha after the branch moved": ("test_hub.py::test_files_of_one_commit_and_the_cache",),
        "deleted and made again": ("test_a_repo_that_was_deleted_and_made_again",),
        "offline": ("test_hub.py::test_offline_from_the_cache", "test_hub.py::test_offline_without_a_cache"),
    },
}


def test_every_case_has_its_tests():
    here = Path(__file__)
    for name in (name for cases in COVERED.values() for names in cases.values() for name in names):
        file, _, function = name.rpartition("::")
        assert f"\ndef {function}(" in (here.parent / (file or here.name)).read_text(), name


def forked(work):
    """Run something in a copy of this process that can be killed; its process id."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    return process


def succeeded(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def eventually(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


forks = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks a process with threads")

# --- integrity ---


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


def wrong(good):
    """Contents that are not the weights."""
    return {
        "one bit": good[:-1] + bytes([good[-1] ^ 1]),
        "truncated": good[: len(good) // 2],
        "longer": good + b"\0",
        "empty": b"",
        "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n",
        "HTML": b"<!doctype html><html><title>502 Bad Gateway</title></html>",
        "pickle": pickle.dumps({"codes": [1, 2]}),
    }


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


# --- network ---

READING = {
    "refused": (Fault("GET /api", status=403), AccessError, r"token does not allow this"),
    "odd status": (Fault("GET /api", status=418), RWSError, r"refused \(HTTP 418\)"),
    "not JSON": (Fault("GET /api", body=b"<html>", times=3), NetworkError, r"the answer broke \(not valid JSON"),
    "other JSON": (Fault("GET /api", body=b"[]"), NetworkError, r"the answer broke \(a list, not an object\)"),
    "no commit in it": (Fault("GET /api", body=b'{"id": "x", "sha": "main"}'), IntegrityError, r"'main' is no commit"),
    "bytes missing": (
        Fault("GET .*config", body=b"{}", times=3),
        NetworkError,
        r"\(config\.json\).*\(2 bytes came instead of 25\)",
    ),
    "too many bytes": (
        Fault("GET .*config", body=b"{}" * 99, times=3),
        NetworkError,
        r"\(config\.json\).*larger than 25 bytes",
    ),
    "no Hub": (
        Fault("HEAD", headers={"X-Repo-Commit": None}),
        NetworkError,
        r"\(config\.json\): the answer is not a Hub's",
    ),
    "other commit": (Fault("HEAD", headers={"X-Repo-Commit": SHA}), IntegrityError, r"another commit"),
    "outside the cache": (Fault("HEAD", headers={"ETag": '"../../evil"'}), IntegrityError, r"outside the cache"),
}


@pytest.mark.parametrize("name", READING)
def test_wrong_answers_while_reading(hub, name):
    fault, kind, words = READING[name]
    hub.faults = [replace(fault)]
    hub.commit(REPO, FILES)
    with pytest.raises(kind, match=words):
        fetch(REPO, NAMES)
    assert hub.faults[0].times == 0
    if kind is not IntegrityError:
        assert contents(fetch(REPO, NAMES)) == FILES  # nothing broken stays behind


ONCE = {
    "reset": Fault("", reset=True),
    "reset in the body": Fault("GET .*resolve|GET /[0-9a-f]{64}", cut=3, reset=True),
    "cut": Fault("", lose=True),
    "cut in the body": Fault("GET .*resolve|GET /[0-9a-f]{64}", cut=3),
    "503": Fault("", status=503),
    "500": Fault("", status=500),
    "of the wrong length": Fault("GET .*resolve|GET /[0-9a-f]{64}", body=b"<html>"),
}
REQUESTS = ("GET /api", "HEAD .*config", "GET .*config", "HEAD .*signature", "GET /[0-9a-f]{64}")


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("request_", REQUESTS)
def test_one_fault_is_survived(hub, name, request_):
    hub.commit(REPO, FILES)
    hub.faults = [replace(ONCE[name], pattern=request_)]
    assert contents(fetch(REPO, NAMES)) == FILES
    assert hub.faults[0].times == 0


@pytest.mark.parametrize("name", ["reset", "reset in the body", "cut", "cut in the body"])
@pytest.mark.parametrize("request_", ["GET /api", "GET .*config"])
def test_a_connection_that_always_breaks(hub, name, request_):
    hub.commit(REPO, FILES)
    fault = ONCE[name]
    hub.faults = [replace(fault, pattern=request_, times=MANY, cut=fault.cut and 0)]
    with pytest.raises(NetworkError, match=r"user/rws-fog.*broke.*Try again"):
        fetch(REPO, NAMES)
    hub.faults = []
    assert contents(fetch(REPO, NAMES)) == FILES


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_after_every_few_bytes(hub, reset):
    hub.commit(REPO, FILES)
    hub.faults = [Fault("GET .*config", cut=9, reset=reset, times=MANY)]
    assert contents(fetch(REPO, NAMES)) == FILES
    assert hub.asked("GET .*config") == 3


def test_a_cut_download_is_resumed(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.commit(REPO, FILES)
    hub.faults = [Fault(r"GET /[0-9a-f]{64}", cut=4000)]
    assert contents(fetch(REPO, NAMES)) == FILES
    assert [headers["range"] for request, headers in hub.requests if "range" in headers] == ["bytes=4000-"]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("headers", [{}, {"Retry-After": "1"}], ids=["", "Retry-After"])
def test_an_overloaded_hub(hub, folder, status, headers, monkeypatch):
    monkeypatch.setattr(calls.time, "sleep", lambda seconds: pauses.append(seconds))
    pauses = []
    hub.commit(REPO, FILES)
    overloaded = Fault("", status=status, headers=headers)
    hub.faults = [replace(overloaded, pattern=f"^{request}") for request in REQUESTS]
    assert contents(fetch(REPO, NAMES)) == FILES
    hub.faults += [
        replace(overloaded, pattern=pattern)
        for pattern in (
            "GET /api/models",
            "POST .*/preupload",
            "POST .*/commit",
            "POST .*/validate-yaml",
            "POST .*/tag",
        )
    ]
    push(folder, tag="v1")
    assert hub.files(REPO, "v1") == PUSHED
    assert all(fault.times == 0 for fault in hub.faults)
    assert max(pauses) == (1.0 if headers else calls.PAUSES[-1])


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (429, {}, "no more requests just now. Wait some minutes, or log in"),
        (429, {"Retry-After": "3600"}, "no more requests just now. Wait 3600 seconds, or log in"),
        (503, {}, r"fails just now \(HTTP 503\). Try again in some minutes"),
        (503, {"Retry-After": "77"}, r"fails just now \(HTTP 503\). Try again in 77 seconds"),
    ],
)
def test_a_hub_that_stays_overloaded(hub, folder, status, headers, words):
    hub.commit(REPO, FILES)
    for pattern, act in (
        ("GET /api", lambda: fetch(REPO, NAMES)),
        ("GET .*config", lambda: fetch(REPO, NAMES)),
        ("POST .*/commit", lambda: push(folder)),
    ):
        hub.faults = [Fault(pattern, status=status, headers=headers, times=MANY)]
        with pytest.raises(NetworkError, match=rf"user/rws-fog.*{words}"):
            act()
    assert hub.files(REPO) == FILES


@pytest.mark.parametrize(
    ("request_", "cut"),
    [("GET /api", None), ("GET /api", 3), ("HEAD", None), ("GET .*resolve", None), ("GET .*resolve", 3)],
)
def test_a_stalled_server_costs_a_bounded_time(hub, request_, cut, monkeypatch):
    monkeypatch.setattr(calls, "TIME_LIMIT", 0.3)
    hub.commit(REPO, FILES)
    hub.faults = [Fault(request_, stall=True, cut=cut, times=MANY)]
    start = time.monotonic()
    with pytest.raises(NetworkError, match=r"user/rws-fog.*no answer from the Hub in time"):
        fetch(REPO, NAMES)
    assert time.monotonic() - start < 5


def test_progress_keeps_a_call_alive_and_silence_ends_it():
    progress = calls.Progress()

    def slow_but_alive():
        for _ in range(6):
            time.sleep(0.2)
            progress.advance(calls.SLOWEST)
        return "done"

    assert calls._within(0.8, slow_but_alive, progress, time.monotonic()) == "done"
    with pytest.raises(calls.SilenceError):
        calls._within(0.8, slow_but_alive, calls.Progress(), time.monotonic())


def test_a_call_that_is_given_up_ends_in_its_thread():
    progress, ended = calls.Progress(), threading.Event()

    def trickle():
        try:
            while True:
                time.sleep(0.02)
                progress.advance(1)
        finally:
            ended.set()

    with pytest.raises(calls.SlownessError):
        calls._within(0.3, trickle, progress, time.monotonic())
    assert ended.wait(5)


def test_signs_of_life_of_a_download(tmp_path):
    (tmp_path / "blobs").mkdir()
    arriving = downloading._Arriving()
    arriving.copy_of(tmp_path / "blobs" / "abc")
    states = [arriving.nbytes()]
    with arriving.bar()(total=10, disable=True) as progress:
        progress.update(3)
    states.append(arriving.nbytes())
    (tmp_path / "blobs" / "abc.0.incomplete").write_bytes(b"12")  # another process downloads
    states.append(arriving.nbytes())
    (tmp_path / "blobs" / "abc.0.incomplete").write_bytes(b"1234")
    states.append(arriving.nbytes())
    assert all(before != after for before, after in pairwise(states))
    assert arriving.nbytes() == states[-1]


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


@pytest.mark.skipif(find_spec("hf_xet") is None, reason="hf_xet is not installed")
def test_a_download_by_xet_that_breaks(hub):
    hub.commit(REPO, FILES)
    link = f'<{hub.endpoint}/api/models/{REPO}/xet-read-token/main>; rel="xet-auth"'
    hub.faults = [Fault("HEAD .*signature", headers={"X-Xet-Hash": "0" * 64, "Link": link}, times=MANY)]
    with pytest.raises(NetworkError, match=r"\(signature.safetensors\): the transfer by Xet.*HF_HUB_DISABLE_XET=1"):
        fetch(REPO, NAMES)


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


def test_the_clients_settings_stay_as_they_were(hub, folder, monkeypatch):
    def settings():
        names = {name: value for name, value in vars(constants).items() if name.isupper()}
        bars, level = utils.are_progress_bars_disabled(), hub_logging.get_verbosity()
        return names, dict(os.environ), bars, level, _http._GLOBAL_CLIENT_FACTORY, utils.get_session()

    before = settings()
    push(folder, tag="v1")
    fetch(REPO, NAMES)
    hub.faults = [Fault("", reset=True, times=MANY)]
    with pytest.raises(NetworkError):
        fetch(REPO, NAMES, force_download=True)
    monkeypatch.setattr(calls, "TIME_LIMIT", 0.3)
    hub.faults = [Fault("", stall=True, times=MANY)]
    with pytest.raises(NetworkError):
        push(folder)
    assert settings() == before


# --- push ---


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


# --- auth ---


def test_every_refusal_has_words_of_its_own(hub, folder):
    hub.commit(REPO, FILES)
    hub.commit("user/private", FILES, private=True)
    hub.commit("user/gated", FILES, gated=True)
    refusals = {
        "no token to push with": lambda: push(folder, token=None),
        "read-only token": lambda: push(folder, token=READ),
        "private, no token": lambda: fetch("user/private", NAMES),
        "private, other user": lambda: fetch("user/private", NAMES, token=OTHER),
        "gated": lambda: fetch("user/gated", NAMES, token=OTHER),
        "token=True": lambda: fetch(REPO, NAMES, token=True),
    }
    messages = {}
    for name, act in refusals.items():
        with pytest.raises((AccessError, NotFoundError)) as raised:
            act()
        messages[name] = str(raised.value).replace("user/private", "R").replace("user/gated", "R").replace(REPO, "R")
    assert len(set(messages.values())) == len(messages), messages
    with pytest.raises(AccessError, match="does not accept this one"):
        fetch(REPO, NAMES, token="hf_wrongwrongwrong")


def test_no_token_in_messages(hub):
    hub.commit(REPO, FILES)
    secret = "sesame-open-yourself"
    hub.faults = [Fault("", status=403, headers={"X-Error-Message": f"{secret} {WRITE} Bearer abc"}, times=MANY)]
    with pytest.raises(AccessError) as raised:
        fetch(REPO, NAMES, token=secret)
    assert "..." in str(raised.value)
    for text in (secret, WRITE, "abc"):
        assert text not in str(raised.value)


# --- local ---


def limit_files(size):
    """No file may grow beyond so many bytes: the kernel refuses, as on a full disk."""
    import resource  # not on Windows

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@forks
def test_a_full_disk(hub, tmp_path):
    hub.commit(REPO, {**FILES, "signature.safetensors": bytes(100_000)})
    folder, other = tmp_path / "old", signature(ARCHITECTURE, "snow")
    before = {file.name: file.read_bytes() for file in signature(ARCHITECTURE).save_pretrained(folder).iterdir()}
    other.save_pretrained(tmp_path / "other")  # what is computed is kept: OpenMP does not survive a fork

    def work():
        limit_files(1000)
        with pytest.raises(AccessError, match=r"user/rws-fog \(signature.safetensors\): the file system refused: .*"):
            fetch(REPO, NAMES)
        with pytest.raises(AccessError, match=r"cannot save the signature in .*old"):
            other.save_pretrained(folder)

    assert succeeded(forked(work))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert (fetch(REPO, NAMES).folder / "signature.safetensors").read_bytes() == bytes(100_000)


def test_a_full_disk_in_the_words_of_xet():
    def xet_get():
        raise RuntimeError("Data processing error: I/O error: No space left on device (os error 28)")

    with pytest.raises(AccessError, match="the file system refused: No space left on device"):
        calls.ask(xet_get, calls.Location("hub", REPO))


@forks
def test_killed_while_downloading(hub, tmp_path):
    hub.commit(REPO, FILES)
    hub.faults = [Fault("GET /[0-9a-f]{64}", cut=4000, stall=True)]
    process = forked(lambda: fetch(REPO, NAMES))
    eventually(lambda: hub.asked("GET /[0-9a-f]{64}"))
    os.kill(process, signal.SIGKILL)
    assert not succeeded(process)
    assert contents(fetch(REPO, NAMES)) == FILES


@forks
@pytest.mark.parametrize(
    ("call", "number", "survivor"),
    [("write_bytes", 0, "old"), ("write_bytes", 2, "old"), ("replace", 0, "old"), ("replace", 1, "new"),
     ("replace", 2, "new")],
)  # fmt: skip
def test_killed_while_saving(tmp_path, monkeypatch, call, number, survivor):
    """In the middle of writing, and before each file takes its place: the old signature stays, or the new one is it."""
    folder, new = tmp_path / "rws-fog", signature(ARCHITECTURE, "snow")
    old = signature(ARCHITECTURE)
    before = {file.name: file.read_bytes() for file in old.save_pretrained(folder).iterdir()}
    new.save_pretrained(tmp_path / "other")  # what is computed is kept: OpenMP does not survive a fork
    ready, told = os.pipe()
    original, calls_before = getattr(Path, call), iter(range(number))

    def stop(path, argument):
        if next(calls_before, None) is not None:
            return original(path, argument)
        if call == "write_bytes":
            with path.open("wb") as file:
                file.write(argument[: len(argument) // 2])
        os.write(told, b"!")
        signal.pause()

    monkeypatch.setattr(Path, call, stop)
    process = forked(lambda: new.save_pretrained(folder))
    monkeypatch.undo()
    os.read(ready, 1)
    os.kill(process, signal.SIGKILL)
    assert not succeeded(process)
    if survivor == "old":
        assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loaded = hf_rws.Signature.from_pretrained(folder)
    expected = new if survivor == "new" else old
    assert (loaded.sha256, loaded.config) == (expected.sha256, expected.config)
    assert ["a save was cut off" in str(warning.message) for warning in warned] == [True] * (
        (call, number) == ("replace", 1)
    )
    assert hf_rws.Signature.from_pretrained(new.save_pretrained(folder)).sha256 == new.sha256


def test_what_a_killed_save_has_left_does_not_vouch_for_other_weights(tmp_path):
    folder = signature(ARCHITECTURE).save_pretrained(tmp_path / "rws-fog")
    for number, content in enumerate((b"{", (folder / "config.json").read_bytes())):
        (folder / f".saving-{number}").mkdir()
        (folder / f".saving-{number}" / "config.json").write_bytes(content)
    raw = (folder / "signature.safetensors").read_bytes()
    (folder / "signature.safetensors").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="sha256"):
        hf_rws.Signature.from_pretrained(folder)


@forks
def test_a_read_only_cache(hub):
    with tempfile.TemporaryDirectory() as cache:
        first = hub.commit(REPO, FILES)
        fetch(REPO, NAMES, cache_dir=cache)
        second = hub.commit(REPO, {"config.json": b"{}"})
        folders = [path for path in (Path(cache), *Path(cache).rglob("*")) if path.is_dir()]

        def work():
            if os.getuid() == 0:  # who is root may write anywhere
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            assert contents(fetch(f"{REPO}@{first}", NAMES, cache_dir=cache, token=False)) == FILES
            with pytest.raises(AccessError, match=r"\(config.json\): the file system refused: .*Check cache_dir"):
                fetch(f"{REPO}@{second}", NAMES, cache_dir=cache, token=False)

        for path in folders:
            path.chmod(0o555)
        try:
            assert succeeded(forked(work))
        finally:
            for path in folders:
                path.chmod(0o755)


def test_a_cache_that_cannot_be_written(hub, tmp_path):
    hub.commit(REPO, FILES)
    (tmp_path / "file").touch()
    with pytest.raises(AccessError, match=r"user/rws-fog \(config\.json\): the file system refused: .*Check cache_dir"):
        fetch(REPO, NAMES, cache_dir=tmp_path / "file")


@forks
def test_several_processes_on_one_cache(hub):
    hub.commit(REPO, FILES)
    together = threading.Barrier(4)
    hub.faults = [Fault("GET /api", before=together.wait, times=4)]

    def work():
        assert contents(fetch(REPO, NAMES)) == FILES

    processes = [forked(work) for _ in range(4)]
    assert [succeeded(process) for process in processes] == [True] * 4
    assert contents(fetch(REPO, NAMES, local_files_only=True)) == FILES


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


# --- content ---


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


# --- revision ---


def test_a_repo_that_was_deleted_and_made_again(hub, folder):
    first = hub.commit(REPO, FILES)
    kept = fetch(REPO, NAMES)
    del hub.repos[REPO]
    with pytest.raises(NotFoundError, match="no user/rws-fog on the Hub"):
        fetch(REPO, NAMES)
    second = hub.commit(REPO, {**FILES, "config.json": b"{}"})
    assert fetch(REPO, NAMES).revision == second
    assert fetch(f"{REPO}@{first}", NAMES) == kept  # what was pinned and is cached stays
    with pytest.raises(NotFoundError, match=f"user/rws-fog has no revision '{first}'"):
        fetch(f"{REPO}@{first}", NAMES, force_download=True)
    push(folder)
    assert hub.files(REPO) == PUSHED


@pytest.mark.parametrize("pattern", ["HEAD .*config", "HEAD .*signature"])
def test_a_repo_that_is_deleted_while_it_is_read(hub, pattern):
    hub.commit(REPO, FILES)
    hub.faults = [Fault(pattern, before=lambda: hub.repos.pop(REPO))]
    with pytest.raises(NotFoundError, match="no user/rws-fog on the Hub"):
        fetch(REPO, NAMES, token=READ)


def test_a_repo_that_is_deleted_while_it_is_pushed_to(hub, folder):
    hub.commit(REPO, FILES)
    hub.faults = [Fault("POST .*/commit", before=lambda: hub.repos.pop(REPO))]
    with pytest.raises(NotFoundError, match="no user/rws-fog on the Hub"):
        push(folder)
