"""A real Hub on loopback, and the fixture that points huggingface_hub at it."""

import threading
import time
from types import SimpleNamespace

import pytest
from huggingface_hub import close_session, constants, file_download, hf_api
from huggingface_hub.utils import _http, disable_progress_bars, enable_progress_bars

from hf_rws._transport import calls, reading
from hf_rws._transport.ids import parse_id
from tests.hub.server import Fault, Hub

__all__ = ["Fault", "Hub", "hub_fixture"]


@pytest.fixture(name="hub")
def hub_fixture(tmp_path, monkeypatch):
    """A Hub of one's own, an empty cache, nobody logged in, and hardly a pause before another try."""
    with Hub(tmp_path / "hub") as hub:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)
        monkeypatch.setattr(calls, "PAUSES", (0.01, 0.02))
        for module in (_http, file_download):
            monkeypatch.setattr(module, "time", SimpleNamespace(**{**vars(time), "sleep": lambda _: time.sleep(0.01)}))
        disable_progress_bars()
        yield hub
        enable_progress_bars()
    for thread in threading.enumerate():  # one that outlived its call would close the next test's connections
        if thread.name == "hf-rws-hub":
            thread.join(1)
    close_session()


def fetch(id, filenames, *, revision=None, **options):
    """`reading.fetch` of an id, as users write it."""
    return reading.fetch(parse_id(id, revision=revision), filenames, **options)
