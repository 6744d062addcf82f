"""Environment variables: what launchers tell, and what is set for a while where no argument reaches a library."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables, None takes one away; afterwards they are as they were."""
    before = {name: os.environ.get(name) for name in values}
    try:
        _set(values)
        yield
    finally:
        _set(before)


def is_first_process() -> bool:
    """Whether this is the only or the first of the processes that were launched, by what their launcher told them."""
    return os.environ.get("RANK", "0") == os.environ.get("LOCAL_RANK", "0") == "0"


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
