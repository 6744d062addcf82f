"""What is saved into a folder that holds something else is refused; one's own of the same kind is replaced."""

import json

import pytest

import hf_rws
from hf_rws.errors import OptionError
from hf_rws.hub import save_base
from hf_rws.loading import save_patched
from hf_rws.signature.signature import Signature
from hf_rws.timm_repo import save_timm_repo
from tests.hub.samples import tree
from tests.models import identical, signature, state, trio

NAME = "vgg16_bn_gap"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """base/ and rws-fog/, and folders that hold other things."""
    monkeypatch.chdir(tmp_path)
    save_timm_repo(trio(NAME).standard, "base")
    signature(NAME).save_pretrained("rws-fog")
    for name, content in {
        "peft/adapter_model.safetensors": "",
        "copy/corruption.json": "{}",
        "app/config.json": json.dumps({"port": 80}),
        "broken/config.json": "{",
        "pickled/pytorch_model.bin": "",
        "transformers/config.json": json.dumps({"architectures": ["X"], "library_name": "transformers"}),
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    return tmp_path


SAVERS = {
    "signature": lambda folder, **options: signature(NAME).save_pretrained(folder, **options),
    "model": lambda folder, **options: save_timm_repo(trio(NAME).standard, folder, **options),
    "base": lambda folder, **options: save_base(trio(NAME).standard, folder, **options),
    "patched": lambda folder, **options: save_patched(hf_rws.load_patched("base", "rws-fog"), folder, **options),
}
FOREIGN = ("peft", "copy", "app", "broken", "transformers")
REFUSED = {
    "signature": (*FOREIGN, "base", "pickled"),
    "model": (*FOREIGN, "rws-fog"),
    "base": (*FOREIGN, "rws-fog", "base", "pickled"),
    "patched": (*FOREIGN, "rws-fog", "base", "pickled"),
}


@pytest.mark.parametrize(("kind", "folder"), [(kind, folder) for kind in SAVERS for folder in REFUSED[kind]])
def test_a_folder_that_holds_something_else_is_refused(study, kind, folder):
    before = tree(study)
    with pytest.raises(OptionError, match=rf"{folder} (holds|is the base) ?.*overwrite=True"):
        SAVERS[kind](folder)
    assert tree(study) == before


@pytest.mark.parametrize("kind", SAVERS)
def test_those_who_mean_it_can(study, kind):
    target = REFUSED[kind][-2]
    SAVERS[kind](target, overwrite=True)
    if kind == "signature":
        assert Signature.from_pretrained(target).sha256 == signature(NAME).sha256
    else:
        assert (study / target / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["signature", "model", "patched"])
def test_ones_own_is_replaced(study, kind):
    SAVERS[kind]("out")
    once = tree(study / "out")
    SAVERS[kind]("out")
    assert tree(study / "out") == once


def test_what_lies_beside_is_no_obstacle(study):
    (study / "out").mkdir()
    for name in ("notes.txt", ".gitattributes", "README.md"):
        (study / "out" / name).write_text("mine")
    signature(NAME).save_pretrained("out")
    assert "mine" in (study / "out" / "README.md").read_text()
    assert (study / "out" / "notes.txt").read_text() == "mine"


def test_a_broken_config_beside_the_weights_is_ones_own(study):
    (study / "rws-fog" / "config.json").write_text("{")
    signature(NAME).save_pretrained("rws-fog")
    assert Signature.from_pretrained("rws-fog").sha256 == signature(NAME).sha256


def test_a_patched_model_that_is_the_base_of_another_stays_as_it_is(study):
    save_patched(hf_rws.load_patched("base", "rws-fog"), "foggy")
    weights = state(hf_rws.load_patched("foggy"))
    with pytest.warns(UserWarning, match="transfer"):
        again = hf_rws.load_patched("foggy", "rws-fog")
    with pytest.raises(OptionError, match="foggy is the base"):
        save_patched(again, "foggy")
    assert identical(hf_rws.load_patched("foggy"), weights)


def test_a_patched_model_has_the_license_of_its_base(study):
    def license_of(folder):
        head = (study / folder / "README.md").read_text().split("---")[1]
        return [line for line in head.splitlines() if line.startswith("license:")]

    save_patched(hf_rws.load_patched("base", "rws-fog"), "none")
    (study / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    save_patched(hf_rws.load_patched("base", "rws-fog"), "mit")
    save_patched(hf_rws.load_patched("base", "rws-fog"), "bsd", license="bsd-2-clause")
    assert [license_of(name) for name in ("none", "mit", "bsd")] == [[], ["license: mit"], ["license: bsd-2-clause"]]
