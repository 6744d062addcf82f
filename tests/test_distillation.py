import json
import math
import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

import hf_rws
from hf_rws import _at_once
from hf_rws.bases import load_base
from hf_rws.corruptions.mixing import Mixture
from hf_rws.data.preprocessing import Normalize
from hf_rws.data.sets import ImageSet
from hf_rws.data.unlabelled import as_images
from hf_rws.distillation import loop
from hf_rws.distillation._distill import distill
from hf_rws.distillation.arguments import (
    LEAST_BATCH,
    DistillationArguments,
    clean_images,
    default_batch_size,
    default_norm_statistics,
    default_steps,
)
from hf_rws.distillation.loop import Distiller, _one_cycle
from hf_rws.distillation.teacher import Teacher
from hf_rws.errors import MismatchError, OptionError, RWSWarning
from hf_rws.layers import first_layers
from hf_rws.timm_repo import save_timm_repo
from tests import helpers
from tests.helpers import datasets_cache, on_cpu, pil, pixels, toy_dataset  # noqa: F401
from tests.models import MATRIX, create, identical, state

pytestmark = [
    pytest.mark.usefixtures("on_cpu", "datasets_cache"),
    pytest.mark.filterwarnings("ignore:the distillation did not help"),  # three steps are not many
]

ROOT = Path(__file__).resolve().parent.parent
QUICK = {"steps": 3, "batch_size": 8, "lr": 1e-3, "mixed_precision": "no", "progress": False}
IMAGES = pixels(40)


def darker(images):
    return images // 4


def base(name="vgg16_bn_gap", **options):
    """A network with random weights whose answers differ from image to image."""
    model = helpers.model(name, **options).eval()
    model.get_classifier().weight.data.mul_(3000 if name == "vgg16_bn_gap" else 30)
    return model


def last_is_best(run, look):
    """The look, with a loss that falls from step to step whatever the network learns."""
    return replace(look, loss=1 / (1 + getattr(run, "step", 0)))


def answers(model, images):
    with torch.no_grad():
        return model(Normalize.of(model)(images))


# --- the signature is what the student became ---


@pytest.mark.parametrize("name", ["vgg16_gap", "vgg16_bn_gap"])
def test_the_base_stays_and_the_patched_base_is_the_student(name, monkeypatch):
    monkeypatch.setattr(loop, "_LOOKS", 1)  # at the last state only
    real = Distiller._snapshot
    monkeypatch.setattr(Distiller, "_snapshot", lambda self, check: last_is_best(self, real(self, check)))
    model = base(name)
    before = state(model)
    layers = first_layers(model, 5)
    tensors = [tensor for layer in layers for tensor in layer]
    arguments = DistillationArguments(steps=3, batch_size=8, lr=1e-5, mixed_precision="no")
    run = Distiller(model, tensors, {}, IMAGES, Mixture(darker), arguments, progress=False)
    _, best = run.run()
    assert identical(model, before)
    signature = distill(model, IMAGES, corruption=darker, num_layers=5, bits=None, **QUICK | {"lr": 1e-5})
    assert identical(model, before)
    assert [spec.name for spec in signature.config.tensors] == [tensor.name for tensor in tensors]
    assert all(torch.equal(signature.delta(name), delta) for name, delta in best.deltas.items())
    student, touched = run.student.eval(), {tensor.name for tensor in tensors}
    for key, value in student.state_dict().items():
        changed = not torch.equal(value, before[key])
        assert changed == (key in touched) or key.endswith("num_batches_tracked"), key
    hf_rws.patch(model, signature)
    torch.testing.assert_close(answers(model, IMAGES), answers(student, IMAGES), rtol=1e-3, atol=1e-3)
    model.rws.clear()
    assert identical(model, before)


@pytest.mark.parametrize("name", MATRIX)
def test_every_architecture_of_the_engines_matrix(name, monkeypatch):
    real = Distiller._snapshot
    monkeypatch.setattr(Distiller, "_snapshot", lambda self, check: last_is_best(self, real(self, check)))
    model = create(name, options=MATRIX[name])
    for parameter in model.get_classifier().parameters() if name in ("mixer_s32_224", "vgg16_gap") else ():
        parameter.data.normal_()  # zero or tiny, so that the answers would not depend on the images
    size = MATRIX[name].get("img_size", 32)
    model.pretrained_cfg = dict(model.pretrained_cfg, input_size=(3, size, size))
    images, before = pixels(24, size=size), state(model)
    signature = distill(model, images, corruption=darker, num_layers=2, **QUICK | {"steps": 2})
    assert identical(model, before)
    layer_norms = name[:4] in ("conv", "vit_", "deit", "swin", "mixe")
    assert signature.config.method.training["optimizer"] == ("adamw" if layer_norms else "sgd")
    assert all(delta.isfinite().all() for delta in signature.deltas().values())
    assert any(delta.any() for delta in signature.deltas().values())
    hf_rws.patch(model, signature, strict=True)
    assert answers(model, images[:2]).isfinite().all()
    model.rws.clear()
    assert identical(model, before)


