import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import accelerate
import pytest
import timm
import torch
from safetensors.torch import load_file

from hf_rws import _at_once, corrupt
from hf_rws._accelerator import resolve_precision
from hf_rws._files import locked
from hf_rws.errors import AccessError, FormatError, OptionError
from hf_rws.evaluation import accuracy
from hf_rws.training import augmentation, trainer
from hf_rws.training import pixels as pixels_module
from hf_rws.training.arguments import RECIPES, TrainingArguments, create_scheduler
from hf_rws.training.pixels import Pixels
from hf_rws.training.trainer import train
from tests.helpers import (
    arguments,
    datasets_cache,  # noqa: F401
    image_set,
    log_of,
    model,
    on_cpu,  # noqa: F401
    same,
    splits,
    weights,
)

pytestmark = pytest.mark.usefixtures("on_cpu")

ROOT = Path(__file__).resolve().parent.parent


def _saved(folder):
    return load_file(folder / "model.safetensors")


def _trained(folder, network=None, data=None, **options):
    network = network or model()
    result = train(network, data or splits(), folder, arguments(**options))
    return result, _saved(folder)


def _interrupt(monkeypatch, at):
    """Ctrl-C in the middle of the `at`-th batch."""
    calls = []
    whole = augmentation.apply

    def apply(*given):
        calls.append(given)
        if len(calls) == at:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(augmentation, "apply", apply)
    return calls


def _far(one, other):
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


# --- stopping and going on ---

WHOLE_STATE = {  # momentum, a schedule, dropout, running statistics, fresh draws: all have to be resumed
    "epochs": 3,
    "corruption": ("gaussian_noise", "brightness"),
    "fresh_corruption": True,
    "schedule": "one-cycle",
}


def _dropout_model():
    return model("vgg16_bn_gap", drop_rate=0.3)


@pytest.mark.parametrize("batch", [3, 6, 10, 12])
def test_resumed_equals_uninterrupted(batch, tmp_path, monkeypatch):
    """Four batches an epoch; stopped in the first, the second and the third, where it goes on is an epoch's start."""
    whole, expected = _trained(tmp_path / "whole", _dropout_model(), **WHOLE_STATE)
    with monkeypatch.context() as patched:
        _interrupt(patched, batch)
        with pytest.raises(KeyboardInterrupt):
            train(_dropout_model(), splits(), tmp_path / "cut", arguments(**WHOLE_STATE))
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    with monkeypatch.context() as patched:
        calls = _interrupt(patched, None)
        result = train(_dropout_model(), splits(), tmp_path / "cut", arguments(**WHOLE_STATE), resume=True)
    assert len(calls) == 12 - (batch - 1) // 4 * 4
    assert same(_saved(tmp_path / "cut"), expected)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")
    assert replace(result, folder=whole.folder) == whole


