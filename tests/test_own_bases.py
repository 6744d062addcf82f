"""A model of one's own becomes a base: from a module, from a file of weights, from timm's own folders."""

import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from timm.models import save_for_hf

import hf_rws
from hf_rws.bases import load_base
from hf_rws.data.preprocessing import Preprocessing
from hf_rws.errors import FormatError, MismatchError, NotFoundError, OptionError, RWSError
from hf_rws.hub import push_base, save_base
from tests.hub import hub_fixture  # noqa: F401
from tests.hub.server import WRITE
from tests.models import identical, state

NAME = "test_resnet"
PREPROCESSING = {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "crop_pct": 1.0}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A timm model with three classes; the current folder is a new one."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return timm.create_model(NAME, num_classes=3).eval()


WRITTEN = {
    "a state dict": lambda state: torch.save(state, "model.pt"),
    "timm's checkpoint": lambda state: torch.save({"epoch": 3, "state_dict": state, "arch": NAME}, "model.pt"),
    "EMA weights": lambda state: torch.save({"state_dict": {}, "state_dict_ema": state}, "model.pt"),
    "of DDP": lambda state: torch.save({f"module.{name}": value for name, value in state.items()}, "model.pt"),
    "compiled": lambda state: torch.save({f"_orig_mod.{name}": value for name, value in state.items()}, "model.pt"),
    "safetensors": lambda state: save_file(state, "model.safetensors"),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_file_of_weights_becomes_a_base(model, how):
    WRITTEN[how](model.state_dict())
    source = "model.safetensors" if how == "safetensors" else "model.pt"
    folder = save_base(source, "mybase", architecture=NAME, preprocessing=PREPROCESSING, label_names=["a", "b", "c"])
    found = load_base(folder).model
    assert identical(found, state(model))
    for key, value in PREPROCESSING.items():
        assert found.pretrained_cfg[key] == (list(value) if key in ("mean", "std") else value)
    assert tuple(found.pretrained_cfg["label_names"]) == ("a", "b", "c")
    assert identical(timm.create_model("local-dir:mybase", pretrained=True), state(model))
    assert hf_rws.load_patched("mybase").rws.scales == {}


def test_a_model_becomes_a_base_and_stays_what_it_was(model):
    before = dict(model.pretrained_cfg)
    save_base(model, "mybase", preprocessing=PREPROCESSING, license="mit")
    assert model.pretrained_cfg == before
    assert identical(load_base("mybase").model, state(model))
    assert ModelCard.load("mybase/README.md").data.license == "mit"
    patched = hf_rws.load_patched(model, [])
    save_base(patched, "again")
    assert identical(load_base("again").model, state(model))


def test_the_head_of_a_file_is_counted_and_can_be_given(model):
    torch.save(model.state_dict(), "model.pt")
    assert load_base(save_base("model.pt", "a", architecture=NAME)).model.num_classes == 3
    assert load_base(save_base("model.pt", "b", architecture=NAME, num_classes=3)).model.num_classes == 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ((224, 224), 0.95)),
        ({"input_size": (3, 32, 32)}, ((32, 32), 0.875)),
        ({"crop_pct": 1.0}, ((224, 224), 1.0)),
        ({"input_size": (3, 32, 32), "crop_pct": 1.0}, ((32, 32), 1.0)),
    ],
)
def test_a_base_is_measured_with_the_images_that_are_given(model, given, expected):
    model.pretrained_cfg = {
        **model.pretrained_cfg, "crop_pct": 0.875, "test_input_size": (3, 224, 224), "test_crop_pct": 0.95
    }  # fmt: skip
    save_base(model, "mybase", preprocessing=given)
    found = Preprocessing.of(load_base("mybase").model)
    assert (found.size, found.crop_pct) == expected


class Evil:
    def __reduce__(self):
        return (open, ("pwned", "w"))


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (lambda model: torch.save(model, "model.pt"), FormatError, r"tensors alone.*model\.state_dict\(\)"),
        (lambda model: torch.save({"state_dict": Evil()}, "model.pt"), FormatError, "tensors alone"),
        (lambda model: Path("model.pt").write_bytes(pickle.dumps(Evil())), FormatError, "tensors alone"),
        (lambda model: Path("model.pt").write_bytes(b"not weights"), FormatError, "tensors alone"),
        (lambda model: torch.save({"lr": 0.1, "steps": [1]}, "model.pt"), FormatError, "something else than tensors"),
        (lambda model: torch.save([1, 2], "model.pt"), FormatError, "tensors"),
        (
            lambda model: torch.save(timm.create_model("test_vit").state_dict(), "model.pt"),
            MismatchError,
            "are not those of test_resnet: no tensor.*and [0-9]+ more",
        ),
    ],
)
def test_what_is_no_file_of_weights_is_named_and_not_run(model, tmp_path, content, error, message):
    content(model)
    with pytest.raises(error, match=message):
        save_base("model.pt", "mybase", architecture=NAME)
    assert not (tmp_path / "mybase").exists()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, OptionError, "architecture="),
        ({"architecture": "no_such_net"}, NotFoundError, "no_such_net"),
        ({"architecture": NAME, "no_such_option": 3}, OptionError, "no_such_option"),
        ({"architecture": NAME, "preprocessing": {"colour": 3}}, OptionError, "preprocessing has no colour"),
        ({"architecture": NAME, "preprocessing": {"mean": (1, 2)}}, OptionError, "preprocessing: 'mean'"),
        ({"architecture": NAME, "label_names": ["cat", "dog"]}, OptionError, "2 names for 3 classes"),
    ],
)
def test_options_that_make_no_sense(model, options, error, message):
    torch.save(model.state_dict(), "model.pt")
    with pytest.raises(error, match=message):
        save_base("model.pt", "mybase", **options)