def test_half_precision_and_dropout():
    model = base(drop_rate=0.5).to(torch.bfloat16).train()
    wide = distill(deepcopy(model).float().eval(), IMAGES, corruption=darker, bits=None, **QUICK)
    signature = distill(model, IMAGES, corruption=darker, bits=None, **QUICK)
    assert all(torch.equal(delta, wide.delta(name)) for name, delta in signature.deltas().items())
    assert model.training
    hf_rws.patch(model, signature, strict=True)


# --- it learns ---


def test_a_few_hundred_images_make_a_real_network_robust():
    """The start of the quickstart knows CIFAR-100's classes; what it says of CIFAR-10's images is what is kept."""
    model = load_base(ROOT / "scripts" / "quickstart" / "start").model
    clean = hf_rws.data.load_split(str(ROOT / "scripts" / "quickstart" / "cifar10-sample"), "train", limit=300).images
    torch.manual_seed(0)
    signature = distill(model, clean, corruption="contrast", steps=24, batch_size=64, progress=False)
    report = signature.config.method.training
    assert (report["images"], report["held_out"], report["steps"]) == (270, 30, 24)
    agreement = report["agreement"]
    assert agreement["clean"]["before"] == 1
    assert agreement["corrupted"]["after"] > agreement["corrupted"]["before"] + 0.1
    unseen = hf_rws.data.load_split(str(ROOT / "scripts" / "quickstart" / "cifar10-sample"), limit=200).images
    wanted = answers(model, unseen).argmax(1)
    shown = hf_rws.corrupt(unseen, "contrast")
    before = (answers(model, shown).argmax(1) == wanted).float().mean()
    hf_rws.patch(model, signature)
    after = (answers(model, shown).argmax(1) == wanted).float().mean()
    assert after > before + 0.1


def test_the_best_state_is_kept(monkeypatch):
    monkeypatch.setattr(loop, "_LOOKING", math.inf)  # whatever it costs
    looks = iter([0.9, 0.5, 0.7, 0.3, 0.4, 0.6, 0.8, 0.7, 0.6, 0.2])
    real = Distiller._snapshot

    def snapshot(self, check):
        return loop.Snapshot(next(looks), 1, 1, real(self, check).deltas)

    monkeypatch.setattr(Distiller, "_snapshot", snapshot)
    model = base()
    arguments = DistillationArguments(steps=10, batch_size=8, mixed_precision="no")
    tensors = [tensor for layer in first_layers(model, 2) for tensor in layer]
    run = Distiller(model, tensors, {}, IMAGES, Mixture(darker), arguments, progress=False)
    before, best = run.run()
    assert (before.loss, best.loss) == (0.9, 0.3)
    assert run.step == 8  # three looks without progress in the second half
    late = real(run, run._held_out_images()).deltas
    assert not all(torch.equal(best.deltas[name], late[name]) for name in late)


def test_divergence_is_an_error():
    with pytest.raises(OptionError, match=r"diverged.*lower lr"):
        distill(base("vgg16_gap"), IMAGES, corruption=darker, optimizer="sgd", **QUICK | {"lr": 1e30})


# --- what is stored is what was judged ---


@pytest.mark.parametrize("bits", [None, 4, 1, "tiny"])
@pytest.mark.parametrize("quantization_aware", [False, True])
def test_the_report_is_of_what_is_stored(bits, quantization_aware):
    model = base()
    options = QUICK | {"steps": 8, "lr": 0.02, "hold_out": 0.5, "quantization_aware": quantization_aware}
    signature = distill(model, IMAGES, corruption=darker, bits=bits, **options)
    assert signature.config.method.training["quantization_aware"] is quantization_aware
    held_out = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:20]
    wanted = answers(model, IMAGES[held_out]).argmax(1)
    hf_rws.patch(model, signature)
    for kind, shown in (("clean", IMAGES), ("corrupted", darker(IMAGES))):
        agreeing = (answers(model, shown[held_out]).argmax(1) == wanted).double().mean()
        assert signature.config.method.training["agreement"][kind]["after"] == pytest.approx(float(agreeing))


