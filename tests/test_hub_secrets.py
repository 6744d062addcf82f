"""A token and a home that must show nowhere: in nothing that is uploaded, written, logged, raised or shown."""

import logging
import re
import traceback
import warnings
from dataclasses import replace

import pytest
import timm
from huggingface_hub import constants
from huggingface_hub.utils import logging as hub_logging

import hf_rws
from hf_rws import hub as our_hub
from hf_rws._transport.ids import parse_id
from hf_rws.bases import load_base
from hf_rws.errors import RWSError
from hf_rws.timm_repo import save_timm_repo
from tests.hub import Fault, fetch, hub_fixture  # noqa: F401
from tests.hub.server import TOKENS
from tests.models import signature, trio

pytestmark = pytest.mark.filterwarnings("ignore:.*which model on the Hub it was made from")

ARCHITECTURE = "vgg16_bn_gap"
TOKEN = "hf_SentinelSentinelSentinel"
NAME = "alice-sentinel"  # of the home
OF_THE_STORAGE = r" /([0-9a-f]{64}|v1/)"  # requests to another origin


@pytest.fixture
def home(hub, tmp_path, monkeypatch):
    """Somebody is logged in, with everything in their home; the client says all that it can."""
    path = tmp_path / NAME
    path.mkdir()
    (path / "token").write_text(TOKEN)
    monkeypatch.setitem(TOKENS, TOKEN, ("user", "write"))
    for name, value in {"HF_TOKEN_PATH": path / "token", "HF_HUB_CACHE": path / "cache", "HF_HOME": path}.items():
        monkeypatch.setattr(constants, name, str(value))
    monkeypatch.setattr(constants, "HF_DEBUG", True)
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.chdir(path)
    level = hub_logging.get_verbosity()
    hub_logging.set_verbosity_debug()
    yield path
    hub_logging.set_verbosity(level)


def pull(**options):
    return hf_rws.Signature.from_pretrained("user/rws-fog", force_download=True, **options)


def push(**options):
    return signature(ARCHITECTURE).push_to_hub("user/rws-fog", **options)


# calls that fail, each with the fault that makes it
ERRORS = [
    *[(Fault("", status=status, times=99), act) for act in (pull, push) for status in (401, 403, 418, 429, 500)],
    *[(Fault("", reset=True, times=99), act) for act in (pull, push)],
    (Fault("GET .*config", flip=True), pull),
    (Fault("nothing"), lambda: pull(token=TOKEN + "2")),
    (Fault("nothing"), lambda: pull(cache_dir="token")),
    (Fault("nothing"), lambda: hf_rws.Signature.from_pretrained("user/nothing")),
    (Fault("nothing"), lambda: fetch("user/rws-fog@nothing", ["config.json"], local_files_only=True)),
]
ECHO = {"X-Error-Message": f"the token {TOKEN} (Bearer {TOKEN}) is not liked"}
ECHOES = [
    (Fault("", status=status, headers=ECHO, times=99), lambda act=act, token=token: act(token=token))
    for act in (pull, push)
    for token in (None, TOKEN)
    for status in (400, 403, 404, 418)
]


def test_no_token_and_no_home_path_anywhere(hub, home, caplog):
    hub.lfs = True
    caplog.set_level(logging.DEBUG)
    logging.getLogger("huggingface_hub").propagate = True
    said, raised, logged = [], [], []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        # a life: a base and a signature from folders at home to the Hub, and back, patched and baked
        folder = save_timm_repo(trio(ARCHITECTURE).standard, home / "base")
        training = {"dataset": "uoft-cs/cifar10", "output_dir": str(home / "base"), "hub_token": TOKEN, "lr": 0.01}
        said.append(our_hub.push_base(load_base(folder).model, "user/base", training=training, private=True))
        made = hf_rws.extract(
            trio(ARCHITECTURE).robust, folder, trio(ARCHITECTURE).start, corruption="fog", severity=5, bits=4
        )
        said.append(made.push_to_hub("user/rws-fog", tag="v1", private=True))
        said.append(hf_rws.Signature.from_pretrained(made.save_pretrained(home / "saved")))
        fetched = fetch("user/rws-fog", ["config.json"], optional=["README.md"])
        model = hf_rws.load_patched("user/base", ["user/rws-fog@v1"])
        said += [fetched, model.rws, parse_id("user/rws-fog@v1"), *model.rws.signatures.values()]
        model_lockfile = model.rws.lockfile()
        said.append(our_hub.push_base(model.rws.bake(), "user/baked", create_pr=True))
        pulled = timm.create_model("hf-hub:user/baked@refs/pr/1", pretrained=False)
        said.append(pulled.pretrained_cfg)
        said += [model_lockfile, hf_rws.info("user/rws-fog"), hf_rws.list_signatures()]
        said.append(our_hub.push_all(home, namespace="user", name="study"))
        uploads = list(hub.uploads)
        commits = [(name, commit) for name, repo in hub.repos.items() for commit in repo.commits]
        pushed = [content for name, commit in commits for content in hub.files(name, commit).values()]
        for fault, act in ERRORS + ECHOES:
            hub.faults = [replace(fault)]
            with pytest.raises(RWSError) as caught:
                act()
            raised.append(caught.value)
            logged = caplog.records[:] if (fault, act) == ERRORS[-1] else logged  # what a server says is logged, too
    assert len(uploads) > 20
    assert len(pushed) == 15
    assert any("authenticated: True" in record.getMessage() for record in logged)
    ours = [f"{error!s} {error!r} {error.args}" for error in raised]
    logs = [(record.name.split(".")[0], f"{record.getMessage()} {record.exc_text}") for record in logged]
    assert not [text for _, text in logs if TOKEN in text]
    others = ("huggingface_hub", "timm", "filelock")  # these tell where they read and write
    assert not [text for name, text in logs if NAME in text and name not in others]
    for text in [*map(repr, said), *map(str, said), *ours, *(str(warning.message) for warning in warned)]:
        assert TOKEN not in text
        assert NAME not in text
    for content in [*uploads, *pushed]:
        assert TOKEN.encode() not in content
        assert NAME.encode() not in content
    for error in raised[: len(ERRORS)]:  # with what caused them
        assert TOKEN not in "".join(traceback.format_exception(error))
    with_token = [request for request, headers in hub.requests if TOKEN in headers.get("authorization", "")]
    assert with_token
    assert hub.asked(OF_THE_STORAGE)
    assert not [request for request in with_token if re.search(OF_THE_STORAGE, request)]
    for path in (path for place in ("base", "saved", "cache") for path in (home / place).rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert TOKEN.encode() not in content
        assert NAME.encode() not in content
