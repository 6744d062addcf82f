import hashlib
import json
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save

import hf_rws
from hf_rws import Signature
from hf_rws.errors import (
    AccessError,
    FormatError,
    IntegrityError,
    MismatchError,
    NotFoundError,
    OptionError,
)
from hf_rws.signature.arrays import _ARRAYS
from hf_rws.signature.signature import similarity
from tests.models import moved, signature, trio

BYTE_FORMAT = Path(__file__).resolve().parent.parent / "scripts" / "docs" / "byte-format.md"
BITS = [None, 8, 4, 3, 1, "ternary", "small", [8, 8, 4, 4, 3, "ternary", "ternary"]]


def equal(a: Signature, b: Signature) -> bool:
    return a.arrays.keys() == b.arrays.keys() and all(torch.equal(a.arrays[key], b.arrays[key]) for key in a.arrays)


@pytest.mark.parametrize("bits", BITS, ids=str)
def test_saved_and_loaded_is_the_same(tmp_path, bits):
    made = signature("vgg16_bn_gap").quantize(bits)
    made.save_pretrained(tmp_path / "rws-fog")
    loaded = Signature.from_pretrained(tmp_path / "rws-fog")
    assert equal(loaded, made)
    assert loaded.config == made.config
    assert loaded.name == "rws-fog"
    assert loaded.nbytes == made.nbytes == (tmp_path / "rws-fog" / "signature.safetensors").stat().st_size
    first = {path.name: path.read_bytes() for path in (tmp_path / "rws-fog").iterdir()}
    assert first.keys() == {"config.json", "signature.safetensors", "README.md"}
    loaded.save_pretrained(tmp_path / "rws-fog")  # identical bytes on every save
    assert {path.name: path.read_bytes() for path in (tmp_path / "rws-fog").iterdir()} == first


@pytest.mark.parametrize("bits", BITS, ids=str)
def test_the_guides_reader_in_numpy_alone_reads_what_we_write(tmp_path, bits):
    reader = re.search(r"^```python\n(.*?)^```", BYTE_FORMAT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1]
    imported = set(re.findall(r"^(?:import|from) (\w+)", reader, re.MULTILINE))
    assert imported == {"json", "math", "numpy", "pathlib", "struct"}
    names = {}
    exec(reader, names)
    made = signature("vgg16_bn_gap").quantize(bits)
    found = names["read_signature"](made.save_pretrained(tmp_path / "s"))
    assert found.keys() == made.deltas().keys()
    for key, delta in made.deltas().items():
        np.testing.assert_array_equal(found[key], delta.numpy())


