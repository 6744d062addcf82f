import warnings
from pathlib import Path

import pytest

import hf_rws
from hf_rws.errors import AccessError
from tests.models import signature

ARCHITECTURE = "vgg16_gap"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize(("call", "number", "survivor"), [
    ("write_bytes", 1, "old"), ("replace", 0, "old"), ("replace", 1, "new"), ("replace", 2, "new"),
])  # fmt: skip
def test_a_save_that_is_broken_off_leaves_the_old_or_the_new_signature(
    tmp_path, monkeypatch, error, call, number, survivor
):
    old, new = signature(ARCHITECTURE), signature(ARCHITECTURE, "snow")
    folder = old.save_pretrained(tmp_path / "rws-fog")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    original, calls_before = getattr(Path, call), iter(range(number))

    def broken(path, argument):
        if next(calls_before, None) is None:
            raise error
        return original(path, argument)

    with monkeypatch.context() as patched, pytest.raises(AccessError if error is OSError else error):
        patched.setattr(Path, call, broken)
        new.save_pretrained(folder)
    if survivor == "old":
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a save that was killed
        loaded = hf_rws.Signature.from_pretrained(folder)
    expected = new if survivor == "new" else old
    assert (loaded.sha256, loaded.config) == (expected.sha256, expected.config)


def test_a_save_clears_what_broken_ones_have_left(tmp_path):
    folder = signature(ARCHITECTURE).save_pretrained(tmp_path / "rws-fog")
    (folder / ".saving-1" / "deeper").mkdir(parents=True)
    (folder / ".saving-1" / "config.json").write_text("{")
    signature(ARCHITECTURE, "snow").save_pretrained(folder)
    assert not list(folder.glob(".*"))
