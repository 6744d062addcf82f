"""Every run has a Hugging Face home of its own, no token and no network but loopback.

The libraries read these variables when they are imported, so they are set before any test module is.
"""

import atexit
import os
import shutil
import signal
import sys
import tempfile

_home = tempfile.mkdtemp(prefix="hf-rws-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.update(HF_HOME=_home, HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_OFFLINE="1")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many threads as processes are faster than threads in each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
for _name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ENDPOINT"):
    os.environ.pop(_name, None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def no_test_patches_what_others_use():
    yield
    models = sys.modules.get("tests.models")  # not imported here: the process that hands out the tests needs no torch
    shared = models.SHARED if models else []
    patched = [type(model).__name__ for model in shared if hasattr(model, "rws")]
    for model in shared:
        vars(model).pop("rws", None)
    assert not patched, "a model of tests.models.trio was left patched: take a copy"
