"""Connections that break and servers that answer wrongly or not at all, while reading."""

import os
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise

import pytest
from huggingface_hub import constants, utils
from huggingface_hub.utils import _http
from huggingface_hub.utils import logging as hub_logging

from hf_rws._transport import calls, downloading
from hf_rws.errors import (
    AccessError,
    IntegrityError,
    NetworkError,
    RWSError,
)
from tests.hub import Fault, fetch, hub_fixture  # noqa: F401
from tests.hub.samples import CARD, FILES, MANY, NAMES, PUSHED, REPO, SHA, contents, folder_fixture, push, wrong  # noqa: F401

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


@pytest.mark.skipif(find_spec("hf_xet") is None, reason="hf_xet is not installed")
def test_a_download_by_xet_that_breaks(hub):
    hub.commit(REPO, FILES)
    link = f'<{hub.endpoint}/api/models/{REPO}/xet-read-token/main>; rel="xet-auth"'
    hub.faults = [Fault("HEAD .*signature", headers={"X-Xet-Hash": "0" * 64, "Link": link}, times=MANY)]
    with pytest.raises(NetworkError, match=r"\(signature.safetensors\): the transfer by Xet.*HF_HUB_DISABLE_XET=1"):
        fetch(REPO, NAMES)


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
