"""Calls of the Hub's client: each ends within a time limit, and what goes wrong in it becomes one of our errors."""

import errno
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Any, TypeVar

from huggingface_hub import HfApi
from huggingface_hub import errors as hub_errors

from hf_rws._transport.ids import Location
from hf_rws._version import __version__
from hf_rws.errors import (
    AccessError,
    FormatError,
    NetworkError,
    NotFoundError,
    OptionError,
    RWSError,
)

T = TypeVar("T")

LIBRARY = "hf-rws"
TIME_LIMIT = 60.0  # seconds without a sign of life from the Hub after which a call is given up
SLOWEST = 5_000  # bytes per second: a call that moves n bytes may take n / SLOWEST seconds longer
PAUSES = (0.5, 2.0)  # seconds before a call that failed for a passing reason is made again
_LONGEST_PAUSE = 10.0  # a Hub that asks for more (Retry-After) is not waited for
_LONGEST_TRY = 20.0  # seconds; what took longer is not made again: the client has tried again by itself, for 23 s

_PASSING = (408, 429, 500, 502, 503, 504)  # HTTP statuses that are worth another try


class HiddenRepoError(NotFoundError, AccessError):
    """The Hub does not say which: there is no such repo, or it is private and no token was sent."""


class SilenceError(Exception):
    """A call has shown no sign of life for too long."""


class SlownessError(Exception):
    """A call goes on, but slower than `SLOWEST`."""


class AnswerError(Exception):
    """An answer is not what a Hub says; the message tells in what, and another try may help."""


class Progress:
    """How far a call has come. It goes on in a thread of its own, and ends there when nobody waits for it any more."""

    def __init__(self) -> None:
        self.given_up = False
        self._moved = 0

    def advance(self, nbytes: int) -> None:
        """Say that so many bytes more were moved; ends a call that was given up."""
        self._moved += nbytes
        if self.given_up:
            raise SilenceError

    def nbytes(self) -> int:
        """How many bytes were moved, also in vain."""
        return self._moved


def not_cached(where: Location, file: str | None = None) -> NetworkError:
    """The error for what may not be fetched."""
    of_file = f" ({file})" if file else ""
    return NetworkError(
        f"{where}{of_file} is not in the cache, and local_files_only or HF_HUB_OFFLINE keeps it from being fetched"
    )


def no_hub(where: Location, file: str) -> NetworkError:
    """The error for an answer that lacks what every Hub sends."""
    return NetworkError(f"{where} ({file}): the answer is not a Hub's. Check HF_ENDPOINT")


def client(token: bool | str | None) -> HfApi:
    """The Hub's client for one token; True and None mean the one logged in with, False none."""
    return HfApi(token=token, library_name=LIBRARY, library_version=__version__)


def ask(
    call: Callable[[], T],
    where: Location,
    *,
    file: str | None = None,
    token: bool | str | None = None,
    seconds: float | None = None,
    progress: Progress | None = None,
    once: bool = False,
) -> T:
    """The result of one call of the Hub's client, within a time limit and with our errors.

    Where the connection breaks, or the Hub says that it is overloaded, the call is made again after a pause, at most as
    often as `PAUSES` has entries. Not made again is a call that took longer than `_LONGEST_TRY`.

    Args:
        call: The call; it may be left behind in a thread of its own.
        where: The repo and revision that error messages name.
        file: The file that they name.
        token: The token, so that it never gets into a message.
        seconds: Time limit of silence, and of all tries together if no bytes are moved; `TIME_LIMIT` if None. Each byte
            moved extends the latter by 1 / `SLOWEST` seconds.
        progress: What the call has moved.
        once: Do not make the call again: it changes something every time.
    """
    seconds = TIME_LIMIT if seconds is None else seconds
    progress = Progress() if progress is None else progress
    pauses = iter(() if once else PAUSES)
    begun = time.monotonic()
    while True:
        start = time.monotonic()
        try:
            with _our_errors(where, file, token):
                return _within(seconds, call, progress, begun)
        except NetworkError as error:
            pause = _pause(error.__cause__, next(pauses, None), time.monotonic() - start)
            if pause is None:
                raise
        time.sleep(pause)


def is_broken_connection(error: BaseException) -> bool:
    """Whether the connection broke, in the words of the client's HTTP library, which is httpx or httpx2."""
    return "TransportError" in {kind.__name__ for kind in type(error).__mro__}


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that an error of ours, or one of the client, comes from."""
    if isinstance(error, RWSError):
        error = error.__cause__
    return getattr(getattr(error, "response", None), "status_code", None)


def _within(seconds: float, call: Callable[[], T], progress: Progress, begun: float) -> T:
    """Most of the client's calls have no time limit, and its settings are the user's: so each call gets a thread."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="hf-rws-hub", daemon=True).start()
    moved, since = progress.nbytes(), time.monotonic()
    try:
        while not wait([future], timeout=min(1.0, seconds / 4)).done:
            now, before, moved = time.monotonic(), moved, progress.nbytes()
            since = now if moved != before else since
            if now - since > seconds:
                raise SilenceError
            if moved != before and now - begun > seconds + moved / SLOWEST:
                raise SlownessError
    except BaseException:  # also Ctrl-C
        progress.given_up = True
        raise
    return future.result()


def _pause(error: BaseException | None, usual: float | None, took: float) -> float | None:
    """How long to wait before another try; None where that would be in vain, or has been done by the client itself."""
    if usual is None or error is None or took > _LONGEST_TRY:
        return None
    status = status_of(error)
    if status is None:
        return usual if isinstance(error, (AnswerError, JSONDecodeError)) or is_broken_connection(error) else None
    if status not in _PASSING or asks_to_wait_long(getattr(error, "response", None)):
        return None
    asked = _asked_pause(getattr(error, "response", None))
    return usual if asked is None else float(asked)


