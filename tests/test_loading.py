import copy
import json
import re
import resource
import threading
import time
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants

import hf_rws
from hf_rws.bases import load_base
from hf_rws.errors import (
    AccessError,
    FormatError,
    IntegrityError,
    MismatchError,
    NotFoundError,
    OptionError,
)
from hf_rws.loading import save_patched
from hf_rws.timm_repo import save_timm_repo
from tests.hub import Fault, hub_fixture  # noqa: F401
from tests.hub.server import WRITE
from tests.models import identical, signature, state, trio

pytestmark = pytest.mark.filterwarnings("ignore:.*which model on the Hub it was made from")

SIGNATURE_FILES = ("config.json", "signature.safetensors", "README.md")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder as the quickstart leaves it: base/, rws-fog/, rws-snow/."""
    save_timm_repo(trio("vgg16_bn_gap").standard, tmp_path / "base")
    for label in ("fog", "snow"):
        signature("vgg16_bn_gap", label).save_pretrained(tmp_path / f"rws-{label}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_designs_own_line(study):
    model = hf_rws.load_patched("base", ["rws-fog"])
    assert isinstance(model, hf_rws.models.VGG16GAP)
    assert not model.training
    assert model.rws.scales == {"rws-fog": 1.0}
    for base in ("base", study / "base"):
        assert repr(hf_rws.load_patched(base).rws) == "Patcher on vgg16_bn_gap (base)\n  no signatures"
    model.rws.clear()
    assert identical(model, state(trio("vgg16_bn_gap").standard))


def test_scales(study):
    assert hf_rws.load_patched("base", ["rws-fog", "rws-snow"]).rws.scales == {"rws-fog": 0.5, "rws-snow": 0.5}
    model = hf_rws.load_patched("base", ["rws-fog", "rws-snow"], scales=[1.0, 0.5])
    assert model.rws.scales == {"rws-fog": 1.0, "rws-snow": 0.5}


def test_a_device(study, monkeypatch):
    for device in ("cpu", torch.device("cpu")):
        assert next(hf_rws.load_patched("base", "rws-fog", device=device).parameters()).device.type == "cpu"
    lockfile = hf_rws.load_patched("base", "rws-fog", device="auto").rws.lockfile()
    moved = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: moved.append((device, hasattr(self, "rws"))))
    hf_rws.load_patched(lockfile=lockfile, device="cpu")
    hf_rws.load_patched("base", "rws-fog")
    assert moved == [(torch.device("cpu"), False)]  # before it is patched, and only where that is asked for
    with pytest.raises(OptionError, match="device"):
        hf_rws.load_patched("base", device="gpu")


def test_one_signature_names_pairs_and_objects(study):
    assert hf_rws.load_patched("base", "rws-fog").rws.scales == {"rws-fog": 1.0}
    assert hf_rws.load_patched(study / "base", [("haze", "rws-fog")]).rws.scales == {"haze": 1.0}
    assert hf_rws.load_patched("base", signature("vgg16_bn_gap")).rws.scales == {"fog": 1.0}
    assert hf_rws.load_patched("base").rws.scales == {}
    model = timm.create_model("local-dir:base", pretrained=True)
    assert hf_rws.load_patched(model, ["rws-fog"]) is model


def test_a_patched_model_says_what_the_patched_weights_say(study):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = hf_rws.load_patched("base", ["rws-fog"])
    plain = load_base("base").model
    with torch.no_grad():
        assert not torch.equal(model(images), plain(images))
        with model.rws.using({}):
            assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize(
    ("base", "signatures", "options", "error", "message"),
    [
        ("nothing-here", [], {}, NotFoundError, "nothing-here"),
        ("rws-fog", [], {}, FormatError, "signature"),
        ("base", ["base"], {}, NotFoundError, "signature.safetensors"),
        ("base", ["rws-rain"], {}, NotFoundError, "rws-rain"),
        ("base", ["rws-fog"], {"scales": [1.0, 2.0]}, OptionError, "one number per signature"),
        ("base", ["rws-fog"], {"scales": "1.0"}, OptionError, "one number per signature"),
        ("base", ["rws-fog"], {"scales": [float("nan")]}, OptionError, "finite"),
        ("base", ["rws-fog", "rws-fog"], {}, OptionError, "another name"),
        ("base", ["rws-fog"], {"signature_revisions": ["a", "b"]}, OptionError, "one entry per signature"),
        ("base", [3], {}, OptionError, "must be a Signature"),
    ],
)
def test_bad_input_is_explained(study, base, signatures, options, error, message):
    with pytest.raises(error, match=message):
        hf_rws.load_patched(base, signatures, **options)


def test_a_model_given_to_load_patched_is_as_it_was_after_an_error(study):
    model = load_base("base").model
    before = state(model)
    with pytest.raises(MismatchError, match="resnet18"):
        hf_rws.load_patched(model, ["rws-fog", signature("resnet18")])
    assert identical(model, before)
    assert not hasattr(model, "rws")


def test_load_base_reads_the_training_record_and_takes_model_options(study):
    (study / "base" / "training_args.json").write_text('{"init_sha256": "abc"}')
    base = load_base("base", num_classes=3)
    assert base.training == {"init_sha256": "abc"}
    assert base.origin.repo_id is None
    assert base.model.get_classifier().out_features == 3


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"architecture": "no_such_net", "num_features": 1}'])
def test_a_base_with_a_broken_config(study, content):
    (study / "base" / "config.json").write_text(content)
    with pytest.raises(FormatError, match="base"):
        load_base("base")


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1", b"\x00" * 100])
def test_a_base_with_broken_weights(study, content):
    (study / "base" / "model.safetensors").write_bytes(content)
    with pytest.raises(FormatError, match=r"base \(model\.safetensors\): not a safetensors file"):
        load_base("base")


def _edited(path, change):
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("change", [
    lambda config: config["model_args"].update(num_classes=10**9),
        lambda config: config["model_args"].update(num_classes=10**6),
    lambda config: config["pretrained_cfg"].update(num_classes=10**9, input_size=[10**9, 32, 32]),
    lambda config: config.setdefault("model_args", {}).update(width=100),
    lambda config: config.setdefault("model_args", {}).update(in_chans=10**8),
    lambda config: config.update(architecture="vit_tiny_patch16_224", model_args={"depth": 10**9}),
    lambda config: config.update(architecture="vit_tiny_patch16_224", model_args={"img_size": 10**6}),
])  # fmt: skip
def test_a_config_that_asks_for_a_larger_model_than_its_file_holds(study, change):
    _edited(study / "base" / "config.json", change)
    start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError, match=r"base"):
        load_base("base")
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # kB


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", "0.5"),
        ("mean", [0.5, 0.5]),
        ("mean", [0.5, None, 0.5]),
        ("std", [0.5, 0.0, 0.5]),
        ("std", [-1, 1, 1]),
        ("std", []),
        ("mean", [1e300] * 3),
        ("crop_pct", 0),
        ("crop_pct", "all"),
        ("interpolation", 3),
        ("crop_mode", [1]),
        ("license", ["mit"]),
        ("test_input_size", [3, 0, 0]),
        ("min_input_size", [3, 32]),
        ("input_size", 5),
        ("input_size", [3, 32.5, 32]),
    ],
)
def test_preprocessing_that_cannot_be_is_refused_when_a_base_is_loaded(study, key, value):
    _edited(study / "base" / "config.json", lambda config: config["pretrained_cfg"].update({key: value}))
    with pytest.raises(FormatError, match="base"):
        load_base("base")


@pytest.mark.parametrize(
    "change",
    [
        lambda lock: lock["signatures"][0].update(scale=10**400),
        lambda lock: lock["signatures"][0].update(scale=-(10**400)),
        lambda lock: lock["signatures"][0].update(scale=float("nan")),
        lambda lock: lock.update(signatures=lock["signatures"] * 2000),
    ],
)
def test_lockfiles_with_values_that_cannot_be(study, change):
    lock = hf_rws.load_patched("base", "rws-fog").rws.lockfile()
    change(lock)
    with pytest.raises(FormatError, match="lockfile"):
        hf_rws.load_patched(lockfile=lock)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"signatures": ' + "[" * 60 + "]" * 60 + "}", '{"scale": 1e999}', "5"]
)
@pytest.mark.parametrize("name", ["base/config.json", "base/training_args.json", "lockfile.json"])
def test_json_that_is_too_deep_or_too_large(study, name, content):
    (study / name).write_text(content)
    with pytest.raises(FormatError):
        hf_rws.load_patched("base") if "base" in name else hf_rws.load_patched(lockfile=name)


@pytest.mark.parametrize("id", ["a\0b", "a" * 5000, "\ud800", "a/" * 3000, "./a\0b"])
@pytest.mark.parametrize(
    "read", [load_base, hf_rws.Signature.from_pretrained, hf_rws.info, lambda id: hf_rws.load_patched(lockfile=id)]
)
def test_ids_that_no_file_can_have(id, read):
    for given in (id, Path(id)):
        with pytest.raises((NotFoundError, OptionError, AccessError)):
            read(given)


@pytest.mark.parametrize("options", [{"revision": "v1"}, {"local_files_only": True}, {"force_download": True}])
def test_options_that_timm_cannot_honour_are_refused(options):
    with pytest.raises(OptionError, match=r"timm/resnet18.a1_in1k"):
        load_base("resnet18.a1_in1k", **options)


def test_a_timm_name_whose_weights_cannot_be_had_is_our_error():
    for name in ("resnet18.a1_in1k", "resnet18.no_such_weights"):
        with pytest.raises(NotFoundError, match=name):
            load_base(name)


def test_a_base_whose_weights_do_not_fit_its_config(study):
    config = json.loads((study / "base" / "config.json").read_text())
    config["model_args"]["width"] = 0.1
    (study / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="timm cannot load"):
        load_base("base")


# --- lockfiles ---


def rebuilt(lockfile, *given, **options):
    """The model of a lockfile that has been through JSON."""
    return hf_rws.load_patched(*given, lockfile=json.loads(json.dumps(lockfile)), **options)


def test_a_lockfile_of_folders_makes_the_same_model(study):
    model = hf_rws.load_patched("base", ["rws-fog", ("white", "rws-snow")], scales=[0.7, 0.1])
    model.rws.add(study / "rws-fog", 0.0, name="off")
    again = rebuilt(model.rws.lockfile())
    assert identical(again, state(model))
    assert again.rws.scales == model.rws.scales == {"rws-fog": 0.7, "white": 0.1, "off": 0.0}
    assert again.rws.lockfile() == model.rws.lockfile()
    model.rws.set({"white": -2.0})
    assert not identical(again, state(model))
    assert identical(rebuilt(model.rws.lockfile()), state(model))
    assert len(json.dumps(model.rws.lockfile())) < 1000


def test_a_lockfile_file_is_read_beside_its_folders(study, tmp_path_factory, monkeypatch):
    model = hf_rws.load_patched("base", ["rws-fog"])
    (study / "lockfile.json").write_text(json.dumps(model.rws.lockfile()))
    (study / "mine.json").write_text(json.dumps(model.rws.lockfile()))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    for lockfile in (study, str(study / "mine.json")):
        assert identical(hf_rws.load_patched(lockfile=lockfile), state(model))


def test_a_lockfile_of_a_model_of_ones_own(study):
    model = hf_rws.load_patched(trio("vgg16_bn_gap").base(), ["rws-fog"])
    lockfile = model.rws.lockfile()
    assert set(lockfile["base"]) == {"sha256"}
    with pytest.raises(OptionError, match="where its base is"):
        rebuilt(lockfile)
    for base in (trio("vgg16_bn_gap").base(), "base"):
        assert identical(rebuilt(lockfile, base), state(model))
    other = trio("vgg16_bn_gap").start
    with pytest.raises(IntegrityError, match="the base is not the one of the lockfile"):
        rebuilt(lockfile, copy.deepcopy(other))


def test_a_lockfile_is_of_the_clean_weights_whatever_is_on(study):
    model = hf_rws.load_patched("base", ["rws-fog", "rws-snow"])
    shares = model.rws.lockfile()
    model.rws.clear()
    assert model.rws.lockfile()["base"] == shares["base"]
    model.rws.bake()
    hf_rws.patch(model, [])
    assert model.rws.lockfile()["base"]["sha256"] == shares["base"]["sha256"]


def test_what_has_changed_since_a_lockfile_was_taken_is_told(study):
    lockfile = hf_rws.load_patched("base", ["rws-fog"]).rws.lockfile()
    signature("vgg16_bn_gap", "snow").save_pretrained("rws-fog")
    with pytest.raises(IntegrityError, match="the signature 'rws-fog' is not the one of the lockfile"):
        rebuilt(lockfile)
    signature("vgg16_bn_gap", "fog").save_pretrained("rws-fog")
    save_timm_repo(trio("vgg16_bn_gap").start, "base")
    with pytest.raises(IntegrityError, match="the base is not the one of the lockfile"):
        rebuilt(lockfile)


def test_a_base_that_was_trained_on_does_not_pass_for_the_one_that_was_loaded(study):
    model = hf_rws.load_patched("base", ["rws-fog"])
    with torch.no_grad():
        model.head.fc.weight.add_(0.1)
    with pytest.raises(IntegrityError, match="the model had when the lockfile was taken"):
        rebuilt(model.rws.lockfile())


def test_signatures_made_in_memory_have_no_lockfile(study):
    model = hf_rws.load_patched("base", [signature("vgg16_bn_gap", "fog"), "rws-snow"])
    with pytest.raises(OptionError, match=r"'fog': made in memory.*save or push it"):
        model.rws.lockfile()
    model.rws.remove("fog")
    assert [part["name"] for part in model.rws.lockfile()["signatures"]] == ["rws-snow"]


def broken(lockfile, *path, value=None):
    lockfile = copy.deepcopy(lockfile)
    *parents, last = path
    inner = lockfile
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return lockfile


def test_broken_lockfiles_are_explained(study):
    lockfile = hf_rws.load_patched("base", ["rws-fog"]).rws.lockfile()
    signatures = [lockfile["signatures"][0]] * 2
    for wrong, error, words in [
        ({}, FormatError, "not a lockfile"),
        (broken(lockfile, "signatures"), FormatError, "not a lockfile"),
        (broken(lockfile, "format_version", value="2.0"), FormatError, "upgrade"),
        (broken(lockfile, "format_version", value=1), FormatError, "format_version"),
        (broken(lockfile, "base"), FormatError, "base: must be an object"),
        (broken(lockfile, "base", "sha256"), FormatError, "base: must be an object with a sha256"),
        (broken(lockfile, "base", "kind", value="web"), FormatError, "base: kind must be one of"),
        (broken(lockfile, "base", "id", value=["base"]), FormatError, "base: kind must be one of"),
        (broken(lockfile, "base", "id", value="gone"), NotFoundError, "gone"),
        (broken(lockfile, "base", "revision", value=7), FormatError, "base: kind must be"),
        (broken(lockfile, "signatures", 0, value="rws-fog"), FormatError, "signature 0: must be an object"),
        (broken(lockfile, "signatures", 0, "name"), FormatError, "signature 0: needs a name"),
        (broken(lockfile, "signatures", 0, "scale", value="1"), FormatError, "finite scale"),
        (broken(lockfile, "signatures", 0, "scale", value=float("nan")), FormatError, "finite scale"),
        (broken(lockfile, "signatures", value=signatures), FormatError, "the same name"),
        ("nowhere.json", NotFoundError, "nowhere.json"),
        ("rws-fog", NotFoundError, "lockfile.json"),
        (7, OptionError, "a lockfile is a mapping"),
    ]:
        with pytest.raises(error, match=words):
            hf_rws.load_patched(lockfile=wrong)
    (study / "broken.json").write_text("{")
    with pytest.raises(FormatError, match=r"broken\.json: not valid JSON"):
        hf_rws.load_patched(lockfile="broken.json")


@pytest.mark.parametrize(
    "options", [{"signatures": ["rws-fog"]}, {"scales": [1.0]}, {"revision": "main"}, {"signature_revisions": []}]
)
def test_a_lockfile_says_it_all(study, options):
    lockfile = hf_rws.load_patched("base", ["rws-fog"]).rws.lockfile()
    with pytest.raises(OptionError, match="leave them out"):
        hf_rws.load_patched(lockfile=lockfile, **options)
    with pytest.raises(OptionError, match="give a base, or a lockfile"):
        hf_rws.load_patched()


# --- baked models and bundles ---


def test_a_baked_model_is_a_timm_repo_with_the_lockfile(study):
    model = hf_rws.load_patched("base", ["rws-fog", "rws-snow"], scales=[0.7, 0.3])
    assert save_patched(model, "robust") == Path("robust")
    assert model.rws.scales == {"rws-fog": 0.7, "rws-snow": 0.3}
    assert {path.name for path in (study / "robust").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert identical(timm.create_model("local-dir:robust", pretrained=True), state(model))
    card = (study / "robust" / "README.md").read_text()
    assert "| rws-fog | rws-fog (local) |  | 0.7 |" in card
    assert str(study) not in card
    assert (study / "robust" / "config.json").read_bytes() == (study / "base" / "config.json").read_bytes()
    (study / "robust" / "README.md").write_text(card.replace("## Limits", "## My words\n\nHello.\n\n## Limits"))
    save_patched(model, "robust")
    assert "Hello." in (study / "robust" / "README.md").read_text()


def test_what_cannot_be_baked(study):
    with pytest.raises(OptionError, match="carries no signatures"):
        save_patched(load_base("base").model, "robust")
    with pytest.raises(OptionError, match="made in memory"):
        save_patched(hf_rws.load_patched("base", [signature("vgg16_bn_gap")]), "robust")
    (study / "file").touch()
    model = hf_rws.load_patched("base", ["rws-fog"])
    with pytest.raises(OptionError, match="is a file"):
        save_patched(model, "file")
    with pytest.raises(AccessError, match="cannot save the model"):
        save_patched(model, Path("file") / "robust")
    model.head.fc.weight.data.zero_()
    with torch.no_grad():
        model.features[0].weight.zero_()
    with pytest.raises(IntegrityError):
        save_patched(model, "robust")
    assert not (study / "robust").exists()


def test_a_bundle_loads_on_a_machine_without_network(study, tmp_path_factory, monkeypatch):
    made = hf_rws.hub.bundle("base", ["rws-fog", ("my snow!", signature("vgg16_bn_gap", "snow"))], study / "pack/age")
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    signature_files = {f"signatures/{name}/{file}" for name in ("rws-fog", "signature-1") for file in SIGNATURE_FILES}
    assert names == {"lockfile.json", "base/config.json", "base/model.safetensors"} | signature_files
    assert [path.name for path in made.parent.iterdir()] == ["age"]
    expected = state(hf_rws.load_patched("base", ["rws-fog", "rws-snow"]))
    moved = tmp_path_factory.mktemp("other-machine") / "bundle"
    made.rename(moved)
    monkeypatch.chdir(moved.parent)
    for lockfile in (moved, moved / "lockfile.json", "bundle"):
        model = hf_rws.load_patched(lockfile=lockfile)
        assert identical(model, expected)
        assert model.rws.scales == {"rws-fog": 0.5, "my snow!": 0.5}
    assert str(study) not in (moved / "lockfile.json").read_text()


def test_a_bundle_of_a_model(study):
    model = trio("vgg16_bn_gap").base()
    bundle = hf_rws.hub.bundle(model, "rws-fog", "bundle", scales=[0.25])
    assert not hasattr(model, "rws")
    assert identical(hf_rws.load_patched(lockfile=bundle), state(hf_rws.load_patched("base", "rws-fog", scales=[0.25])))


def test_a_patched_model_is_not_bundled_as_a_base(study):
    model = hf_rws.load_patched("base", ["rws-fog"])
    with pytest.raises(OptionError, match=r"bundle it after model.rws.clear"):
        hf_rws.hub.bundle(model, ["rws-fog"], "bundle")
    assert not (study / "bundle").exists()


@pytest.mark.parametrize(
    ("base", "signatures", "options", "error", "words"),
    [
        ("base", ["rws-fog"], {"folder": "base"}, OptionError, "not an empty folder"),
        ("base", ["rws-fog"], {"folder": "base/config.json"}, OptionError, "is a file; give a folder"),
        ("base", ["rws-fog"], {"folder": "base/config.json/b"}, AccessError, "cannot write the bundle"),
        ("base", ["gone"], {}, NotFoundError, "gone"),
        ("gone", ["rws-fog"], {}, NotFoundError, "gone"),
        ("base", ["rws-fog", "rws-fog"], {}, OptionError, "two signatures are called 'rws-fog'"),
        ("base", ["rws-fog"], {"scales": [1.0, 2.0]}, OptionError, "one number per signature"),
        ("base", [signature("resnet18")], {}, MismatchError, "resnet18"),
    ],
)
def test_a_bundle_that_cannot_be_leaves_nothing_behind(study, base, signatures, options, error, words):
    before = sorted(path.as_posix() for path in study.rglob("*"))
    with pytest.raises(error, match=words):
        hf_rws.hub.bundle(base, signatures, **{"folder": "bundle", **options})
    assert sorted(path.as_posix() for path in study.rglob("*")) == before


def test_statistics_that_were_recalibrated_are_not_a_clean_model(study):
    model = hf_rws.load_patched("base", [])
    assert model.rws.is_clean
    model.rws.recalibrate(torch.rand(8, 3, 32, 32))
    assert not model.rws.is_clean
    with pytest.raises(OptionError, match="has signatures on"):
        hf_rws.hub.bundle(model, ["rws-fog"], "bundle")


# --- Hub ids, over real HTTP on loopback ---


def test_a_signature_is_named_by_its_id_on_the_hub(on_the_hub):
    model = hf_rws.load_patched("user/base", ["user/rws-fog", "user/rws-snow"], scales={"user/rws-fog": 0.7})
    assert model.rws.scales == {"rws-fog": 0.7, "rws-snow": 0.0}
    commit = model.rws.signatures["rws-snow"].origin.revision
    for id in ("user/rws-snow", "hf-hub:user/rws-snow", f"user/rws-snow@{commit}"):
        with model.rws.using({id: 0.3}):
            assert model.rws.scales == {"rws-fog": 0.0, "rws-snow": 0.3}
    with pytest.raises(OptionError, match="no signature called 'user/rws-snow@v2'"):
        model.rws.remove("user/rws-snow@v2")
    model.rws.remove("user/rws-fog")
    assert list(model.rws.scales) == ["rws-snow"]


@pytest.fixture
def on_the_hub(hub, study):
    """The same study, pushed; the local folders are out of sight."""
    (study / "elsewhere").mkdir()
    hf_rws.push_base(load_base("base").model, "user/base", token=WRITE)
    for label in ("fog", "snow"):
        hf_rws.Signature.from_pretrained(f"rws-{label}").push_to_hub(f"user/rws-{label}", token=WRITE)
    return hub


def test_load_patched_from_the_hub(on_the_hub, monkeypatch):
    monkeypatch.chdir("elsewhere")
    model = hf_rws.load_patched("user/base", ["user/rws-fog", "hf-hub:user/rws-snow"], scales=[1.0, 0.5], strict=True)
    expected = trio("vgg16_bn_gap").base()
    hf_rws.patch(expected, [signature("vgg16_bn_gap", "fog"), signature("vgg16_bn_gap", "snow")], scales=[1.0, 0.5])
    assert identical(model, state(expected))
    assert model.rws.scales == {"rws-fog": 1.0, "rws-snow": 0.5}
    assert repr(model.rws).startswith("Patcher on vgg16_bn_gap (user/base)\n")
    model.rws.remove("rws-snow")
    model.rws.add("user/rws-snow")
    offline = hf_rws.load_patched("user/base", ["user/rws-fog"], local_files_only=True)
    offline.rws.clear()
    assert identical(offline, state(trio("vgg16_bn_gap").standard))


def test_pinned_revisions_after_the_branch_moved(on_the_hub, monkeypatch):
    monkeypatch.chdir("elsewhere")
    first = on_the_hub.repos["user/rws-fog"].refs["main"]
    signature("vgg16_bn_gap", "snow").push_to_hub("user/rws-fog", token=WRITE)
    pinned = hf_rws.load_patched("user/base", ["user/rws-fog"], signature_revisions=[first])
    assert pinned.rws.scales == {"rws-fog": 1.0}
    assert pinned.rws.signatures["rws-fog"].config.corruption.label == "fog"
    moved_on = hf_rws.load_patched("user/base", ["user/rws-fog"]).rws
    assert moved_on.signatures["rws-fog"].config.corruption.label == "snow"
    at = hf_rws.load_patched("user/base", [f"user/rws-fog@{first}"]).rws
    assert at.signatures["rws-fog"].config.corruption.label == "fog"


def test_a_signature_extracted_from_hub_ids_names_its_base(on_the_hub, monkeypatch):
    monkeypatch.chdir("elsewhere")
    models = trio("vgg16_bn_gap")
    made = hf_rws.extract(models.robust, "user/base", models.start, corruption="fog")
    assert made.config.base_model.repo_id == "user/base"
    assert made.config.base_model.revision == on_the_hub.repos["user/base"].refs["main"]


@pytest.mark.parametrize("wrong", ["user/nothing", "user/base@no-such-branch"])
def test_missing_repos_and_revisions_are_named(on_the_hub, monkeypatch, wrong):
    monkeypatch.chdir("elsewhere")
    with pytest.raises(NotFoundError, match=wrong.partition("@")[0]):
        hf_rws.load_patched(wrong)


def test_a_lockfile_pins_commits(on_the_hub, monkeypatch, tmp_path):
    monkeypatch.chdir("elsewhere")
    model = hf_rws.load_patched("user/base", ["user/rws-fog@main", "hf-hub:user/rws-snow"], scales=[0.7, 0.3])
    lockfile = model.rws.lockfile()
    heads = {name: on_the_hub.repos[f"user/{name}"].refs["main"] for name in ("base", "rws-fog", "rws-snow")}
    assert [lockfile["base"]["id"], lockfile["base"]["revision"]] == ["user/base", heads["base"]]
    for part in lockfile["signatures"]:
        assert (part["kind"], part["id"], part["revision"]) == ("hub", f"user/{part['name']}", heads[part["name"]])
    signature("vgg16_bn_gap", "snow").push_to_hub("user/rws-fog", token=WRITE)
    hf_rws.push_base(trio("vgg16_bn_gap").start, "user/base", token=WRITE)
    (tmp_path / "elsewhere" / "user" / "base").mkdir(parents=True)  # would win over a bare id
    assert identical(rebuilt(lockfile), state(model))
    assert identical(rebuilt(lockfile, local_files_only=True), state(model))
    assert rebuilt(lockfile).rws.lockfile() == lockfile


def test_signatures_are_fetched_in_parallel(on_the_hub, monkeypatch, tmp_path):
    monkeypatch.chdir("elsewhere")
    together = threading.Barrier(2, timeout=20)
    for name in ("fog", "snow"):
        on_the_hub.faults.append(Fault(rf"GET .*rws-{name}/resolve.*safetensors", before=together.wait))
    model = hf_rws.load_patched("user/base", ["user/rws-fog", "user/rws-snow"], cache_dir=tmp_path / "fresh")
    assert list(model.rws.scales) == ["rws-fog", "rws-snow"]
    assert not together.broken


def test_of_several_errors_the_bases_is_told(on_the_hub, monkeypatch):
    monkeypatch.chdir("elsewhere")
    with pytest.raises(NotFoundError, match="user/gone"):
        hf_rws.load_patched("user/gone", ["user/also-gone"])
    with pytest.raises(NotFoundError, match="user/also-gone"):
        hf_rws.load_patched("user/base", ["user/also-gone", "user/rws-fog"])


def test_baked_models_and_bundles_from_the_hub(on_the_hub, monkeypatch, tmp_path):
    monkeypatch.chdir("elsewhere")
    model = hf_rws.load_patched("user/base", ["user/rws-fog"], scales=[0.7])
    card = (save_patched(model, "robust", repo_id="user/robust") / "README.md").read_text()
    lockfile = json.loads(re.search(r"```json\n(.*?)```", card, re.DOTALL)[1])
    assert identical(rebuilt(lockfile), state(model))
    bundle = hf_rws.hub.bundle("user/base", ["user/rws-fog"], "bundle", scales=[0.7])
    assert (bundle / "base" / "README.md").is_file()
    packed = json.loads((bundle / "lockfile.json").read_text())
    for part, name in ((packed["base"], "base"), (packed["signatures"][0], "rws-fog")):
        assert part["copy_of"] == f"user/{name}@{on_the_hub.repos[f'user/{name}'].refs['main']}"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nothing"))
    on_the_hub.requests.clear()
    assert identical(hf_rws.load_patched(lockfile=bundle), state(model))
    assert not on_the_hub.requests