def test_rounded_steps_lower_the_loss_of_what_is_stored():
    model = load_base(ROOT / "scripts" / "quickstart" / "start").model
    images = hf_rws.data.load_split(str(ROOT / "scripts" / "quickstart" / "cifar10-sample"), "train", limit=200).images
    tensors = [tensor for layer in first_layers(model, 7) for tensor in layer]
    bits = {tensor.name: 1 for tensor in tensors if tensor.kind == "weight"}
    losses = []
    for aware in (False, True):
        arguments = DistillationArguments(steps=24, batch_size=32, quantization_aware=aware, mixed_precision="no")
        run = Distiller(model, tensors, bits, images, Mixture("contrast"), arguments, progress=False)
        losses.append(run.run()[1].loss)
    assert losses[1] < 0.9 * losses[0]


def test_rounding_for_a_while_leaves_no_trace():
    model = base("vgg16_gap")
    tensors = [tensor for layer in first_layers(model, 3) for tensor in layer]
    bits = {tensor.name: 1 for tensor in tensors if tensor.kind == "weight"}
    run = Distiller(model, tensors, bits, IMAGES, Mixture(darker), DistillationArguments(steps=3), progress=False)
    images, wanted = next(run._batches())
    run.learn(images, wanted, 1e-3)
    before = state(run.student)

    def look_within():
        with run._as_stored(bits):
            for name in bits:
                magnitudes = (run._state()[name].detach() - run.start[name]).abs().flatten(1)
                assert torch.allclose(magnitudes, magnitudes[:, :1], rtol=1e-2)  # 1 bit: one magnitude for a channel
                assert not torch.equal(run._state()[name], before[name])
            raise KeyError

    with pytest.raises(KeyError):
        look_within()
    assert identical(run.student, before)


# --- draws and shares ---


def test_the_seed_decides():
    model = base()
    first, again, other = (
        distill(model, IMAGES, corruption="gaussian_noise", bits=None, seed=seed, **QUICK) for seed in (0, 0, 1)
    )
    assert all(torch.equal(first.arrays[key], again.arrays[key]) for key in first.arrays)
    assert not all(torch.equal(first.arrays[key], other.arrays[key]) for key in first.arrays)


def test_pairs_are_as_good_as_the_function_that_made_them():
    model = base()
    function = distill(model, IMAGES, corruption=darker, bits=None, **QUICK)
    pairs = distill(model, IMAGES, corrupted=darker(IMAGES), corruption="dusk", bits=None, **QUICK)
    assert pairs.name == "dusk"
    assert pairs.config.corruption.severity is None
    assert all(torch.equal(function.arrays[key], pairs.arrays[key]) for key in function.arrays)


def test_a_mixture_gives_each_image_one_of_its_parts_in_equal_shares():
    images = torch.full((30, 3, 32, 32), 100, dtype=torch.uint8)
    parts = [lambda x: x + 1, lambda x: x + 2, lambda x: x.mul_(0)]
    named = [deepcopy(part) for part in parts]
    for number, part in enumerate(named):
        part.__name__ = f"part{number}"
    mixture = Mixture(named)
    assert (mixture.names, mixture.severity) == (("part0", "part1", "part2"), None)
    shown = mixture(images, torch.arange(30), torch.Generator().manual_seed(0))
    values, counts = shown.unique(return_counts=True)
    assert values.tolist() == [0, 101, 102]
    assert (counts == 10 * 3 * 32 * 32).all()
    assert (images == 100).all()  # a part that writes into its input got a copy


