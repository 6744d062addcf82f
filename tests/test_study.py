import json
import math
import re
import shutil
import warnings
from dataclasses import replace
from pkgutil import resolve_name

import pytest
import timm
import torch

import hf_rws
from hf_rws.bases import load_base
from hf_rws.corruptions import corrupt
from hf_rws.data.preprocessing import Preprocessing
from hf_rws.data.sets import ImageSet, Splits
from hf_rws.errors import MissingExtraError, OptionError
from hf_rws.evaluation import accuracy
from hf_rws.fingerprints import weights_digest
from hf_rws.study.measuring import Study, StudyRow, measure_scales, recovery, recovery_cell
from hf_rws.study.processes import _Processes
from hf_rws.study.run import create_start, run_study
from hf_rws.timm_repo import save_timm_repo
from hf_rws.training.arguments import TrainingArguments
from tests.models import identical, signature, state, trio


def images(count: int, seed: int, classes: int = 10) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator)
    tint = (labels * 255 // classes).view(-1, 1, 1, 1)
    names = tuple(f"class{i}" for i in range(classes))
    return ImageSet(((pixels + 3 * tint) // 4).to(torch.uint8), labels, names, "noise")


@pytest.fixture(scope="module")
def data():
    return Splits(images(40, 0), images(20, 1), images(30, 2))


QUICK = TrainingArguments.from_recipe("short", epochs=1, batch_size=20, mixed_precision="no")
SETTINGS = {"corruptions": ("fog", "contrast"), "distilled": 25, "notes": {"dataset": "noise"}}
_KINDS = {"distilled": "-distilled", "extracted": ""}  # and the ends of their folders' names

pytestmark = pytest.mark.filterwarnings("ignore:the distillation did not help")  # on noise


@pytest.fixture(autouse=True, scope="module")
def few_steps():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hf_rws.distillation.loop.default_steps", lambda *arguments, **options: 2)
        yield


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A tiny study, whole."""
    folder = tmp_path_factory.mktemp("study")
    start = create_start("vgg16_bn_gap", data, width=0.05)
    return run_study(start, data, folder, QUICK, **SETTINGS)


def test_a_study_leaves_repos_that_load(finished, data):
    folder = finished.folder
    names = {path.name for path in folder.iterdir()}
    signatures = {f"rws-{name}{end}" for name in ("fog", "contrast") for end in _KINDS.values()}
    assert names == {"pretrained", "base", "robust-fog", "robust-contrast", "study.json"} | signatures
    for name in ("base", "robust-fog", "rws-fog", "rws-fog-distilled"):
        assert (folder / name / "README.md").read_text().startswith("---\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the base is recognised: no transfer
        model = hf_rws.load_patched(folder / "base", [folder / "rws-fog"], strict=True)
    model.rws.clear()
    assert identical(model, state(load_base(folder / "base").model))


def test_the_cards_own_lines_run(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished.folder)
    for name, shown in (("rws-fog", "rws-fog: scale 1"), ("base", None)):
        lines = (finished.folder / name / "README.md").read_text()
        exec(re.search(r"```python\n(.*?)```", lines, re.DOTALL)[1], {})
        assert shown is None or shown in capsys.readouterr().out


def test_all_models_of_a_study_start_from_the_same_weights(finished):
    start = weights_digest(load_base(finished.folder / "pretrained").model)
    for name in ("base", "robust-fog", "robust-contrast"):
        record = json.loads((finished.folder / name / "training_args.json").read_text())
        assert record["init_sha256"] == start
        assert record["corruption"] == ([] if name == "base" else [name.removeprefix("robust-")])


def test_the_rows_are_what_the_models_do(finished, data):
    folder = finished.folder
    for row in finished.rows:
        shown = ImageSet(corrupt(data.test.images, row.corruption, 5), data.test.labels, data.test.classes)
        models = {
            "standard": load_base(folder / "base").model,
            "robust": load_base(folder / f"robust-{row.corruption}").model,
        }
        for kind, end in _KINDS.items():
            signature = folder / f"rws-{row.corruption}{end}"
            models[kind] = hf_rws.load_patched(folder / "base", signature, strict=True)
            config = json.loads((signature / "config.json").read_text())
            assert config["method"]["kind"] == kind
            metrics = config["metrics"]
            assert metrics["patched"] == {"ta": row.ta[kind], "ra": row.ra[kind]}
            assert metrics["robust"] == {"ta": row.ta["robust"], "ra": row.ra["robust"]}
            assert [point["scale"] for point in metrics["scale_curve"]] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
            assert row.n == metrics["n"] == 30
            sizes = [(signature / name).stat().st_size for name in ("signature.safetensors", "config.json")]
            assert (row.nbytes[kind], row.download_nbytes[kind]) == (sizes[0], sum(sizes))
        assert row.ta == {kind: accuracy(model, data.test) for kind, model in models.items()}
        assert row.ra == {kind: accuracy(model, shown) for kind, model in models.items()}


def test_distilled_signatures_are_made_from_the_images_that_the_study_says(finished, data):
    config = json.loads((finished.folder / "rws-fog-distilled" / "config.json").read_text())
    report = config["method"]["training"]
    assert report["images"] + report["held_out"] == 25
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(QUICK.seed))[:25].sort().values
    made = hf_rws.distill(
        finished.folder / "base", data.train.images[rows], corruption="fog", mixed_precision="no", progress=False
    )
    assert identical_arrays(made, hf_rws.Signature.from_pretrained(finished.folder / "rws-fog-distilled"))


def identical_arrays(a, b):
    return a.arrays.keys() == b.arrays.keys() and all(torch.equal(a.arrays[key], b.arrays[key]) for key in a.arrays)


def test_a_study_without_robust_models_goes_on_to_one_with_them(finished, data, tmp_path):
    start = create_start("vgg16_bn_gap", data, width=0.05)
    weights = state(start)
    first = run_study(start, data, tmp_path / "s", QUICK, robust=False, **SETTINGS)
    assert not list((tmp_path / "s").glob("robust-*"))
    assert first.to_markdown().startswith(
        "| corruption | TA standard | TA distilled | RA standard | RA distilled | kB |"
    )
    assert "recovery" not in first.to_markdown()
    for row, whole in zip(first.rows, finished.rows, strict=True):
        assert row.ra == {kind: whole.ra[kind] for kind in ("standard", "distilled")}
    start.load_state_dict(weights)
    assert run_study(start, data, tmp_path / "s", QUICK, **SETTINGS).to_markdown() == finished.to_markdown()
    with pytest.raises(OptionError, match="needs signatures"):
        run_study(start, data, tmp_path / "s", QUICK, corruptions=("fog",), robust=False)


def test_a_second_start_trains_nothing_and_says_the_same(finished, data, monkeypatch):
    monkeypatch.setattr("hf_rws.training.trainer._TrainingRun", None)  # training anything would call it
    monkeypatch.setattr("hf_rws.study.run.distill", None)
    start = create_start("vgg16_bn_gap", data, width=0.05)
    again = run_study(start, data, finished.folder, QUICK, **SETTINGS)
    assert again.to_markdown() == finished.to_markdown()


def stop_at(patched, where, call):
    """Ctrl-C in a call of a function, counted from 1."""
    calls, whole = [], resolve_name(where)

    def stopped(*given, **options):
        calls.append(given)
        if len(calls) == call:
            raise KeyboardInterrupt
        return whole(*given, **options)

    patched.setattr(where, stopped)


def test_a_study_that_is_stopped_again_and_again_ends_as_one_that_is_not(finished, data, tmp_path):
    """In a distillation, within a robust model's training, between two models, and while it measures."""
    start = create_start("vgg16_bn_gap", data, width=0.05)
    weights = state(start)
    for where, call in (
        ("hf_rws.study.run.distill", 2),
        ("hf_rws.training.augmentation.apply", 2),  # the robust model's second batch, as the base is finished
        ("hf_rws.study.run.train", 3),
        ("hf_rws.study.run.measure_scales", 3),
    ):
        start.load_state_dict(weights)
        with pytest.MonkeyPatch.context() as patched:
            stop_at(patched, where, call)
            with pytest.raises(KeyboardInterrupt):
                run_study(start, data, tmp_path, QUICK, **SETTINGS)
        assert not (tmp_path / "study.json").exists()
    start.load_state_dict(weights)
    assert run_study(start, data, tmp_path, QUICK, **SETTINGS).to_markdown() == finished.to_markdown()
    assert contents(tmp_path) == contents(finished.folder)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("count", range(1, 6))
def test_processes_that_are_apart_share_a_studys_models_out(count):
    names, done = list("abcdefg"), {"b", "c", "f"}
    shares = [_Processes(rank, count, group=object()).share(names, done) for rank in range(count)]
    assert sorted(name for share in shares for name in share) == names  # each once
    assert all(share == sorted(share) for share in shares)
    for sizes in ([len(share) for share in shares], [len({*share} - done) for share in shares]):
        assert max(sizes) - min(sizes) <= 1
    assert all(_Processes(rank, count).share(names, done) == names for rank in range(count))  # together they make all


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"distilled": 30}, "images: 25 then, 30 now"),
        ({"bits": 3}, r"bits: \[.*\] then, \[3, .*\] now"),
        ({"num_layers": 2}, "num_layers: 7 then, 2 now"),
        ({"severity": 3}, "severity: 5 then, 3 now"),
        ({"seed": 1}, "seed: 0 then, 1 now"),
        ({"base": None}, "base: other weights then"),
    ],
)
def test_distilled_signatures_of_other_settings_are_not_kept_silently(finished, data, tmp_path, changed, message):
    start = create_start("vgg16_bn_gap", data, width=0.05)
    shutil.copytree(finished.folder / "rws-fog-distilled", tmp_path / "rws-fog-distilled")
    options = {"corruptions": ("fog",), "robust": False, "notes": SETTINGS["notes"], "distilled": 25, **changed}
    own = {key: options.pop(key) for key in ("severity", "seed", "base") if key in options}
    if not own:
        for name in ("pretrained", "base"):
            shutil.copytree(finished.folder / name, tmp_path / name)
    arguments = replace(QUICK, **({"lr": 0.01} if own.pop("base", 0) is None else own))  # a base that is retrained
    with pytest.raises(OptionError, match=f"rws-fog-distilled holds .*{message}"):
        run_study(start, data, tmp_path, arguments, **options)


