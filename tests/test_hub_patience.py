"""How often and how long: one budget of tries for each call, whoever makes them, and no state left behind."""

import json
import threading
import time
import warnings

import pytest
from huggingface_hub import constants, get_session, utils
from huggingface_hub.utils import _http
from huggingface_hub.utils import logging as hub_logging

from hf_rws._transport import calls
from hf_rws._transport.ids import Location
from hf_rws.errors import AccessError, NetworkError, RWSError
from hf_rws.hub import info, list_signatures
from tests.hub import Fault, fetch, hub_fixture  # noqa: F401
from tests.hub.samples import FILES, MANY, NAMES, REPO, folder_fixture, push  # noqa: F401

# what is called -> the request that fails -> how often it is made at most
TRIES = {
    "fetch": (lambda folder: fetch(REPO, NAMES), "GET /api", 3),
    "head of a file": (lambda folder: fetch(REPO, NAMES), "HEAD", 3),
    "a file": (lambda folder: fetch(REPO, NAMES), "GET .*resolve", 3),
    "info": (lambda folder: info(REPO), "GET /api", 3),
    "list": (lambda folder: list_signatures(), "GET /api", 3),
    "push": (lambda folder: push(folder), "GET /api", 3),
    "commit": (lambda folder: push(folder), "POST .*/commit", 3),
    "preupload": (lambda folder: push(folder), "POST .*/preupload", 6),  # by the client: 1, 2, 4, 8 and 8 s between
}


@pytest.fixture
def clock(monkeypatch):
    """Pauses take no time, but count; those of the client, too."""

    class Clock:
        now = 0.0

        def sleep(self, seconds):
            self.now += seconds

        def monotonic(self):
            return time.monotonic() + self.now

        def __getattr__(self, name):
            return getattr(time, name)

    found = Clock()
    monkeypatch.setattr(calls, "time", found)
    monkeypatch.setattr(_http, "time", found)
    monkeypatch.setattr(calls, "PAUSES", (0.5, 2.0))
    return found


@pytest.mark.parametrize("fault", [{"status": 503}, {"reset": True}, {"lose": True}], ids=["503", "reset", "lost"])
@pytest.mark.parametrize("name", TRIES)
def test_tries_do_not_multiply(hub, folder, clock, name, fault):
    act, request, most = TRIES[name]
    hub.commit(REPO, FILES)
    hub.faults = [Fault(request, times=MANY, **fault)]
    if name == "commit" and "lose" in fault:
        act(folder)  # it was made, and is found
    else:
        with pytest.raises(NetworkError, match=r"broke|HTTP 503"):
            act(folder)
    assert hub.asked(request) <= most
    assert clock.now <= (23 if name == "preupload" else 2.5)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("name", TRIES)
def test_a_long_wait_is_reported_at_once(hub, folder, clock, name, status):
    act, request, _ = TRIES[name]
    hub.commit(REPO, FILES)
    hub.faults = [Fault(request, status=status, headers={"Retry-After": "3600"}, times=MANY)]
    with pytest.raises(NetworkError, match=r"3600 seconds"):
        act(folder)
    assert hub.asked(request) == 1
    assert clock.now == 0


@pytest.mark.parametrize("asked", ["soon", "-5", "1e9", "9" * 5000, "\u00b2", "Wed, 21 Oct 2015 07:28:00 GMT", ""])
def test_a_wait_that_is_no_number(hub, clock, asked):
    hub.commit(REPO, FILES)
    hub.faults = [Fault("GET /api", status=503, headers={"Retry-After": asked})]
    fetch(REPO, NAMES)
    assert clock.now == 0.5


# --- words ---


@pytest.mark.parametrize("status", [409, 412])
@pytest.mark.parametrize("request_", ["GET /api", "HEAD", "GET .*config"])
def test_a_pull_that_is_refused_does_not_speak_of_a_push(hub, status, request_):
    hub.commit(REPO, FILES)
    hub.faults = [Fault(request_, status=status)]
    with pytest.raises(RWSError, match=rf"user/rws-fog.*the Hub refused \(HTTP {status}\)") as raised:
        fetch(REPO, NAMES)
    assert "push" not in str(raised.value)