def test_batches_are_clean_in_part_mirrored_with_their_answers_and_see_every_image():
    model = base("vgg16_gap")
    arguments = DistillationArguments(steps=1, batch_size=8, clean_fraction=0.25, mixed_precision="no")
    tensors = [tensor for layer in first_layers(model, 1) for tensor in layer]
    marked = IMAGES.clone()
    marked[:, :, 0, 0] = torch.arange(40, dtype=torch.uint8)[:, None]  # corners tell the image and the side
    marked[:, :, 0, 31] = 200
    run = Distiller(model, tensors, {}, marked, Mixture(lambda x: x | 1), arguments, progress=False)
    seen, mirrored = [], 0
    batches = run._batches()
    for _ in range(loop._BLOCK):
        images, wanted = next(batches)
        for position, (image, answer) in enumerate(zip(images, wanted, strict=True)):
            flipped = bool(image[0, 0, 31] < 100)
            mirrored += flipped
            original = image.flip(2) if flipped else image
            number = int(original[0, 0, 0])
            candidates = [n for n in (number, number - 1) if n >= 0 and torch.equal(marked[n] | 1, original | 1)]
            assert len(candidates) >= 1
            clean = [n for n in candidates if torch.equal(marked[n], original)]
            assert bool(clean) or position % 4  # two of eight, evenly spread
            expected = run.teacher(torch.tensor(candidates), torch.full((len(candidates),), flipped))
            assert (expected == answer).all(1).any()
            seen += candidates
    assert set(run.rows.tolist()) <= set(seen)
    assert 10 < mirrored < 54
    assert not set(run.held_out.tolist()) & set(run.rows.tolist())


def test_a_time_budget(monkeypatch):
    now = iter(range(10_000))  # every look at the clock takes a second
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(now)))
    rates = []
    learn = Distiller.learn
    monkeypatch.setattr(
        Distiller, "learn", lambda self, *given, **options: (rates.append(given[2]), learn(self, *given, **options))
    )
    with pytest.warns(RWSWarning, match=r"0.5 minutes are enough for about \d+ steps"):
        signature = distill(base(), IMAGES, corruption=darker, minutes=0.5, **QUICK | {"steps": None})
    report = signature.config.method.training
    assert (report["minutes"], report["steps"]) == (0.5, len(rates))
    assert 5 < len(rates) < 30
    assert rates[0] < max(rates) > rates[-1]  # the whole cycle, whatever the preparations took
    with pytest.raises(OptionError, match=r"0.05 minutes are too few: asking the base"):
        distill(base(), IMAGES, corruption=darker, minutes=0.05, **QUICK | {"steps": None})


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("clean_fraction", [0.0, 0.125, 0.25, 0.8])
def test_the_clean_share_is_that_of_the_batch_over_all_processes(processes, clean_fraction):
    model = base("vgg16_gap")
    arguments = DistillationArguments(
        steps=1, batch_size=8, clean_fraction=clean_fraction, flip=False, mixed_precision="no"
    )
    tensors = [tensor for layer in first_layers(model, 1) for tensor in layer]
    counts = []
    for rank in range(processes):
        black = Mixture(lambda x: x.fill_(0))
        run = Distiller(model, tensors, {}, IMAGES.clamp(1), black, arguments, progress=False)
        run.processes, run.accelerator = processes, SimpleNamespace(process_index=rank, **vars(run.accelerator))
        images, _ = next(run._batches())
        counts.append(int((images.flatten(1).amax(1) > 0).sum()))
    assert sum(counts) == round(8 * clean_fraction)
    assert max(counts) - min(counts) <= 1


def test_what_is_worse_than_nothing_is_not_kept(tmp_path):
    with pytest.warns(UserWarning, match="did not help"):
        signature = distill(base(), IMAGES, corruption=lambda images: images, bits=None, **QUICK | {"lr": 0.5})
    assert not any(delta.any() for delta in signature.deltas().values())
    training = signature.config.method.training
    assert (training["helped"], training["divergence"]["after"]) == (False, training["divergence"]["before"])
    signature.save_pretrained(tmp_path)
    assert "This one changes nothing" in (tmp_path / "README.md").read_text()


def test_the_learning_rate_runs_through_one_cycle():
    rates = [_one_cycle(i / 100) for i in range(101)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(1)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0)
    assert default_steps(10_000) > default_steps(500) > 0
    assert default_steps(500, 5) > default_steps(500)


# --- statistics of batch norms ---


@pytest.mark.parametrize(("statistics", "kept"), [("learn", False), ("keep", True), ("auto", False)])
def test_statistics_of_norms_are_learnt_or_kept(statistics, kept):
    signature = distill(base(), IMAGES, corruption=darker, norm_statistics=statistics, **QUICK)
    deltas = signature.deltas()
    running = [delta for name, delta in deltas.items() if "running_" in name]
    assert running
    assert all(bool(delta.any()) != kept for delta in running)
    assert any(delta.any() for name, delta in deltas.items() if "running_" not in name)
    training = signature.config.method.training
    assert (training["norm_statistics"], training["optimizer"]) == (("keep", "adamw") if kept else ("learn", "sgd"))


def test_statistics_are_kept_of_large_images():
    sizes = [default_norm_statistics(*size) for size in ((32, 32), (64, 64), (128, 128), (96, 256), (224, 224))]
    assert sizes == ["learn", "learn", "keep", "keep", "keep"]