def test_no_path_of_this_machine_is_written(finished):
    for path in finished.folder.rglob("*"):
        if path.is_file():
            assert str(finished.folder.parent).encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize(
    "wrong",
    [
        {"corruptions": ("fogg",)},
        {"corruptions": ("fog", "fog")},
        {"bits": "smal"},
        {"num_layers": 99},
        {"projection": "biases"},
        {"spread": "nodes"},
    ],
)
def test_bad_options_are_found_before_training(data, tmp_path, wrong):
    start = create_start("vgg16_gap", data, width=0.05)
    with pytest.raises(OptionError):
        run_study(start, data, tmp_path / "s", QUICK, **{"corruptions": ("fog",), **wrong})
    assert not (tmp_path / "s").exists()


def test_another_start_than_the_folders_is_refused(finished, data):
    start = create_start("vgg16_bn_gap", data, width=0.05, seed=5)
    with pytest.raises(OptionError, match="another start"):
        run_study(start, data, finished.folder, QUICK, corruptions=("fog",))


def test_a_study_needs_a_corruption(data, tmp_path):
    with pytest.raises(OptionError, match="at least one corruption"):
        run_study(create_start("vgg16_gap", data, width=0.05), data, tmp_path / "s", QUICK, corruptions=())
    assert not (tmp_path / "s").exists()


