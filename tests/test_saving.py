import warnings
from pathlib import Path

import pytest

import hf_rws
from hf_rws import Signature
from hf_rws.errors import AccessError, FormatError
from hf_rws.loading import save_patched
from tests.models import signature, trio

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

    with monkeypatch.context() as patched:
        patched.setattr(Path, call, broken)
        with pytest.raises(AccessError if error is OSError else error):
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


def test_a_readme_that_is_not_utf8_stops_a_save_and_stays(tmp_path):
    folder = signature(ARCHITECTURE).save_pretrained(tmp_path / "rws-fog")
    (folder / "README.md").write_bytes(b"# caf\xe9")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(FormatError, match=r"README.md: is not UTF-8"):
        signature(ARCHITECTURE, "snow").save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    (folder / "README.md").write_text("My own words.\n", encoding="utf-8-sig")
    signature(ARCHITECTURE).save_pretrained(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "My own words." in card
    assert "\ufeff" not in card


def test_a_readme_that_is_not_utf8_stops_the_save_of_a_model_and_stays(tmp_path):
    model = trio(ARCHITECTURE).base()
    hf_rws.patch(model, Signature.from_pretrained(signature(ARCHITECTURE).save_pretrained(tmp_path / "rws-fog")))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_bytes(b"# caf\xe9")
    with pytest.raises(FormatError, match=r"README.md: is not UTF-8"):
        save_patched(model, folder)
    assert [file.name for file in folder.iterdir()] == ["README.md"]