def test_a_model_needs_no_architecture_and_a_file_is_no_base_yet(model):
    torch.save(model.state_dict(), "model.pt")
    with pytest.raises(OptionError, match="this is a model already"):
        save_base(model, "mybase", architecture=NAME)
    with pytest.raises(OptionError, match=r"hf-rws save-base.*hf_rws\.hub\.save_base\(file, folder, architecture="):
        load_base("model.pt")
    with pytest.raises(OptionError, match="no pretrained_cfg"):
        save_base(model.conv1, "mybase")


@pytest.mark.parametrize("source", ["missing.pt", "a/missing.pt", Path("missing.pt")])
def test_a_file_that_is_not_there(model, source):
    with pytest.raises(NotFoundError, match=r"there is no file '(a/)?missing\.pt'"):
        save_base(source, "mybase", architecture=NAME)


def test_a_whole_model_in_a_file_is_one_short_sentence(model):
    torch.save(model, "model.pt")
    with pytest.raises(FormatError) as caught:
        save_base("model.pt", "mybase", architecture=NAME)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


def test_a_private_base_is_saved_and_pushed_with_the_token(model, hub):
    push_base(model, "user/private", private=True, token=WRITE)
    with pytest.raises(RWSError):
        load_base("user/private")
    save_base("user/private", "mybase", token=WRITE)
    push_base("user/private", "user/copy", token=WRITE)
    assert identical(load_base("mybase").model, load_base("user/copy").model.state_dict())


def test_timms_default_folder_is_a_base(model, hub):
    save_for_hf(model, "mine")  # pytorch_model.bin
    assert identical(load_base("mine").model, state(model))
    assert hf_rws.load_patched("mine").num_classes == 3
    save_base("mine", "safe")
    assert identical(load_base("safe").model, state(model))
    hub.commit("user/mine", {name: Path("mine", name).read_bytes() for name in ("config.json", "pytorch_model.bin")})
    with pytest.raises(NotFoundError, match="safe_serialization=True"):
        load_base("user/mine")


def test_a_pickle_in_timms_default_folder_is_not_run(model, tmp_path):
    save_for_hf(model, "mine")
    torch.save({"conv1.weight": Evil()}, "mine/pytorch_model.bin")
    with pytest.raises(FormatError, match="tensors alone"):
        load_base("mine")
    assert not (tmp_path / "pwned").exists()
    torch.save({"conv1.weight": torch.zeros(3)}, "mine/pytorch_model.bin")
    with pytest.raises(FormatError, match="mine: timm cannot load this model"):
        load_base("mine")


def test_a_file_is_pushed_as_a_base(model, hub):
    torch.save(model.state_dict(), "model.pt")
    push_base("model.pt", "user/mine", architecture=NAME, license="mit", token=WRITE)
    assert identical(load_base("user/mine").model, state(model))
    card = ModelCard(hub.files("user/mine")["README.md"].decode())
    assert (card.data.license, json.loads(hub.files("user/mine")["config.json"])["architecture"]) == ("mit", NAME)


# --- what an author wrote stays ---


def test_a_readme_of_ones_own_keeps_its_text(model):
    Path("mybase").mkdir()
    Path("mybase", "README.md").write_text("my readme\n")
    save_base(model, "mybase", metrics={"ta": 0.5, "n": 10})
    text = Path("mybase", "README.md").read_text()
    assert "my readme\n" in text
    assert ModelCard(text).data.library_name == "timm"


# --- licences: only what is known ---


def test_the_license_of_a_folder_goes_with_its_weights(model, hub):
    save_base(model, "a", license="mit")
    save_base("a", "b")
    save_base("a", "c", license="bsd-3-clause")
    push_base("a", "user/d", token=WRITE)
    cards = [Path(name, "README.md").read_text() for name in "bc"] + [hub.files("user/d")["README.md"].decode()]
    assert [ModelCard(card).data.license for card in cards] == ["mit", "bsd-3-clause", "mit"]


def test_the_license_of_timms_config_is_not_that_of_other_weights(model, hub):
    assert model.pretrained_cfg["license"] == "apache-2.0"
    push_base(model, "user/a", token=WRITE)
    save_base(model, "mybase")
    save_base(model, "fine-tuned", training={"pretrained": True})
    hf_rws.hub.push_folder("mybase", "user/b", token=WRITE)
    hf_rws.hub.push_folder("mybase", "user/c", license="mit", token=WRITE)
    cards = [hub.files(f"user/{name}")["README.md"].decode() for name in "abc"]
    cards += [Path(name, "README.md").read_text() for name in ("mybase", "fine-tuned")]
    assert [ModelCard(card).data.license for card in cards] == [None, None, "mit", None, "apache-2.0"]


def test_a_license_that_is_asked_for_replaces_that_of_the_card(model, hub):
    push_base(model, "user/a", license="mit", token=WRITE)
    mine = hub.files("user/a")["README.md"].decode().replace("license: mit", "license: other\nlicense_name: ours")
    hub.commit("user/a", {"README.md": mine.encode()})
    push_base(model, "user/a", token=WRITE)
    assert "license: other\nlicense_name: ours" in hub.files("user/a")["README.md"].decode()
    push_base(model, "user/a", license="apache-2.0", token=WRITE)
    data = ModelCard(hub.files("user/a")["README.md"].decode()).data.to_dict()
    assert (data["license"], "license_name" in data) == ("apache-2.0", False)