def test_recovery_is_a_ratio_of_means():
    assert recovery([0.2, 0.4], [0.6, 0.5], [0.7, 0.8]) == pytest.approx((0.55 - 0.3) / (0.75 - 0.3))
    assert recovery([0.2], [0.2], [0.7]) == 0
    assert recovery([0.2], [0.7], [0.7]) == 1
    ta, ra = {"standard": 0.8, "extracted": 0.7, "robust": 0.5}, {"standard": 0.2, "extracted": 0.6, "robust": 0.7}
    row = StudyRow("fog", 5, 100, ta, ra, {"extracted": 5_000}, {"extracted": 7_000}, 400_000)
    table = Study(None, (row,)).to_markdown()
    assert "| fog-5 | 80.0 | 70.0 | 50.0 | 20.0 | 60.0 | 70.0 | 5.0 | 7.0 | 80x |" in table
    assert "recovery: extracted 0.80" in table
    assert row.flat() == {
        "corruption": "fog", "severity": 5, "n": 100, "base_nbytes": 400_000,
        "standard_ta": 0.8, "extracted_ta": 0.7, "robust_ta": 0.5,
        "standard_ra": 0.2, "extracted_ra": 0.6, "robust_ra": 0.7,
        "extracted_nbytes": 5_000, "extracted_download_nbytes": 7_000,
    }  # fmt: skip


@pytest.mark.parametrize("robust", [0.19, 0.2, 0.23])
def test_where_the_robust_models_are_no_better_there_is_no_recovery(robust):
    """Neither NaN nor a quotient of two chances (4.33) is a result."""
    ra = {"standard": 0.2, "extracted": 0.33, "robust": robust}
    row = StudyRow("fog", 5, 100, ra, ra, {"extracted": 5_000}, {"extracted": 7_000}, 400_000)
    study = Study(None, (row,))
    assert math.isnan(study.recovery()) == (robust <= 0.2)
    words = study.to_markdown().splitlines()[-1]
    shown = f"no better than the standard one (RA {100 * robust:.1f} and 20.0; differences up to 11"
    assert words.startswith("recovery: not known, as the robust models are")
    assert shown in words
    assert "nan" not in words
    assert "4.33" not in words