def asks_to_wait_long(response: Any) -> bool:
    """Whether an answer asks to wait for longer than we do."""
    return (_asked_pause(response) or 0) > _LONGEST_PAUSE


def _asked_pause(response: Any) -> int | None:
    """The seconds that the Hub asks to wait for, if its answer says so."""
    asked = getattr(response, "headers", {}).get("Retry-After", "").strip()
    return int(asked) if re.fullmatch("[0-9]{1,9}", asked) else None  # a date is allowed, too, but not used by the Hub


# --- errors ---

_LOG_IN = "log in with `hf auth login`, or pass token="

# the client's errors, what they become and what is said; the first that fits counts
_MEANINGS: tuple[tuple[Any, type[RWSError], str], ...] = (
    (SilenceError, NetworkError, "{at}{of_file}: no answer from the Hub in time. Check the connection and try again"),
    (
        SlownessError,
        NetworkError,
        f"{{at}}{{of_file}}: less than {SLOWEST:,} bytes a second came. Check the connection and try again",
    ),
    (
        AnswerError,
        NetworkError,
        "{at}{of_file}: the answer broke ({error}). Try again; if that does not help, check HF_ENDPOINT",
    ),
    (hub_errors.GatedRepoError, AccessError, "{repo} is gated: ask for access on its page on the Hub, then " + _LOG_IN),
    (hub_errors.RevisionNotFoundError, NotFoundError, "{repo} has no revision {revision!r}"),
    (hub_errors.RemoteEntryNotFoundError, NotFoundError, "{at} has no file {file!r}"),
    (hub_errors.OfflineModeIsEnabled, NetworkError, "{at}: HF_HUB_OFFLINE is set; unset it to reach the Hub"),
    (hub_errors.LocalTokenNotFoundError, AccessError, "token=True, but there is no token on this machine: " + _LOG_IN),
    (hub_errors.HFValidationError, OptionError, "{repo!r} is no Hub id: those have the form user/name"),
)
_MEANINGS_OF_STATUS: dict[int, tuple[type[RWSError], str]] = {
    400: (FormatError, "{at}: the Hub does not take what was sent: {said}"),
    401: (AccessError, "{at}: the Hub wants a token, or does not accept this one: " + _LOG_IN),
    403: (AccessError, "{at}: the token does not allow this; a push needs one with write access: {said}"),
    404: (NotFoundError, "{at} is not on the Hub: {said}"),
    429: (NetworkError, "{at}: the Hub takes no more requests just now. Wait {wait}, or log in for more"),
}
_REFUSED = "{{at}}{{of_file}}: the file system refused: {}. Check cache_dir"
_BY_XET = "{at}{of_file}: the transfer by Xet broke. Try again; if that does not help, set HF_HUB_DISABLE_XET=1"


@contextmanager
def _our_errors(where: Location, file: str | None, token: bool | str | None) -> Iterator[None]:
    try:
        yield
    except RWSError:
        raise
    except Exception as error:
        cause = _innermost(error)
        kind, message = _meaning(cause)
        said = _said(cause, token)
        of_file = f" ({file})" if file else ""
        revision = where.revision or "main"
        asked = _asked_pause(getattr(cause, "response", None))
        wait = "some minutes" if asked is None else f"{asked} seconds"
        text = message.format(
            error=cause, at=where, repo=where.id, revision=revision, file=file, of_file=of_file, said=said, wait=wait
        )
        raise kind(text) from cause


def _innermost(error: Exception) -> Exception:
    """What really happened: the client reports failed requests as bad values caused by them."""
    wrappers = (ValueError, RuntimeError)
    while (
        isinstance(error, wrappers)
        and not isinstance(error, hub_errors.HfHubHTTPError)
        and isinstance(error.__cause__, Exception)
    ):
        error = error.__cause__
    return error


def _meaning(error: Exception) -> tuple[type[RWSError], str]:
    """Our error for one of the client's, and its message with fields to fill in."""
    for kinds, ours, message in _MEANINGS:
        if isinstance(error, kinds):
            return ours, message
    status = status_of(error)
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        if status == 401:
            return HiddenRepoError, "there is no {repo} on the Hub, or it is private: check the name, or " + _LOG_IN
        return NotFoundError, "there is no {repo} on the Hub, or the token may not see it"
    by_xet = any("xet" in frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__))
    if by_xet and status in (None, 404):
        full = os.strerror(errno.ENOSPC)  # hf_xet raises Python's own exceptions, without a number
        return (AccessError, _REFUSED.format(full)) if full in str(error) else (NetworkError, _BY_XET)
    if status in _MEANINGS_OF_STATUS:
        return _MEANINGS_OF_STATUS[status]
    if status is not None and status < 500:
        return RWSError, f"{{at}}: the Hub refused (HTTP {status}): {{said}}"
    if status is not None:
        return NetworkError, f"{{at}}{{of_file}}: the Hub fails just now (HTTP {status}). Try again in {{wait}}"
    if isinstance(error, OSError) and error.errno and not isinstance(error, (ConnectionError, TimeoutError)):
        return AccessError, _REFUSED.format(error.strerror)
    return NetworkError, f"{{at}}{{of_file}}: the connection or the answer broke ({type(error).__name__}). Try again"


def _said(error: Exception, token: bool | str | None) -> str:
    """The reason that the Hub gave, in one line and without tokens."""
    text = str(getattr(error, "server_message", None) or "no reason is given")[:10_000]
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    if isinstance(token, str) and token:
        text = text.replace(token, "...")
    return re.sub(r"hf_\w{8,}|(?<=Bearer )\S+", "...", text)[:500]