def test_no_tensor_is_a_top_level_architecture_and_the_only_metadata_is_the_format(tmp_path):
    folder = signature("vgg16_gap").save_pretrained(tmp_path / "s")
    assert "architecture" not in json.loads((folder / "config.json").read_text())
    raw = (folder / "signature.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert header["__metadata__"] == {"format": "pt"}


def test_timm_refuses_a_signature_repo_at_once(tmp_path):
    folder = signature("vgg16_gap").save_pretrained(tmp_path / "s")
    with pytest.raises(KeyError, match="architecture"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize(
    ("name", "bits", "least"),
    [
        ("vgg16_gap", "default", 65),
        ("vgg16_gap", "small", 115),
        ("vgg16_gap", "tiny", 200),
        ("resnet50", "default", 110),
    ],
)
def test_a_full_copy_is_so_many_times_larger(name, bits, least):
    model = timm.create_model(name, num_classes=10)
    config = hf_rws.extract(model, model, None, corruption="fog", projection=None, bits=None).config
    tensors = config.with_bits(bits).tensors
    sizes = [spec.sizes("symmetric") for spec in tensors]
    arrays = {key: torch.zeros(sum(size.get(key, 0) for size in sizes), dtype=dtype) for key, dtype in _ARRAYS.items()}
    made = Signature(
        replace(config, tensors=tensors), {key: array for key, array in arrays.items() if len(array)}, "fog"
    )
    full_copy = sum(value.nbytes for value in model.state_dict().values())
    assert config.method.num_layers == 7
    assert any(spec.kind == "running_var" for spec in tensors) == (name == "resnet50")
    assert full_copy / made.nbytes >= least


# --- files that are not what they should be ---


@pytest.fixture
def saved(tmp_path):
    return signature("vgg16_bn_gap").save_pretrained(tmp_path / "rws-fog")


def _edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def _replace_arrays(folder, change):
    arrays = load_file(folder / "signature.safetensors")
    change(arrays)
    raw = save(arrays)
    (folder / "signature.safetensors").write_bytes(raw)
    _edit(folder, lambda config: config.update(sha256=hashlib.sha256(raw).hexdigest()))


def test_one_flipped_bit_in_the_weights_is_noticed(saved):
    path = saved / "signature.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"rws-fog.*signature.safetensors.*sha256.*force_download"):
        Signature.from_pretrained(saved)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"<!doctype html>", b"\x80\x02}q"]
)
def test_other_bytes_instead_of_the_weights(saved, content):
    (saved / "signature.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match="sha256"):
        Signature.from_pretrained(saved)
    _edit(saved, lambda config: config.update(sha256=hashlib.sha256(content).hexdigest()))
    with pytest.raises(FormatError, match="not a safetensors file"):
        Signature.from_pretrained(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("codes"),
        lambda arrays: arrays.update(codes=arrays["codes"][:-1].clone()),
        lambda arrays: arrays.update(scales=arrays["scales"].float()),
        lambda arrays: arrays.update(vectors=arrays["vectors"].reshape(1, -1)),
        lambda arrays: arrays.update(values=torch.ones(3)),
        lambda arrays: arrays["scales"].fill_(float("inf")),
        lambda arrays: arrays["vectors"].fill_(float("nan")),
    ],
)
def test_arrays_that_do_not_fit_the_config(saved, change):
    _replace_arrays(saved, change)
    with pytest.raises(FormatError, match=r"rws-fog signature.safetensors: array '(codes|scales|vectors|values)'"):
        Signature.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("tensors"), "'tensors' is missing"),
        (lambda c: c.update(tensors=[]), "at least one"),
        (lambda c: c.update(tensors=c["tensors"] + c["tensors"][:1]), "named once"),
        (lambda c: c["tensors"][0].update(shape=[-1, 3]), "negative size"),
        (lambda c: c["tensors"][0].update(shape=[10**18, 10**18]), "is larger than any model"),
        (lambda c: c["tensors"][0].update(shape=[0, 2**40, 2**40]), "is larger than any model"),
        (lambda c: c["tensors"][0].update(shape=[1] * 9), "is larger than any model"),
        (lambda c: c["tensors"][0].update(shape=[2**20, 2**20]), "asks for"),
        (lambda c: c["tensors"][0].update(shape="3"), "'shape'"),
        (lambda c: c["tensors"][0].update(bits=9), "'bits' must be one of"),
        (lambda c: c["tensors"][0].update(bits=True), "'bits' must be one of"),
        (lambda c: c["tensors"][0].update(shape=[]), "cannot be stored so"),
        (lambda c: (c["tensors"][0].update(bits="ternary"), c["method"].update(codec="log")), "cannot be stored so"),
        (lambda c: c["tensors"][0].update(kind="code"), "'kind' must be one of"),
        (lambda c: c["tensors"].insert(0, 3), "must be an object"),
        (lambda c: c.update(sha256=None), "'sha256' is missing"),
        (lambda c: c.update(base_model="user/base"), "'base_model' is missing or of the wrong type"),
        (lambda c: c["base_model"].update(mean=["a"]), "'mean' holds values of the wrong type"),
        (lambda c: c["method"].update(codec="pickle"), "'codec' must be one of"),
        (lambda c: c["method"].update(kind="magic"), "'kind' must be one of"),
        (lambda c: c["corruption"].pop("name"), "'name' is missing"),
        (lambda c: c.update(recommended_scale="1"), "'recommended_scale'"),
        (lambda c: c.update(recommended_scale=10**400), "'recommended_scale'"),
        (lambda c: c["tensors"][0].update(layer=-1), "'layer'"),
        (lambda c: c["tensors"][0].update(layer=10**12), "'layer'"),
        (lambda c: c["corruption"].update(severity=99), "'severity'"),
        (lambda c: c.update(format_version="2.0"), r"format_version 2.0.*pip install -U hf-rws"),
        (lambda c: c.update(format_version=1), "'format_version'"),
        (lambda c: c.update(architecture="resnet18"), "timm model's config"),
    ],
)
def test_broken_configs_are_explained(saved, change, message):
    _edit(saved, change)
    with pytest.raises(FormatError, match=message) as caught:
        Signature.from_pretrained(saved)
    assert "config.json" in str(caught.value) or "signature.safetensors" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000])