# --- how many images, of what size ---


def test_batches_are_smaller_of_larger_images():
    sizes = [default_batch_size(side, side) for side in (32, 64, 128, 224, 384, 1024)]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[1], sizes[-1]) == (128, 128, LEAST_BATCH)
    assert default_batch_size(128, 256) == default_batch_size(256, 128)
    assert default_steps(500, batch_size=64) == pytest.approx(2 * default_steps(500), abs=1)  # as many images are seen
    assert default_steps(500, pixels=224**2) == default_steps(50_000, pixels=224**2) < default_steps(500)


@pytest.fixture
def run_of():
    """A distillation that has not begun."""

    def made(images, name="vgg16_gap", **given):
        model = base(name)
        tensors = [tensor for layer in first_layers(model, 2) for tensor in layer]
        arguments = DistillationArguments(**{"mixed_precision": "no"} | given)
        return Distiller(model, tensors, {}, images, Mixture(darker), arguments, progress=False)

    return made


@pytest.mark.parametrize(("side", "blocks"), [(32, 8), (64, 2), (224, 1)])
def test_blocks_are_smaller_of_larger_images(run_of, side, blocks):
    run = run_of(torch.zeros(40, 3, side, side, dtype=torch.uint8))
    assert (run.batch_size, run._block_size()) == (default_batch_size(side, side), blocks)


@pytest.mark.parametrize(("steps", "looks"), [(2, 3), (100, 3), (1000, 10)])
def test_looking_takes_a_small_part_of_the_run(run_of, steps, looks):
    run = run_of(pixels(600), steps=steps, batch_size=16)
    assert run.looks == looks
    assert len(run.held_out) == min(60, max(20, 16 * steps // 30))


def test_parts_of_a_batch_teach_what_the_whole_batch_does(monkeypatch):
    arguments = QUICK | {"corruption": darker, "bits": None}
    whole = distill(base("vgg16_gap"), IMAGES, **arguments).deltas()
    monkeypatch.setattr(_at_once, "_SMALL_LEARNED", 0)
    monkeypatch.setattr(_at_once, "_CPU_BYTES", 1)  # an image at a time
    parts = distill(base("vgg16_gap"), IMAGES, **arguments).deltas()
    assert all(torch.allclose(parts[name], whole[name], atol=1e-5) for name in whole)
    assert any(delta.any() for delta in whole.values())


def test_what_memory_decided_is_recorded(monkeypatch):
    arguments = QUICK | {"corruption": darker, "bits": None}
    assert "parts" not in distill(base(), IMAGES, **arguments).config.method.training
    monkeypatch.setattr(_at_once, "_SMALL_LEARNED", 0)
    monkeypatch.setattr(_at_once, "_CPU_BYTES", 1)
    report = distill(base(), IMAGES, **arguments).config.method.training
    assert report["parts"] == 4  # of 8: batch norms need two


@pytest.mark.parametrize("size", [1, 2, 8, 20, 128])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.25, 0.98])
def test_every_batch_has_corrupted_images_and_clean_ones_if_any_shall_be(size, fraction):
    clean = clean_images(fraction, size)
    assert clean < size
    assert bool(clean) == bool(fraction) or size == 1


def test_answers_take_memory_as_they_are_asked_for():
    asked = []

    def ask(images):
        asked.append(len(images))
        return images[:, 0, 0, :2].float()

    images = 10 * torch.arange(10, dtype=torch.uint8)[:, None, None, None] + torch.arange(2, dtype=torch.uint8)
    teacher = Teacher(ask, images)
    rows = torch.tensor([7, 2, 7, 9])
    for mirrored in (torch.tensor([False, True, True, False]), torch.tensor([True, True, False, False])):
        wanted = torch.stack([10.0 * rows + mirrored, 10.0 * rows + ~mirrored], 1)
        assert torch.equal(teacher(rows, mirrored), wanted)
    assert sum(asked) == 4  # 7 and 9 plain, 2 and 7 mirrored; they are all known then
    assert len(teacher._answers) <= 2 * sum(asked)