def test_a_cell_without_a_recovery_says_why():
    assert recovery_cell([0.5, 0.7], "0.60") == "0.60"
    assert recovery_cell([0.5, recovery([0.3], [0.4], [0.3])], "nan") == "robust no better"


def test_every_table_states_the_recipe(finished):
    for part in ("one-cycle learning rate 0.02", "1 epochs", "batch 20", "seed 0"):
        assert part in finished.to_markdown()
    paper = TrainingArguments.from_recipe("paper-vgg16").summary()
    assert "momentum 0.9, weight decay 0.0005, step learning rate 0.01 x0.1 after 20, 40, 50 epochs, batch 128" in paper


def test_scale_zero_of_a_curve_is_the_clean_model(data):
    model = trio("vgg16_bn_gap").base()
    before = state(model)
    curve = measure_scales(model, signature("vgg16_bn_gap"), data.test, data.test, (0.0, 1.0))
    assert curve[0]["ta"] == accuracy(model, data.test)
    assert identical(model, before)
    assert not hasattr(model, "rws")


# --- starts ---


def test_a_random_start_takes_the_datas_normalisation_and_size(data):
    start = create_start("vgg16_gap", data, width=0.05)
    mean, std = data.train.mean_std()
    config = start.pretrained_cfg
    assert (config["mean"], config["std"], tuple(config["input_size"])) == (mean, std, (3, 32, 32))
    assert start.get_classifier().out_features == config["num_classes"] == 10


def test_a_given_start_keeps_its_weights_and_normalisation_but_not_its_head(data, tmp_path):
    model = trio("vgg16_bn_gap").base()
    larger = {"test_input_size": (3, 288, 288), "test_crop_pct": 0.95}  # as many of timm's models are tested
    model.pretrained_cfg = dict(model.pretrained_cfg, mean=(0.1, 0.2, 0.3), **larger)
    save_timm_repo(model, tmp_path / "start", label_names=[f"old{i}" for i in range(10)])
    start = create_start(tmp_path / "start", data, seed=3)
    assert weights_digest(start) == weights_digest(model)
    assert tuple(start.pretrained_cfg["mean"]) == (0.1, 0.2, 0.3)
    assert "label_names" not in start.pretrained_cfg
    assert Preprocessing.of(start) == Preprocessing((32, 32), interpolation=start.pretrained_cfg["interpolation"])
    head = start.get_classifier().weight
    assert not torch.equal(head, model.get_classifier().weight)
    assert torch.equal(head, create_start(tmp_path / "start", data, seed=3).get_classifier().weight)
    assert not torch.equal(head, create_start(tmp_path / "start", data, seed=4).get_classifier().weight)
    own = create_start(tmp_path / "start", data, normalization="dataset")
    assert own.pretrained_cfg["mean"] == data.train.mean_std()[0]


def test_the_registered_configs_of_timm_are_not_changed(data):
    before = timm.get_pretrained_cfg("vgg16_gap")
    create_start("vgg16_gap", data, width=0.05)
    assert timm.get_pretrained_cfg("vgg16_gap") == before


def test_models_of_one_size_are_made_for_the_datas_size(data):
    start = create_start("vit_tiny_patch16_224", data)
    assert start(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_the_recovery_of_corruptions_is_without_an_adversary():
    def row(name, severity, *ra):
        models = ("standard", "extracted", "robust")
        return StudyRow(name, severity, 1000, dict.fromkeys(models, 0.9), dict(zip(models, ra, strict=True)), {}, {}, 1)

    fog, attacked = row("fog", 5, 0.2, 0.5, 0.6), row("pgd-linf-8", 0, 0.0, 0.0, 0.4)
    assert Study(None, (fog, attacked)).recovery() == Study(None, (fog,)).recovery() == pytest.approx(0.75)
    assert Study(None, (attacked,)).recovery() == 0.0
    assert Study(None, ()).to_markdown() == ""


def test_frost_is_asked_for_before_anything_is_trained(data, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_RWS_FROST", raising=False)
    monkeypatch.setattr("hf_rws.corruptions.frost._ASSET_PACKAGE", "no_such_package")
    monkeypatch.setattr("hf_rws.study.run.train", None)
    start = create_start("vgg16_gap", data, width=0.05)
    with pytest.raises(MissingExtraError, match="frost needs photographs of frost"):
        run_study(start, data, tmp_path / "s", TrainingArguments(), corruptions=("frost",))
    assert not (tmp_path / "s").exists()