def test_configs_that_are_no_json_object(saved, content):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"config.json"):
        Signature.from_pretrained(saved)


def test_unknown_keys_and_newer_minor_versions_are_read_with_a_warning(saved):
    _edit(saved, lambda config: config.update(format_version="1.7", shiny=True))
    with pytest.warns(UserWarning, match="shiny"):
        assert equal(Signature.from_pretrained(saved), signature("vgg16_bn_gap"))


def test_unknown_inner_keys_are_named_in_one_warning(saved, recwarn):
    def change(config):
        for key in ("base_model", "corruption", "method", "metrics"):
            config[key] = {**config.get(key, {}), "shiny": {"deep": 1}}
        for entry in config["tensors"]:
            entry["shiny"] = 1

    Signature.from_pretrained(saved)
    assert not recwarn
    _edit(saved, change)
    assert equal(Signature.from_pretrained(saved), signature("vgg16_bn_gap"))
    (warning,) = recwarn
    assert str(warning.message).endswith("unknown keys base_model.shiny, corruption.shiny, method.shiny, tensors.shiny")


def test_what_cannot_be_written_as_json_is_refused_before_anything_is_written(tmp_path):
    for wrong in ({"metrics": {"n": torch.ones(1)}}, {"recommended_scale": "1"}, {"recommended_scale": float("nan")}):
        with pytest.raises(OptionError, match="cannot be saved"):
            signature("vgg16_gap").with_results(**wrong).save_pretrained(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_optional_statistics_survive(saved, tmp_path):
    made = Signature.from_pretrained(saved).with_results(statistics={"mean": [1.0, 2.0]}, metrics={"n": 10})
    loaded = Signature.from_pretrained(made.save_pretrained(tmp_path / "other"))
    assert loaded.config.statistics == {"mean": [1.0, 2.0]}
    assert loaded.config.metrics == {"n": 10}


@pytest.mark.parametrize("missing", ["config.json", "signature.safetensors", "."])
def test_missing_files(saved, missing):
    if missing == ".":
        shutil.rmtree(saved)
    else:
        (saved / missing).unlink()
    with pytest.raises(NotFoundError, match=missing if missing != "." else "rws-fog"):
        Signature.from_pretrained(saved)


def test_saving_over_a_file_is_refused_and_a_failed_save_leaves_the_old_signature(saved, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OptionError, match="is a file"):
        signature("vgg16_gap").save_pretrained(tmp_path / "file")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    from pathlib import Path

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(AccessError, match=r"cannot save.*No space"):
        signature("vgg16_bn_gap", "snow").save_pretrained(saved)
    monkeypatch.undo()
    assert {path.name for path in saved.iterdir()} == before.keys()
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_users_readme_keeps_its_text(saved):
    readme = saved / "README.md"
    readme.write_text(readme.read_text().replace("\n# ", "\nMy own words stay here.\n\n# ", 1))
    Signature.from_pretrained(saved).save_pretrained(saved)
    assert "My own words stay here." in readme.read_text()


# --- algebra ---


def test_algebra_is_that_of_the_deltas():
    a, b = signature("vgg16_bn_gap"), signature("vgg16_bn_gap", "snow")
    total, swapped, difference, half, twice, negated = a + b, b + a, a - b, 0.5 * a, a * 2, -a
    for key in a.specs:
        da, db = a.delta(key), b.delta(key)
        torch.testing.assert_close(total.delta(key), da + db)
        torch.testing.assert_close(difference.delta(key), da - db)
        torch.testing.assert_close(half.delta(key), 0.5 * da)
        torch.testing.assert_close(twice.delta(key), 2 * da)
        torch.testing.assert_close(negated.delta(key), -da)
        assert torch.equal(total.delta(key), swapped.delta(key))
    assert total.config.corruption.label == "fog+snow"
    assert total.config.method.kind == "combined"
    assert half.name == "fog"


def test_what_was_measured_is_not_said_of_a_changed_signature():
    made = signature("vgg16_gap")
    training = {"steps": 3, "agreement": {"clean": {"before": 1.0, "after": 0.9}}}
    made = made.with_results(method=replace(made.config.method, kind="distilled", training=training), metrics={"n": 1})
    for changed in (made.quantize(2), 0.5 * made, -made, made.quantize(4, codec="linear"), made + made):
        assert changed.config.metrics is None
        assert "agreement" not in changed.config.method.training
    assert (2 * made).config.method.training["steps"] == 3
    assert made.quantize(4).config.method.training == training  # nothing changed


def test_cosine_and_similarity():
    a, b = signature("vgg16_bn_gap"), signature("vgg16_bn_gap", "snow")
    assert a.cosine(a) == pytest.approx(1)
    assert a.cosine(-a) == pytest.approx(-1)
    assert a.cosine(3 * a) == pytest.approx(1)
    assert abs(a.cosine(b)) < 0.9
    with pytest.raises(OptionError, match="takes signatures, got 'rws-fog'"):
        similarity([a, "rws-fog"])
    matrix = similarity([a, b, a])
    assert matrix.shape == (3, 3)
    torch.testing.assert_close(matrix, matrix.T)
    assert matrix[0, 1] == pytest.approx(a.cosine(b))
    flat = [torch.cat([s.delta(k).flatten() for k, spec in s.specs.items() if len(spec.shape) > 1]) for s in (a, b)]
    assert a.cosine(b) == pytest.approx(float(torch.cosine_similarity(*flat, dim=0)), rel=1e-4)
    assert (0 * a).cosine(b) == 0


def test_norms_are_of_the_weights_by_layer():
    a = signature("vgg16_bn_gap")
    assert list(a.norms()) == list(range(7))
    assert a.norms()[0] == pytest.approx(float(a.delta("features.0.weight").norm()), rel=1e-5)


def test_what_does_not_belong_together_does_not_add_up():
    a = signature("vgg16_bn_gap")
    with pytest.raises(MismatchError, match=r"vgg16_bn_gap.*resnet18"):
        a + signature("resnet18")
    with pytest.raises(MismatchError, match="do not touch the same tensors"):
        a.cosine(signature("vgg16_bn_gap", num_layers=3))
    models = trio("vgg16_bn_gap")
    other = hf_rws.extract(models.robust, moved(models.start, 77), models.start, corruption="rain")
    with pytest.raises(MismatchError, match="different base models"):
        a + other
    with pytest.raises(TypeError):
        a + 1
    with pytest.raises(TypeError):
        a * a


@pytest.mark.parametrize("bits", BITS, ids=str)
def test_the_same_quantization_again_gives_equal_codes(bits):
    once = signature("vgg16_bn_gap", bits=None).quantize(bits)
    assert equal(once.quantize(bits), once)
    again = Signature.from_deltas(once.deltas(), once.config.with_bits(bits))  # also without the shortcut
    assert equal(again, once)


def test_fewer_bits_are_smaller_and_further_from_the_original():
    full = signature("vgg16_bn_gap", bits=None)
    previous_size, previous_error = full.nbytes, 0.0
    for bits in (8, 6, 4, 3, 2, 1):
        coded = full.quantize(bits)
        error = sum(float((coded.delta(k) - full.delta(k)).square().sum()) for k in full.specs)
        assert coded.nbytes < previous_size
        assert error > previous_error
        previous_size, previous_error = coded.nbytes, error


@pytest.mark.parametrize("codec", ["linear", "log"])
def test_the_released_codes_schemes_survive_the_disk(tmp_path, codec):
    coded = signature("vgg16_bn_gap", bits=None).quantize(4, codec=codec)
    loaded = Signature.from_pretrained(coded.save_pretrained(tmp_path / "s"))
    assert loaded.config.method.codec == codec
    assert equal(loaded, coded)
    assert equal(loaded.quantize(4, codec=codec), coded)


def test_values_that_float16_cannot_hold_are_refused():
    full = signature("vgg16_bn_gap", bits=None)
    huge = {key: value * 1e9 for key, value in full.deltas().items()}
    with pytest.raises(OptionError, match="bits=None"):
        Signature.from_deltas(huge, full.config.with_bits(4))
    kept = Signature.from_deltas(huge, full.config.with_bits(None))
    assert torch.equal(kept.delta("features.0.weight"), huge["features.0.weight"])


def test_signatures_are_immutable_and_their_repr_is_short():
    made = signature("vgg16_gap")
    with pytest.raises(AttributeError):
        made.name = "other"
    assert replace(made, name="other").name == "other"
    assert len(repr(made)) < 400
    assert "fog" in repr(made)