def test_memory_that_runs_out_is_said_once_and_costs_nothing(monkeypatch):
    arguments = QUICK | {"corruption": darker, "bits": None}
    whole = distill(base("vgg16_gap"), IMAGES, **arguments).deltas()
    forward = timm.models.VGG.forward

    def small_forward(self, images):
        if len(images) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, images)

    monkeypatch.setattr(type(base("vgg16_gap")), "forward", small_forward)
    with pytest.warns(RWSWarning, match="memory ran out: images of 32x32 pixels go through the network") as caught:
        parts = distill(base("vgg16_gap"), IMAGES, **arguments).deltas()
    assert len(caught) == 2  # in asking, and in learning
    assert all(torch.allclose(parts[name], whole[name], atol=1e-5) for name in whole)


@pytest.mark.parametrize("asked", [None, 64])
def test_batches_shrink_until_the_usual_steps_fit(monkeypatch, asked):
    monkeypatch.setattr(loop, "default_steps", lambda *given, **options: 100)
    monkeypatch.setattr(Distiller, "_begin", lambda self, look_seconds: setattr(self, "seconds", 60.0))
    seen = []

    def fraction(self):  # a step takes time by its images; there is some for 50 of the usual ones
        return min(1.0, sum(seen) / (50 * 128))

    def learn(self, images, *given, **options):
        seen.append(len(images))

    monkeypatch.setattr(Distiller, "_fraction", fraction)
    monkeypatch.setattr(Distiller, "learn", learn)
    report = distill(base(), pixels(40), minutes=1, batch_size=asked, progress=False).config.method.training
    assert seen[:2] == [asked or 128] * 2
    assert set(seen[loop._TRIED :]) == {asked or 61}
    assert (report["batch_size"], report["steps"]) == (asked or 61, len(seen))


def test_of_many_files_as_many_are_decoded_as_bring_something(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_rws.distillation.arguments._ENOUGH_IMAGES", 30)
    folder = toy_dataset(tmp_path / "toy")
    report = distill(base(), folder, corruption=darker, **QUICK).config.method.training
    assert report["images"] + report["held_out"] == 30
    report = distill(base(), folder, corruption=darker, **QUICK | {"steps": 5}).config.method.training
    assert report["images"] + report["held_out"] == 40


# --- images of every kind ---


def test_images_of_every_kind(tmp_path):
    import datasets

    hwc = IMAGES.permute(0, 2, 3, 1).contiguous().numpy()
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(IMAGES[:5]):
        pil(image).save(folder / f"{number}.png")
    table = datasets.Dataset.from_dict({"image": [pil(x) for x in IMAGES[:5]]}).cast_column("image", datasets.Image())
    for given, count in (
        (IMAGES, 40),
        (IMAGES / 255, 40),
        (hwc, 40),
        (ImageSet(IMAGES, torch.zeros(40, dtype=torch.int64), ("a",)), 40),
        ([IMAGES[:30], IMAGES[30:]], 40),
        (((batch, torch.zeros(len(batch))) for batch in IMAGES.split(7)), 40),
        ([pil(x) for x in IMAGES], 40),
        (list(hwc), 40),
        (folder, 5),
        (str(folder), 5),
        (table, 5),
    ):
        found = as_images(given, side=32)
        assert found.dtype == torch.uint8
        assert torch.equal(found, IMAGES[:count]), type(given)


def test_pictures_are_resized_and_cropped(tmp_path):
    helpers.picture(0, 60, 40).save(tmp_path / "a.png")
    helpers.picture(1, 32, 90).save(tmp_path / "b.png")
    assert as_images(tmp_path, side=32).shape == (2, 3, 32, 32)
    assert as_images([helpers.picture(0, 60, 40)], side=32).shape == (1, 3, 32, 32)


def test_the_training_split_of_a_dataset_is_used(tmp_path):
    assert len(as_images(toy_dataset(tmp_path / "toy"), side=32)) == 40


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": IMAGES[:7]}, "7 images are too few"),
        ({"images": pixels(40, size=48)}, r"takes images of 3 x 32 x 32, these are 3 x 48 x 48"),
        ({"images": IMAGES[:, :1]}, "takes images of 3 x 32 x 32"),
        ({"images": IMAGES.int()}, "must be uint8"),
        ({"images": IMAGES.float()}, r"must lie in \[0, 1\]"),
        ({"images": 3}, "an array, a tensor, a dataset"),
        ({"images": {"a": IMAGES}}, "an array, a tensor, a dataset"),
        ({"images": []}, "there are none"),
        ({"images": [1, 2]}, "a batch must be an array"),
        ({"corruption": lambda x: x[:, :, :16]}, r"custom must give back uint8 images of the shape .*, it gave"),
        ({"corruption": lambda x: x.float()}, "it gave torch.float32"),
        ({"corruption": lambda x: x.numpy()}, "it gave ndarray"),
        ({"corruption": "frog"}, "Did you mean"),
        ({"corruption": []}, "at least one"),
        ({"corruption": ["fog", "fog"]}, "each once"),
        ({"corruption": [3]}, "a name or a callable"),
        ({"corruption": 5}, "a callable on images, or a list of these, got 5"),
        ({"severity": 6}, "severity must be"),
        ({"corrupted": IMAGES[:30]}, "40 clean images but 30 corrupted"),
        ({"corrupted": IMAGES, "corruption": darker}, "what to call them"),
        ({"num_layers": 40}, "num_layers must be 1 to 13"),
        ({"bits": 9}, "not a bit width"),
        ({"steps": 0}, "steps must be above 0"),
        ({"steps": 3, "minutes": 1}, "steps or minutes"),
        ({"clean_fraction": 1}, "clean_fraction must be"),
        ({"hold_out": -0.1}, "hold_out must be"),
        ({"hold_out": 0.99}, "hold_out 0.99 leaves none of the 40 images"),
        ({"clean_fraction": 0.97}, "leaves no corrupted image in 8"),
        ({"corrupted": IMAGES, "corruption": None}, "what to call them"),
        ({"steps": "5"}, "steps must be a whole number"),
        ({"batch_size": 8.0}, "batch_size must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"lr": True}, "lr must be a number"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"optimizer": "lion"}, "optimizer must be one of auto, sgd, adamw"),
        ({"norm_statistics": "freeze"}, "norm_statistics must be one of auto, learn, keep, got 'freeze'"),
        ({"seed": -1}, "seed must be"),
        ({"mixed_precision": "fp12"}, "refuses"),
    ],
)
def test_bad_input(options, message):
    model = base()
    before = state(model)
    given = {"images": IMAGES, "corruption": "contrast", **QUICK, **options}
    with pytest.raises(OptionError, match=message):
        distill(model, given.pop("images"), **given)
    assert identical(model, before)


