"""Results that are kept for the next images of the same size, within a number of bytes.

A photo collection has hundreds of sizes, and what belongs to one may be as large as the photo: a cache of so many
entries would grow by as many photos.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from threading import Lock
from typing import Any, NamedTuple, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Kept(NamedTuple):
    """How many results are kept, and how large they are."""

    results: int
    nbytes: int


def keep_within(limit: int) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorator: keep the latest result, and as many of the ones used before it as together have at most `limit` bytes.

    Args:
        limit: Bytes, of all arrays and tensors in the results.

    Returns:
        A decorator for functions of hashable, positional arguments whose results are arrays or tensors, or tuples of
        these; the function gets `cache_info()`, which tells how much is kept, and `cache_clear()`.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        kept: OrderedDict[Hashable, _R] = OrderedDict()
        lock = Lock()

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with lock:
                if args in kept:
                    kept.move_to_end(args)
                    return kept[args]
            result = function(*args, **kwargs)
            with lock:
                kept[args] = result
                kept.move_to_end(args)
                while len(kept) > 1 and sum(map(_nbytes, kept.values())) > limit:
                    kept.popitem(last=False)
            return result

        call.cache_clear = kept.clear  # type: ignore[attr-defined]
        call.cache_info = lambda: _Kept(len(kept), sum(map(_nbytes, kept.values())))  # type: ignore[attr-defined]
        return call

    return decorate


def _nbytes(result: Any) -> int:
    return sum(map(_nbytes, result)) if isinstance(result, tuple) else result.nbytes
