"""A process that is forked while another thread is busy with the patcher is not left with a lock that nobody opens."""

import gc
import os
import threading
import time
import weakref

import pytest

import hf_rws
from tests.models import identical, signature, state, trio

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def _exit_code_of(child, seconds=20.0):
    """Of a process, which is killed if it takes longer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "it hangs"


def test_a_fork_while_another_thread_holds_the_lock_can_use_the_patcher():
    model = trio("vgg16_gap").base()
    before = state(model)
    patcher = hf_rws.patch(model, signature("vgg16_gap"))
    held, done = threading.Event(), threading.Event()

    def hold():
        with patcher._lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            patcher.clear()
            code = 0 if identical(model, before) else 2
        finally:
            os._exit(code)
    try:
        assert _exit_code_of(child) == 0
    finally:
        done.set()
        thread.join()
    patcher.clear()
    assert identical(model, before)


def test_patchers_are_not_kept_alive_for_forks():
    model = trio("vgg16_gap").base()
    gone = weakref.ref(hf_rws.patch(model, signature("vgg16_gap")))
    del model
    gc.collect()
    assert gone() is None
