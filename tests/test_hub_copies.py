"""Corrupted copies on a Hub: their images are not called clean."""

import datasets
import pytest

from hf_rws import evaluate
from hf_rws.copies import write_corrupted_copy
from tests.helpers import datasets_cache, model, toy_dataset  # noqa: F401
from tests.hub import hub_fixture  # noqa: F401

pytestmark = pytest.mark.usefixtures("datasets_cache")


def test_a_copy_on_the_hub_says_what_was_done_to_it(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    folder = toy_dataset(tmp_path / "toy", train=4, test_images=8)
    copy = write_corrupted_copy(str(folder), tmp_path / "toy-fog", "fog", severity=3)
    for name, of in (("user/toy", folder), ("user/toy-fog", copy)):
        files = [path for path in of.rglob("*") if path.is_file()]
        hub.commit(name, {path.relative_to(of).as_posix(): path.read_bytes() for path in files})
    created = model()
    found = evaluate(created, "user/toy-fog", [])
    assert [(row.corruption, row.severity) for row in found.rows] == [("fog (copy)", 3)]
    assert found.rows == evaluate(created, copy, []).rows
    assert evaluate(created, "user/toy", []).rows[0].corruption == "clean"
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert evaluate(created, "user/toy", []).rows[0].corruption == "clean"