def test_bases_that_cannot_be_distilled(tmp_path):
    model = base()
    signature = distill(model, IMAGES, corruption=darker, **QUICK)
    hf_rws.patch(model, signature)
    with pytest.raises(OptionError, match="carries signatures"):
        distill(model, IMAGES, **QUICK)
    model.rws.clear()
    again = distill(model, IMAGES, corruption=darker, **QUICK)
    assert again.config.base_model == signature.config.base_model
    silent = base()
    silent.pretrained_cfg = dict(silent.pretrained_cfg, input_size=None)
    with pytest.raises(OptionError, match="input_size"):
        distill(silent, IMAGES, **QUICK)
    with pytest.raises(OptionError, match="the base is on the meta device; load its weights first"):
        distill(base().to("meta"), IMAGES, **QUICK)
    with pytest.raises(OptionError, match="this Sequential has no layers with weights"):
        distill(torch.nn.Sequential(), IMAGES, **QUICK)
    with pytest.raises(hf_rws.errors.NotFoundError):
        distill("no-such-model", IMAGES, **QUICK)
    with pytest.raises(MismatchError):
        hf_rws.patch(base("vgg16_gap"), signature)


# --- files and commands ---


def test_saved_loaded_and_put_on(tmp_path):
    model = base()
    save_timm_repo(model, tmp_path / "base")
    signature = distill(tmp_path / "base", IMAGES, corruption=["fog", darker], dataset="toy", bits=4, **QUICK)
    assert signature.config.corruption.names == ("fog", "darker")
    assert signature.config.method.kind == "distilled"
    signature.save_pretrained(tmp_path / "rws-mix")
    config = json.loads((tmp_path / "rws-mix" / "config.json").read_text())
    assert config["method"]["kind"] == "distilled"
    assert config["method"]["projection"] is None
    assert config["method"]["training"]["agreement"].keys() == {"clean", "corrupted"}
    assert "rws-distilled" in (tmp_path / "rws-mix" / "README.md").read_text()
    loaded = hf_rws.load_patched(tmp_path / "base", [tmp_path / "rws-mix"], strict=True)
    assert loaded.rws.scales == {"rws-mix": 1.0}


COMMAND = ["--steps", "2", "--batch-size", "8", "--corruption", "contrast"]


