"""Pushed here, pulled in a fresh process with an empty cache; then offline."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import product

import pytest
from huggingface_hub import constants

from hf_rws._transport.pushing import push_folder_files
from tests.hub import hub_fixture  # noqa: F401
from tests.hub.server import WRITE
from tests.models import signature

PULL = """
import json, sys
from pathlib import Path
from huggingface_hub import constants
import hf_rws
from hf_rws.errors import RWSError

jobs, caches = json.loads(sys.argv[1]), sys.argv[2:]
assert not constants.HF_HUB_OFFLINE and constants.ENDPOINT.startswith("http://127.0.0.1")

def pull(id, token, cache):
    try:
        return hf_rws.Signature.from_pretrained(id, token=token, cache_dir=cache).sha256
    except RWSError as error:
        return type(error).__name__

def all_of(cache, token=True):
    return [pull(job["id"], token and job["token"], cache) for job in jobs]

results = {"default": all_of(caches[0])}
constants.HF_HUB_DISABLE_XET = True
results["without Xet"] = all_of(caches[1])
results["anonymous"] = all_of(caches[1] + "-other", token=False)
constants.HF_HUB_OFFLINE = True
constants.ENDPOINT = "http://127.0.0.1:1"
results["offline"] = all_of(caches[0])
results["offline, nothing cached"] = all_of(caches[0] + "-other", token=False)
print(json.dumps(results))
"""


@pytest.mark.filterwarnings("ignore:.*which model on the Hub it was made from")
def test_pushed_here_and_pulled_in_a_fresh_process(hub, tmp_path, monkeypatch):
    made = {False: signature("vgg16_bn_gap"), True: signature("vgg16_bn_gap", "snow")}
    jobs, expected, without_a_token = [], [], []
    hub.lfs = True
    for without_xet, private, place in product((False, True), (False, True), ("main", "branch", "tag", "PR")):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", without_xet)
        repo_id = f"user/rws-{'lfs' if without_xet else 'xet'}-{'private' if private else 'public'}-{place}"
        options = {
            "main": {},
            "branch": {"revision": "dev/one"},
            "tag": {"tag": "v1.0"},
            "PR": {"create_pr": True},
        }[place]
        commit = made[without_xet].push_to_hub(repo_id, private=private, token=WRITE, **options)
        if place != "main":  # what is asked for is not what is on main
            (tmp_path / "config.json").write_bytes(b"{}")
            push_folder_files(repo_id, tmp_path, ["config.json"], token=WRITE)
        revision = {"main": "", "branch": "@dev/one", "tag": "@v1.0", "PR": "@refs/pr/1"}[place]
        assert hub.repos[repo_id].refs[revision[1:] or "main"] == commit.oid
        jobs.append({"id": repo_id + revision, "token": WRITE if private else False})
        expected.append(made[without_xet].sha256)
        without_a_token.append("HiddenRepoError" if private else expected[-1])
    assert hub.asked("PUT /[0-9a-f]{64}") == 1  # then it is there
    assert hub.asked("POST /v1/xorbs/") == (1 if find_spec("hf_xet") else 0)
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    arguments = [json.dumps(jobs), str(tmp_path / "one"), str(tmp_path / "two")]
    done = subprocess.run(
        [sys.executable, "-c", PULL, *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["default"] == results["without Xet"] == results["offline"] == expected
    assert results["anonymous"] == without_a_token
    assert results["offline, nothing cached"] == ["NetworkError"] * len(jobs)