@pytest.mark.parametrize("status", [409, 412])
def test_a_push_that_is_refused_says_to_push_again(hub, folder, status):
    hub.faults = [Fault("POST .*/commit", status=status)]
    with pytest.raises(RWSError, match=r"nothing was pushed: push again"):
        push(folder)


def test_another_repo_is_being_made(hub, folder):
    """The client would ask again for ever, without a pause."""
    said = b'{"error": "Cannot create repo: another conflicting operation is in progress"}'
    hub.faults = [Fault("POST /api/repos/create", status=409, body=said, times=MANY)]
    with pytest.raises(RWSError, match="another conflicting operation is in progress"):
        push(folder)
    assert hub.asked("POST /api/repos/create") == 1


@pytest.mark.parametrize("said", ["\x1b[31mred\x07", "\ud800", "a\nb\r\n c", "x" * 10**5, ["a"], {"b": 1}, 3, None])
def test_the_reason_of_a_refusal_can_be_shown(hub, said):
    hub.commit(REPO, FILES)
    hub.faults = [Fault("GET /api", status=403, body=json.dumps({"error": said, "errors": [said]}).encode())]
    with pytest.raises(AccessError, match="token does not allow this") as raised:
        fetch(REPO, NAMES)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


# --- what nobody waits for any more ends ---


def ours():
    """Threads in which calls go on."""
    return [thread for thread in threading.enumerate() if thread.name == "hf-rws-hub"]


def test_ctrl_c_ends_the_call(monkeypatch):
    def interrupt(futures, timeout):
        raise KeyboardInterrupt

    def call():
        try:
            while not released.wait(0.01):
                progress.advance(1)
        finally:
            ended.set()

    monkeypatch.setattr(calls, "wait", interrupt)
    progress, released, ended = calls.Progress(), threading.Event(), threading.Event()
    with pytest.raises(KeyboardInterrupt):
        calls.ask(call, Location("hub", REPO), progress=progress)
    try:
        assert ended.wait(2)
    finally:
        released.set()


@pytest.mark.parametrize("request_", ["GET /api", "GET .*resolve.*config"])
def test_a_refusal_that_drips_keeps_no_thread(hub, monkeypatch, request_):
    monkeypatch.setattr(calls, "TIME_LIMIT", 0.3)
    hub.commit(REPO, FILES)
    hub.faults = [Fault(request_, status=403, trickle=0.02, body=b'{"error": "' + b"a" * 1000 + b'"}', times=MANY)]
    before = ours()
    with pytest.raises(NetworkError, match="less than 5,000 bytes a second came"):
        fetch(REPO, NAMES)
    for thread in ours():
        if thread not in before:
            thread.join(2)
            assert not thread.is_alive()


# --- what belongs to the user ---


def settings():
    session = get_session()
    hooks = {name: list(hooks) for name, hooks in session.event_hooks.items()}
    shown = {name: value for name, value in vars(constants).items() if name.isupper()}
    return (
        shown, dict(session.headers), hooks, session.timeout, session.follow_redirects, list(warnings.filters),
        utils.are_progress_bars_disabled(), hub_logging.get_verbosity(), _http._GLOBAL_CLIENT_FACTORY, session,
    )  # fmt: skip


@pytest.mark.parametrize("fault", [{}, {"status": 503}, {"lose": True}, {"stall": True}, {"body": b"{"}], ids=str)
def test_the_session_of_the_client_stays_as_it_was(hub, folder, fault, monkeypatch):
    monkeypatch.setattr(calls, "TIME_LIMIT", 0.3)
    hub.commit(REPO, FILES)
    before = settings()
    for act, pattern in (
        (lambda: fetch(REPO, NAMES, force_download=True), "GET"),
        (list_signatures, "GET"),
        (lambda: push(folder), "POST"),
    ):
        hub.faults = [Fault(pattern, times=MANY, **fault)] if fault else []
        try:
            act()
        except RWSError:
            assert fault
        assert settings() == before