@pytest.mark.parametrize("step", ["_save_state", "_test_accuracy", "_remove"])
def test_resumed_from_between_two_steps(step, tmp_path, monkeypatch):
    """Ctrl-C after an epoch was logged but not kept, before the test, and before the last file was in its place."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    _, expected = _trained(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(trainer if step == "_remove" else trainer._TrainingRun, step, stop)
        with pytest.raises(KeyboardInterrupt):
            train(model(), splits(), tmp_path / "cut", arguments())
    train(model(), splits(), tmp_path / "cut", arguments(), resume=True)
    assert same(_saved(tmp_path / "cut"), expected)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_two_processes_do_not_train_in_the_same_folder(tmp_path):
    checkpoint = tmp_path / "run" / "checkpoint"
    checkpoint.mkdir(parents=True)
    with locked(checkpoint), pytest.raises(AccessError, match="is being written to by another process"):
        train(model(), splits(), tmp_path / "run", arguments(epochs=1))
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["checkpoint"]


@pytest.mark.parametrize("cut", ['{"epoch": 2, "loss": 0.6', "{", ""])
def test_resumed_after_a_log_that_was_cut_off(cut, tmp_path, monkeypatch):
    """By a full disk or a kill, in the middle of a line."""
    _, expected = _trained(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(trainer._TrainingRun, "finish", lambda _: None)
        train(model(), splits(), tmp_path / "cut", arguments())
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as log:
        log.write(cut)
    train(model(), splits(), tmp_path / "cut", arguments(), resume=True)
    assert same(_saved(tmp_path / "cut"), expected)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_a_log_that_is_damaged_is_named(tmp_path):
    _trained(tmp_path / "run", epochs=1, corruption=("fog",))
    log = tmp_path / "run" / "metrics.jsonl"
    for text, message in (
        ("{]\n" + log.read_text(), ": line 1: not valid JSON"),
        ("", " does not end with the result"),
        ('{"test_accuracy": {}}\n', " does not end with the result"),
        ('{"test_accuracy": 1, "best_epoch": 0, "validation_accuracy": 1, "n": 4}\n', " does not end with the result"),
        (log.read_text().replace('"clean"', '"cleen"'), " does not end with the result"),
        (log.read_text().replace('"fog-5"', '"fog-4"'), " does not end with the result"),
        (log.read_text().replace('"n": 20', '"n": "20"'), " does not end with the result"),
    ):
        log.write_text(text)
        with pytest.raises(FormatError, match=rf"metrics.jsonl{message}"):
            train(model(), splits(), tmp_path / "run", arguments(epochs=1, corruption=("fog",)), resume=True)


CHECKPOINT = (
    "state/model.safetensors",
    "state/optimizer.bin",
    "state/custom_checkpoint_1.pkl",
    "best/model.safetensors",
)


@pytest.mark.parametrize("file", CHECKPOINT)
@pytest.mark.parametrize("content", ["cut", "empty", "other", "missing"])
def test_a_damaged_checkpoint_is_named(file, content, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(trainer._TrainingRun, "finish", lambda _: None)
        train(model(), splits(), tmp_path / "run", arguments(epochs=1))
    damaged = tmp_path / "run" / "checkpoint" / file
    whole = damaged.read_bytes()
    damaged.unlink()
    if content != "missing":
        damaged.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "other": b"not a checkpoint" * 20}[content])
    with pytest.raises(FormatError, match=r"the checkpoint in .*run/checkpoint is damaged .*; remove .* to begin"):
        train(model(), splits(), tmp_path / "run", arguments(epochs=1), resume=True)


def test_a_run_begins_anew_where_the_checkpoint_was_removed(tmp_path, monkeypatch):
    _, expected = _trained(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(trainer._TrainingRun, "finish", lambda _: None)
        train(model(), splits(), tmp_path / "cut", arguments())
    shutil.rmtree(tmp_path / "cut" / "checkpoint")
    train(model(), splits(), tmp_path / "cut", arguments(), resume=True)
    assert same(_saved(tmp_path / "cut"), expected)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def _with_config(**changes):
    given = model()
    given.pretrained_cfg = {**given.pretrained_cfg, **changes}
    return given


def _without_config():
    given = model()
    del given.pretrained_cfg
    return given


def _of_three_classes():
    given = model()
    given.reset_classifier(3)
    return given


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_without_config, "no pretrained_cfg with mean and std"),
        (lambda: _with_config(mean=None), "no pretrained_cfg with mean and std"),
        (lambda: _with_config(input_size=None), "gives no input_size"),
        (_of_three_classes, "toy has 4 classes, the model knows 3"),
        (lambda: model().to("meta"), "on the meta device"),
    ],
)
def test_a_model_that_cannot_be_trained_leaves_nothing(make, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        train(make(), splits(), tmp_path / "run", arguments())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("largest", [100, 1_000, 10_000])
def test_a_full_disk_is_named(largest, tmp_path):
    """At the arguments, the log, the best weights or the checkpoint: a limit on the size of files looks the same."""
    size = resource.getrlimit(resource.RLIMIT_FSIZE)
    trained = model()
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, size[1]))
    try:
        with pytest.raises(AccessError, match=str(tmp_path / "run")):
            train(trained, splits(), tmp_path / "run", arguments())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, size)


def test_a_place_without_folders_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AccessError, match=r"cannot save the training run in .*file.run: Not a directory"):
        train(model(), splits(), tmp_path / "file" / "run", arguments())


def test_a_checkpoint_is_there_at_any_moment(tmp_path, monkeypatch):
    """Killed while the second checkpoint replaces the first: at most one epoch is lost."""
    _, expected = _trained(tmp_path / "whole", epochs=3)
    renamed = []
    rename = Path.rename

    def killed(path, target):
        if Path(target).name == "state":
            renamed.append(path)
            if len(renamed) == 2:
                raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            train(model(), splits(), tmp_path / "cut", arguments(epochs=3))
    calls = _interrupt(monkeypatch, None)
    train(model(), splits(), tmp_path / "cut", arguments(epochs=3), resume=True)
    assert len(calls) == 8
    assert same(_saved(tmp_path / "cut"), expected)


def test_a_finished_run_is_returned_as_it_is(tmp_path, monkeypatch):
    result, saved = _trained(tmp_path / "run")
    assert not list((tmp_path / "run").glob("*checkpoint*"))
    monkeypatch.setattr(trainer, "_TrainingRun", None)
    again = train(model(), splits(), tmp_path / "run", arguments(), resume=True)
    assert again == result
    assert same(_saved(tmp_path / "run"), saved)


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_folder_that_holds_something_is_refused(tmp_path):
    _trained(tmp_path / "run", epochs=1)
    before = _files(tmp_path / "run")
    refused = [
        ({"epochs": 1}, model(), False, "already holds a training run; resume it"),
        ({"epochs": 1, "lr": 0.5}, model(), True, r"other settings \(lr: 0.01 then, 0.5 now\)"),
        ({"epochs": 1, "corruption": ("fog",)}, model(), True, "corruption: .*'fog'"),
        ({"epochs": 1}, model(seed=1), True, "init_sha256"),
    ]
    for options, network, resume, message in refused:
        with pytest.raises(OptionError, match=message):
            train(network, splits(), tmp_path / "run", arguments(**options), resume=resume)
    with pytest.raises(OptionError, match="train_images: 32 then, 24 now"):
        train(model(), splits(train=24), tmp_path / "run", arguments(epochs=1), resume=True)
    assert _files(tmp_path / "run") == before
    (tmp_path / "run" / "training_args.json").unlink()
    with pytest.raises(OptionError, match="already holds a model; choose another output folder"):
        train(model(), splits(), tmp_path / "run", arguments(epochs=1))


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OptionError, match="run is a file; give a folder to save the training run in"):
        train(model(), splits(), tmp_path / "run", arguments(epochs=1))


# --- what does not change the result, and what does ---

TEN_STEPS = {"epochs": 1, "schedule": "constant", "lr": 0.02}


def test_accumulated_batches_equal_whole_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")  # as `accelerate launch` leaves it
    start, data = weights(model()), splits(train=80)
    _, whole = _trained(tmp_path / "1", data=data, **TEN_STEPS)
    _, parts = _trained(tmp_path / "2", data=data, gradient_accumulation_steps=2, **TEN_STEPS)
    assert _far(whole, parts) < 1e-3 * _far(whole, start)
    losses = [log_of(tmp_path / name)[0]["loss"] for name in "12"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_seed_decides(tmp_path):
    _, one = _trained(tmp_path / "0")
    _, again = _trained(tmp_path / "0-again")
    _, other = _trained(tmp_path / "1", seed=1)
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_precisions(precision, tmp_path):
    network = model()
    result, saved = _trained(tmp_path / "run", network, epochs=1, mixed_precision=precision)
    assert {value.dtype for value in saved.values()} == {torch.float32}
    assert log_of(tmp_path / "run")[-1]["mixed_precision"] == precision
    assert network(torch.zeros(1, 3, 32, 32)).dtype == torch.float32
    assert "_original_forward" not in vars(network)  # Accelerate's autocast is off again
    assert result.test_accuracy["clean"] == accuracy(network, splits().test)


def test_what_is_trained_is_called_as_the_data_calls_it(tmp_path):
    """Names that the outputs had before would be matched with those of the data."""
    network = model()
    others = ["door", "apple", "bird", "car"]
    network.pretrained_cfg = dict(network.pretrained_cfg, label_names=others, label_descriptions={"door": "of a house"})
    named, _ = _trained(tmp_path / "named", network, epochs=1)
    plain, _ = _trained(tmp_path / "plain", model(), epochs=1)
    assert (named.test_accuracy, named.validation_accuracy) == (plain.test_accuracy, plain.validation_accuracy)
    assert network.pretrained_cfg["label_names"] == list(splits().train.classes)
    assert "label_descriptions" not in network.pretrained_cfg


def test_what_accelerate_refuses_is_our_error(tmp_path, monkeypatch):
    def refuse(**_):
        raise ValueError("fp16 mixed precision requires a GPU")

    monkeypatch.setattr(accelerate, "Accelerator", refuse)
    with pytest.raises(OptionError, match="fp16 mixed precision requires a GPU"):
        train(model(), splits(), tmp_path / "run", arguments(mixed_precision="fp16"))
    assert not (tmp_path / "run").exists()


def test_a_second_training_may_have_another_precision(tmp_path):
    for precision in ("bf16", "no", "bf16"):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        _trained(folder, epochs=1, mixed_precision=precision)
        assert log_of(folder)[-1]["mixed_precision"] == precision


@pytest.mark.parametrize(
    ("device", "gpu_has_bf16", "cpu_has", "expected"),
    [
        ("cuda", True, {}, "bf16"),
        ("cuda", False, {"avx512_bf16": True}, "fp16"),
        ("cpu", True, {"avx512_bf16": True}, "bf16"),
        ("cpu", True, {"amx_bf16": True}, "bf16"),
        ("cpu", True, {"avx2": True, "avx512_bf16": False}, "no"),
        ("cpu", True, {}, "no"),
        ("mps", True, {"amx_bf16": True}, "no"),
    ],
)
def test_auto_precision_asks_the_hardware(device, gpu_has_bf16, cpu_has, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_has_bf16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu_has, raising=False)
    assert resolve_precision("auto", device) == expected
    for asked in ("no", "fp16", "bf16"):
        assert resolve_precision(asked, device) == asked
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    if device != "mps":
        assert resolve_precision("auto") == expected


# --- model selection and records ---


def test_the_best_epoch_is_kept_and_the_test_split_is_seen_once(tmp_path, monkeypatch):
    """By sizes: 12 images are the validation split, 20 the test split."""
    scores, seen, states = iter([0.2, 0.9, 0.9, 0.5]), [], []

    def accuracy(network, parts, **_):
        seen.append(sum(map(len, parts)))
        if seen[-1] == 12:
            states.append(weights(network))
            return next(scores)
        return 0.25

    monkeypatch.setattr(trainer, "accuracy", accuracy)
    network = model()
    result, saved = _trained(tmp_path / "run", network, epochs=4, corruption=("fog", "contrast"))
    assert seen == [12] * 4 + [20] * 3
    assert same(saved, {name: value.contiguous() for name, value in states[1].items()})
    assert same(weights(network), saved)
    assert (result.best_epoch, result.validation_accuracy) == (1, pytest.approx(0.9))
    assert (result.test_accuracy, result.n) == ({"clean": 0.25, "fog-5": 0.25, "contrast-5": 0.25}, 20)


def test_reported_accuracies_are_those_of_the_saved_model(tmp_path):
    data = splits()
    result, _ = _trained(tmp_path / "run", data=data, corruption=("gaussian_noise",), severity=3)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    noisy = replace(data.test, images=corrupt(data.test.images, "gaussian_noise", 3, seed=0))
    assert result.test_accuracy == {
        "clean": accuracy(loaded, data.test),
        "gaussian_noise-3": accuracy(loaded, noisy),
    }


def test_training_learns(tmp_path):
    data = splits(train=64)
    result, _ = _trained(tmp_path / "run", model("vgg16_bn_gap", width=0.1), data, epochs=6, lr=0.02)
    assert result.test_accuracy["clean"] > 0.6  # 0.25 by chance, 1.0 with three seeds out of three


def test_what_a_run_leaves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = model()
    options = {"epochs": 3, "corruption": ("fog",), "schedule": "step", "milestones": (1, 2), "nesterov": False}
    notes = {"dataset": "toy", "classes": (0, 1)}
    given = arguments(**options)
    result = train(network, splits(), tmp_path / "run", given, notes=notes)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["config.json", "metrics.jsonl", "model.safetensors", "training_args.json"]
    record = json.loads((tmp_path / "run" / "training_args.json").read_text())
    for name in vars(given).keys() - {"adversary", "eps", "attack_steps", "attack_step_size"}:  # there is none
        value = getattr(given, name)
        assert record[name] == (list(value) if isinstance(value, tuple) else value)
    config = network.pretrained_cfg
    assert (
        record
        | {
            "dataset": "toy",
            "classes": [0, 1],
            "architecture": "vgg16_gap",
            "input_size": [3, 32, 32],
            "mean": list(config["mean"]),
            "std": list(config["std"]),
            "train_images": 32,
            "validation_images": 12,
            "test_images": 20,
        }
        == record
    )
    assert len(record["init_sha256"]) == 64
    *epochs, last = log_of(tmp_path / "run")
    assert [row["epoch"] for row in epochs] == [0, 1, 2]
    assert [row["lr"] for row in epochs] == pytest.approx([1e-2, 1e-3, 1e-4])
    assert all(row["loss"] > 0 and 0 <= row["validation_accuracy"] <= 1 for row in epochs)
    assert last["best_epoch"] == max(epochs, key=lambda row: row["validation_accuracy"])["epoch"]
    assert last["test_accuracy"] == result.test_accuracy
    assert last["n"] == 20
    for file in (tmp_path / "run").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()
    assert train(model(), splits(), tmp_path / "run", given, notes=notes, resume=True) == result


# --- the corruption ---


def _all(split, *given, **options):
    """All images as a training sees them, by their numbers; and its parts in order are the same."""
    made = Pixels(split, torch.device("cpu"), *given, **options)
    found = made(torch.arange(len(split)))
    assert torch.equal(torch.cat([part.images for part in made]), found)
    assert torch.equal(torch.cat([part.labels for part in made]), split.labels)
    return found


def test_one_corruption_is_one_fixed_draw_per_image():
    images, given = image_set(12), (("gaussian_noise",), 4)
    found = _all(images, *given, seed=7)
    assert torch.equal(found, corrupt(images.images, "gaussian_noise", 4, seed=7))
    assert torch.equal(found, _all(images, *given, seed=7))
    assert not torch.equal(found, _all(images, *given, seed=8))
    assert torch.equal(images.images, image_set(12).images)
    assert torch.equal(_all(images), images.images)


@pytest.mark.parametrize("names", [(), ("gaussian_noise",), ("gaussian_noise", "spatter", "fog")])
def test_images_are_the_same_whether_memory_holds_all_or_not(names, monkeypatch):
    images = image_set(20)
    kept = Pixels(images, torch.device("cpu"), names, 4, seed=7)
    monkeypatch.setattr(pixels_module, "_KEPT_BYTES", 0)
    monkeypatch.setattr(pixels_module, "_BLOCK_BYTES", 5 * images.images[0].nbytes)
    made = Pixels(images, torch.device("cpu"), names, 4, seed=7)
    assert (kept._kept is None, made._kept, made.block) == (not names, None, 5)
    for rows in torch.randperm(20, generator=torch.Generator().manual_seed(0)).split(6):
        assert torch.equal(made(rows), kept(rows))
    assert all(torch.equal(*(p.images for p in pair)) for pair in zip(made, kept, strict=True))


def test_a_training_is_the_same_whether_memory_holds_all_or_not(tmp_path, monkeypatch):
    names = ("gaussian_noise", "contrast")
    one, whole = _trained(tmp_path / "1", corruption=names)
    monkeypatch.setattr(pixels_module, "_KEPT_BYTES", 0)
    monkeypatch.setattr(pixels_module, "_BLOCK_BYTES", 20 * 3 * 32 * 32)
    other, parts = _trained(tmp_path / "2", corruption=names)
    assert same(whole, parts)
    assert log_of(tmp_path / "1") == log_of(tmp_path / "2")
    assert one.test_accuracy == other.test_accuracy


def test_nothing_copies_a_split_that_does_not_fit(tmp_path, monkeypatch):
    """What is corrupted, looked up and answered at once is a block, however many images there are."""
    sizes = []

    def spy(images, name, **_):
        sizes.append(len(images))
        return images.clone()

    monkeypatch.setattr(pixels_module, "corrupt", spy)
    monkeypatch.setattr(pixels_module, "_KEPT_BYTES", 0)
    monkeypatch.setattr(pixels_module, "_BLOCK_BYTES", 16 * 3 * 32 * 32)
    monkeypatch.setattr(pixels_module, "by_area", lambda *_: 10)
    _trained(tmp_path / "run", corruption=("fog",), data=splits(train=64, validation=30, test=30), epochs=1)
    assert sizes == [16] * 4 + [10] * 6


def test_a_batch_that_memory_does_not_hold_is_cut(tmp_path, monkeypatch):
    start, data = weights(model()), splits(train=80)
    _, whole = _trained(tmp_path / "1", data=data, **TEN_STEPS)
    monkeypatch.setattr(_at_once, "_SMALL_LEARNED", 0)
    monkeypatch.setattr(trainer, "free_memory", lambda device: 2 * 700_000)
    counts = []
    created = model()
    created.register_forward_pre_hook(lambda module, args: counts.append(len(args[0])) if module.training else None)
    train(created, data, tmp_path / "2", arguments(**TEN_STEPS))
    assert max(counts) < 8
    assert _far(whole, weights(created)) < 1e-3 * _far(whole, start)


@pytest.mark.parametrize(("count", "shares"), [(12, [4, 4, 4]), (13, [4, 4, 5])])
def test_several_corruptions_have_equal_shares(count, shares):
    names = ("brightness", "contrast", "saturate")  # nothing is drawn in these
    images = image_set(count)
    found = _all(images, names, seed=3)
    whole = {name: corrupt(images.images, name, 5) for name in names}
    taken = [[name for name in names if torch.equal(found[row], whole[name][row])] for row in range(count)]
    assert all(len(name) == 1 for name in taken)
    assert sorted(sum(name == [wanted] for name in taken) for wanted in names) == shares


@pytest.mark.parametrize("fresh", [False, True])
def test_draws_of_training_validation_and_test_differ(fresh, tmp_path, monkeypatch):
    seeds = {}

    def spy(images, name, *, severity, seed, index):
        seeds.setdefault(len(images), []).append(seed)
        return images

    monkeypatch.setattr(pixels_module, "corrupt", spy)
    _trained(tmp_path / "run", corruption=("fog",), epochs=3, fresh_corruption=fresh)
    assert len(seeds[32]) == len(set(seeds[32])) == (3 if fresh else 1)
    assert (len(seeds[12]), seeds[20]) == (1, [0])
    assert len({*seeds[32], *seeds[12], *seeds[20]}) == len(seeds[32]) + 2


# --- the recipe ---


def _rates(steps, **options):
    parameter = torch.nn.Parameter(torch.zeros(1))
    given = arguments(**options)
    optimizer = torch.optim.SGD([parameter], lr=given.lr)
    scheduler = create_scheduler(optimizer, given, steps)
    rates = []
    for _ in range(given.epochs * steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("recipe", "lr"), [("paper-vgg16", 0.01), ("paper-resnet50", 0.001)])
def test_the_papers_schedule(recipe, lr):
    given = TrainingArguments.from_recipe(recipe)
    assert (given.epochs, given.lr, given.momentum, given.weight_decay, given.batch_size) == (50, lr, 0.9, 5e-4, 128)
    rates = _rates(3, **{**RECIPES[recipe]})
    assert rates == pytest.approx([lr] * 60 + [lr / 10] * 60 + [lr / 100] * 30)


def test_the_one_cycle_schedule():
    rates = _rates(5, epochs=4, lr=0.02, schedule="one-cycle")
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.02, rel=0.02)  # the peak may lie between two steps
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] == pytest.approx(0.02 / 25)
    assert rates[-1] < 0.02 / 20


def test_the_other_schedules():
    assert _rates(4, epochs=2, lr=0.1, schedule="constant") == [0.1] * 8
    cosine = _rates(4, epochs=2, lr=0.1, schedule="cosine")
    assert cosine == sorted(cosine, reverse=True)
    assert (cosine[0], cosine[4]) == (0.1, pytest.approx(0.05))
    assert _rates(2, epochs=3, lr=0.1, schedule="step", milestones=(1,), gamma=0.5) == pytest.approx(
        [0.1] * 2 + [0.05] * 4
    )


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_optimizer_is_as_asked(nesterov, tmp_path, monkeypatch):
    made, create = [], trainer.create_optimizer_v2
    monkeypatch.setattr(trainer, "create_optimizer_v2", lambda *a, **o: made.append(create(*a, **o)) or made[-1])
    network = model("vgg16_bn_gap")
    _trained(tmp_path / "run", network, epochs=1, lr=0.03, momentum=0.8, weight_decay=0.007, nesterov=nesterov)
    (group,) = made[0].param_groups
    assert isinstance(made[0], torch.optim.SGD)
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.8, 0.007, nesterov)
    assert group["initial_lr"] == pytest.approx(0.03 / 25)  # where one-cycle starts
    assert {id(p) for p in group["params"]} == {id(p) for p in network.parameters()}  # biases and norms too


@pytest.mark.parametrize(("size", "expected"), [(32, "crop-flip"), (64, "rotation-flip")])
def test_augmentation_by_image_size(size, expected, tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(augmentation, "apply", lambda name, images, draws: names.append(name) or images)
    data = splits(8)
    data = replace(data, train=image_set(8, size=size), validation=image_set(4, size=size))
    _trained(tmp_path / "run", data=data, epochs=1)
    assert names == [expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "linear"}, "schedule must be one of step, one-cycle, cosine, constant, got 'linear'"),
        ({"augmentation": "mixup"}, "augmentation must be one of auto, crop-flip"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of auto, no, fp16, bf16"),
        ({"corruption": ("fog", "rain")}, "corruption must be one of .*fog.*, got 'rain'"),
        ({"corruption": ("fog", "fog")}, "each one once"),
        ({"severity": 6}, "severity must be one of 1, 2, 3, 4, 5, not 6"),
        ({"severity": True}, "severity must be one of 1, 2, 3, 4, 5, not True"),
        ({"corruption": "fog"}, "corruption must be a tuple of names, got 'fog'"),
        ({"corruption": 5}, "corruption must be a tuple of names, got 5"),
        ({"corruption": (["fog"],)}, "corruption must be a tuple of names"),
        ({"log_with": "tensorboard"}, "log_with must be a tuple of names"),
        ({"milestones": 20}, "milestones must be a tuple of whole numbers, got 20"),
        ({"milestones": (0.5,)}, "milestones must be a tuple of whole numbers"),
        ({"nesterov": 1}, "nesterov must be True or False, got 1"),
        ({"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        ({"epochs": "3"}, "epochs must be a whole number, got '3'"),
        ({"epochs": None}, "epochs must be a whole number, got None"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
        ({"lr": float("inf")}, "lr must be above 0 and finite"),
        ({"momentum": "0.9"}, "momentum must be a number"),
        ({"weight_decay": float("inf")}, "weight_decay must be at least 0 and finite"),
        ({"epochs": 0}, "epochs must be above 0"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"batch_size": 0}, "batch_size must be above 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be above 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"momentum": 0.0, "nesterov": True}, "above 0 with nesterov"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_arguments_that_make_no_sense(options, message):
    with pytest.raises(OptionError, match=message):
        arguments(**options)


def test_an_unknown_recipe():
    with pytest.raises(OptionError, match="unknown recipe 'long'; known: paper-vgg16, paper-resnet50, short"):
        TrainingArguments.from_recipe("long")


@pytest.mark.parametrize("options", [{"batch_size": 9, "gradient_accumulation_steps": 2}, {"batch_size": 64}])
def test_a_batch_that_cannot_be_shared_out(options, tmp_path):
    with pytest.raises(OptionError, match=r"must be a multiple of \d .* at most the number of training images, 32"):
        train(model(), splits(), tmp_path / "run", arguments(**options))
    assert not (tmp_path / "run").exists()
