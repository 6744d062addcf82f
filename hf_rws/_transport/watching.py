"""Bounds on what the client reads by itself, while it makes a commit for us."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub import get_session
from huggingface_hub.utils import hf_raise_for_status

from hf_rws._transport import calls, exchange
from hf_rws._transport.calls import AnswerError

T = TypeVar("T")

_LARGEST_COMPRESSED = 64_000  # bytes; what is in them may be a thousand times as much


@contextmanager
def watched() -> Iterator[Callable[[Callable[[], T]], T]]:
    """Yields a function that makes a call in which no answer is larger than allowed, and no long wait is begun.

    The client's session belongs to the user, and others use it at the same time: our hook is in it only meanwhile, and
    looks only at answers to the thread that makes the call. Raises AnswerError, or the client's error for a refusal.

    Where no connection can be made, the client starts a new session and tries again in it: what is answered there is
    bounded only in the next call.
    """
    threads: set[int] = set()
    hooked: list[list[Any]] = []

    def look(response: Any) -> None:
        if threading.get_ident() not in threads:
            return
        encoded = response.headers.get("Content-Encoding", "identity").lower() != "identity"
        response.stream = _bounded(response.stream, _LARGEST_COMPRESSED if encoded else exchange.LARGEST_ANSWER)
        if calls.asks_to_wait_long(response):
            response.read()
            hf_raise_for_status(response)

    def make(call: Callable[[], T]) -> T:
        hooks = get_session().event_hooks["response"]
        if look not in hooks:
            hooks.append(look)
            hooked.append(hooks)
        threads.add(threading.get_ident())
        try:
            return call()
        finally:
            threads.discard(threading.get_ident())

    try:
        yield make
    finally:
        for hooks in hooked:
            hooks.remove(look)


def _bounded(stream: Any, limit: int) -> Any:
    """The body of a response that breaks off where it is larger than allowed."""

    class Bounded(type(stream)):  # type: ignore[misc]  # the session asks for one of its own kind
        def __init__(self) -> None:
            pass

        def __iter__(self) -> Iterator[bytes]:
            total = 0
            for chunk in stream:
                total += len(chunk)
                if total > limit:
                    raise AnswerError(f"it is larger than {limit:,} bytes")
                yield chunk

        def close(self) -> None:
            stream.close()

    return Bounded()