def test_the_command(tmp_path, capsys, monkeypatch):
    from hf_rws import cli

    save_timm_repo(base(), tmp_path / "base")
    dataset = toy_dataset(tmp_path / "toy")
    command = ["distill", "--base", str(tmp_path / "base"), "--images", str(dataset), *COMMAND]
    with pytest.raises(SystemExit) as ended:
        cli.run(cli.cli, [*command, "--output-dir", str(tmp_path / "rws"), "--limit", "30", "--bits", "small"])
    streams = capsys.readouterr()
    assert ended.value.code == 0, streams.err
    loaded = hf_rws.Signature.from_pretrained(tmp_path / "rws")
    assert streams.out == f"folder: {tmp_path / 'rws'}\nnbytes: {loaded.nbytes}\n"
    assert "agree with the base" in streams.err
    assert loaded.config.corruption.dataset == "toy"
    assert loaded.config.method.training["images"] == 27
    for wrong, code in ((command, 2), ([*command, "--corruption", "all", "--output-dir", "x"], 2)):
        with pytest.raises(SystemExit) as ended:
            cli.run(cli.cli, wrong)
        assert ended.value.code == code


def test_the_command_keeps_what_cannot_be_saved(tmp_path, capsys, monkeypatch):
    from hf_rws import cli

    save, refused = hf_rws.Signature.save_pretrained, set()

    def refuse(self, folder, **options):
        if Path(folder).resolve() in refused:
            raise hf_rws.errors.AccessError(f"cannot save the signature in {folder}: No space left on device")
        return save(self, folder, **options)

    monkeypatch.setattr(hf_rws.Signature, "save_pretrained", refuse)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    save_timm_repo(base(), tmp_path / "base")
    toy_dataset(tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    for full, kept in (["full/rws"], "rws"), (["full/rws", "rws-2"], "temporary/rws"):
        refused.update(Path(folder).resolve() for folder in full)
        with pytest.raises(SystemExit) as ended:
            cli.run(cli.cli, ["distill", "--base", "base", "--images", "toy", *COMMAND, "--output-dir", "full/rws"])
        (folder,) = tmp_path.glob(kept)
        assert ended.value.code == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: cannot save the signature in full/rws: No space left on device; the signature ")
        assert said.endswith(folder.name)
        assert hf_rws.Signature.from_pretrained(folder).config.method.kind == "distilled"


def test_the_command_keeps_what_cannot_be_pushed(tmp_path, capsys, monkeypatch):
    from hf_rws import cli

    def run(*options):
        with pytest.raises(SystemExit) as ended:
            cli.run(cli.cli, ["distill", "--base", "base", "--images", "toy", *COMMAND, *options])
        return ended.value.code, capsys.readouterr().err

    def refuse(self, *arguments, **options):
        raise hf_rws.errors.AccessError("the token may only read")

    monkeypatch.chdir(tmp_path)
    save_timm_repo(base(), "base")
    toy_dataset(tmp_path / "toy")
    monkeypatch.setattr(hf_rws.Signature, "push_to_hub", refuse)
    for folder in ("rws-fog", "rws-fog-2"):
        code, err = run("--push-to", "user/rws-fog")
        assert (code, f"may only read; the signature is in {folder}: hf-rws push" in err) == (1, True)
        assert hf_rws.Signature.from_pretrained(folder).config.method.kind == "distilled"
    code, err = run("--push-to", "user/rws-fog", "--output-dir", "mine")
    assert (code, "the signature is in mine" in err) == (1, True)
    assert not Path("rws-fog-3").exists()
    monkeypatch.setattr("hf_rws.bases.load_base", None)  # what follows is found before anything is loaded
    Path("file").touch()
    assert run("--push-to", "no id")[0] == 1
    assert run("--output-dir", "file")[0] == 1


# --- models of other kinds ---


def test_a_base_without_scores_of_classes_is_told_before_a_step():
    features = timm.create_model("resnet18", features_only=True, channels=(8, 8, 8, 8))
    features.pretrained_cfg = dict(features.pretrained_cfg, input_size=(3, 32, 32))
    with pytest.raises(OptionError, match="this FeatureListNet gives no scores of classes"):
        distill(features, IMAGES, **QUICK)


def test_a_base_of_one_channel_learns_from_grey_images():
    grey = timm.create_model("resnet18", in_chans=1, num_classes=4, channels=(8, 8, 8, 8)).eval()
    grey.pretrained_cfg = dict(grey.pretrained_cfg, input_size=(3, 32, 32))
    signature = distill(grey, IMAGES, **QUICK)
    hf_rws.patch(grey, signature)
    assert signature.deltas()["conv1.weight"].shape == grey.conv1.weight.shape == (64, 1, 7, 7)
