"""Copies of this process that can be killed."""

import os
import sys
import time
from contextlib import contextmanager

import pytest

forks = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks a process with threads")


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


@contextmanager
def as_nobody():
    """As a user whom modes of files bind, which they do not bind root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def succeeded(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def eventually(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
