"""Whatever a Hub answers: a call succeeds or raises one of our errors, soon, and writes nowhere but into its cache."""

import time
import warnings
from itertools import count
from random import Random

import pytest

import hf_rws
from hf_rws.errors import RWSError
from hf_rws.hub import info, list_signatures
from hf_rws.hub.folders import push_all
from hf_rws.timm_repo import save_timm_repo
from tests.hub import Fault, fetch, hub_fixture  # noqa: F401
from tests.hub.mutations import mutated
from tests.hub.samples import FILES, NAMES, REPO, folder_fixture, push, tree  # noqa: F401
from tests.hub.storage import WRITE
from tests.models import signature, trio

pytestmark = pytest.mark.filterwarnings("ignore:.*which model on the Hub it was made from")

ARCHITECTURE = "vgg16_bn_gap"
LONGEST = 2.0  # seconds

# what is called -> the routes whose answers are changed
CASES = {
    "fetch": (r"GET /api/models/",),
    "info": (r"GET /api/models/", r"GET .*/resolve/.*config"),
    "list": (r"GET /api/models\?",),
    "push": (r"GET /api/models/", r"POST .*/(preupload|validate-yaml|commit)", r"POST /api/repos/create"),
    "propose": (r"GET /api/whoami-v2", r"GET .*/discussions", r"GET /api/models/"),
    "collect": (r"POST /api/collections", r"GET /api/collections", r"GET /api/whoami-v2"),
}
SEEDS = {"fetch": 80, "info": 40, "list": 80, "push": 20, "propose": 20, "collect": 12}  # for each of the routes


@pytest.fixture
def calls_of(hub, folder, tmp_path):
    """What a user does, by the names of CASES."""
    hub.commit(REPO, FILES)
    for label in ("fog", "snow"):
        signature(ARCHITECTURE, label).push_to_hub(f"user/real-{label}", token=WRITE)
    study = tmp_path / "study"
    save_timm_repo(trio(ARCHITECTURE).standard, study / "base")
    push(folder, ["config.json"], create_pr=True)
    (folder / "config.json").write_bytes(b"{}")
    number = count()
    return {
        "fetch": lambda: fetch(REPO, NAMES, cache_dir=tmp_path / "cache" / str(next(number))),
        "info": lambda: info("user/real-fog"),
        "list": list_signatures,
        "push": lambda: push(folder),
        "propose": lambda: push(folder, create_pr=True),
        "collect": lambda: push_all(study, token=WRITE),
    }


@pytest.mark.parametrize("name", CASES)
def test_any_answer_is_survived(hub, calls_of, tmp_path, name):
    outside = {path: entry for path, entry in tree(tmp_path).items() if path.parts[0] not in ("cache", "hub")}
    outcomes = {"success": 0, "error": 0}
    for pattern in CASES[name]:
        for seed in range(SEEDS[name]):
            random = Random(f"{name} {pattern} {seed}")

            def change(reply, random=random):
                reply.body = mutated(reply.body, random)

            hub.faults = [Fault(pattern, change=change, times=random.choice((1, 99)))]
            begun = time.monotonic()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the client repeats those of the server
                    calls_of[name]()
                outcomes["success"] += 1
            except RWSError as error:
                str(error).encode()  # can be shown
                outcomes["error"] += 1
            assert time.monotonic() - begun < LONGEST, seed
    assert all(outcomes.values()), outcomes
    after = {path: entry for path, entry in tree(tmp_path).items() if path.parts[0] not in ("cache", "hub")}
    assert after == outside
    hub.faults = []
    assert hf_rws.Signature.from_pretrained("user/real-fog", force_download=True).name == "real-fog"
