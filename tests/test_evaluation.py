import csv
import io
from contextlib import nullcontext

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import normalize

from hf_rws import corrupt, evaluate
from hf_rws.copies import write_corrupted_copy
from hf_rws.corruptions import CORRUPTIONS
from hf_rws.data import load_split
from hf_rws.data.preprocessing import Normalize
from hf_rws.data.sets import ImageSet
from hf_rws.errors import OptionError, RWSWarning
from hf_rws.evaluation import Evaluation, Row, _evaluate, accuracy, predict
from hf_rws.evaluation._evaluate import _as_image_set
from hf_rws.evaluation.copied import copied_by
from hf_rws.layers import evaluating
from tests.helpers import (  # noqa: F401
    CLASSES,
    datasets_cache,
    image_set,
    model,
    picture,
    pil,
    pixels,
    toy_dataset,
)
from tests.models import DEVICES

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


class Reddest(nn.Module):
    """Answers with the channel that is brightest, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        return images.mean((2, 3)) * self.weight


def _by_hand(images):
    return images.float().mean((2, 3)).argmax(1)


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_accuracy_is_a_count_by_hand(batch_size):
    images = image_set(30)
    expected = (_by_hand(images.images) == images.labels).sum().item() / 30
    assert 0 < expected < 1
    assert accuracy(Reddest(), images, batch_size=batch_size) == pytest.approx(expected)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_an_evaluation_is_the_same_at_any_batch_size(batch_size):
    created, images = model("vgg16_bn_gap"), image_set(20)
    wanted, found = (
        evaluate(created, images, ["fog", "gaussian_noise"], **o) for o in ({}, {"batch_size": batch_size})
    )
    assert all(torch.equal(one.right, other.right) for one, other in zip(wanted.rows, found.rows, strict=True))


def test_never_more_images_than_a_cpu_takes_at_once(monkeypatch):
    """Of 100 images of 224 px in one array, 41 are corrupted, normalised and answered at a time."""
    images = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(100, 3, 224, 224)
    shown, asked = [], Reddest()
    monkeypatch.setattr(_evaluate, "corrupt", lambda part, *_, **__: shown.append(len(part)) or part)
    evaluate(asked, (images, torch.zeros(100, dtype=torch.int64)), "fog", clean=False)
    assert shown == [41, 41, 18]
    assert [count for count in asked.batches if count > 1] == shown  # one image may be looked at before


def test_memory_that_runs_out_halves_the_number_once_for_all_rows():
    created = Reddest()
    forward = created.forward
    created.forward = lambda images: forward(images) if len(images) <= 3 else _no_memory()
    with pytest.warns(RWSWarning, match="3 at once from now on") as given:
        found = evaluate(created, image_set(12), ["fog", "contrast"])
    assert len(given) == 1
    assert created.batches == [3] * 12
    assert all(
        torch.equal(one.right, other.right)
        for one, other in zip(evaluate(Reddest(), image_set(12), ["fog", "contrast"]).rows, found.rows, strict=True)
    )


def _no_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_predictions_are_int64_on_the_cpu_in_order():
    images = pixels(11)
    found = predict(Reddest(), images, batch_size=4)
    assert found.dtype == torch.int64
    assert torch.equal(found, _by_hand(images))
    assert predict(Reddest(), images[:0]).shape == (0,)


def test_normalisation_is_torchvisions():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    expected = torch.stack([normalize(image.float() / 255, MEAN, STD) for image in images])
    found = Normalize(MEAN, STD)(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_model_is_normalised_for_by_its_own_config():
    created = model()
    created.pretrained_cfg = dict(created.pretrained_cfg, mean=MEAN, std=STD)
    images = pixels(6)
    with torch.inference_mode():
        expected = created.eval()(Normalize(MEAN, STD)(images)).argmax(1)
    assert torch.equal(predict(created, images), expected)


def test_a_model_without_a_config_is_an_error():
    with pytest.raises(OptionError, match="pretrained_cfg"):
        predict(nn.Conv2d(3, 4, 1), pixels(2))


def test_half_precision_models_are_run_in_half_precision():
    images = pixels(8)
    created = model().bfloat16()
    assert predict(created, images).shape == (8,)
    assert next(created.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("training", [True, False])
def test_every_module_gets_its_mode_back(training):
    created = model("vgg16_bn_gap").train(training)
    created.features[1].train(not training)
    before = [module.training for module in created.modules()]
    statistics = created.features[1].running_mean.clone()
    accuracy(created, image_set(8))
    assert [module.training for module in created.modules()] == before
    assert torch.equal(created.features[1].running_mean, statistics)
    with evaluating(created):
        assert not any(module.training for module in created.modules())
    assert [module.training for module in created.modules()] == before


def test_rows_are_clean_then_every_corruption_at_every_severity():
    images = image_set(9)
    found = evaluate(Reddest(), images, ["fog", "contrast"], severities=[1, 5], seed=3, batch_size=4)
    assert [(row.corruption, row.severity) for row in found.rows] == [
        ("clean", 0), ("fog", 1), ("fog", 5), ("contrast", 1), ("contrast", 5),
    ]  # fmt: skip
    for row in found.rows:
        shown = corrupt(images.images, row.corruption, row.severity, seed=3) if row.severity else images.images
        assert row.accuracy == pytest.approx((_by_hand(shown) == images.labels).double().mean().item())
        assert row.n == 9


@pytest.mark.parametrize("pictures", [True, False])
def test_all_means_all_and_one_name_is_enough(pictures, monkeypatch, tmp_path):
    images = image_set(2)
    if pictures:
        for number in range(1, 6):
            Image.new("RGB", (300, 300), (40 * number, 90, 200)).save(tmp_path / f"frost{number}.png")
    monkeypatch.setenv("HF_RWS_FROST", str(tmp_path))
    with nullcontext() if pictures else pytest.warns(UserWarning, match="frost is left out"):
        names = [row.corruption for row in evaluate(Reddest(), images).rows]
    assert names == ["clean", *(name for name in CORRUPTIONS if pictures or name != "frost")]
    assert [row.corruption for row in evaluate(Reddest(), images, "fog", clean=False).rows] == ["fog"]


def test_limit_takes_the_first_images():
    images = image_set(9)
    found = evaluate(Reddest(), images, "gaussian_noise", limit=5)
    assert found == evaluate(Reddest(), images.subset(slice(5)), "gaussian_noise")
    assert {row.n for row in found.rows} == {5}


TABLE = Evaluation((Row("clean", 0, 0.75, 8), Row("fog", 1, 0.5, 8), Row("fog", 5, 0.25, 8), Row("snow", 5, 0.0, 8)))


def test_means():
    assert TABLE["clean"] == 0.75
    assert TABLE["fog"] == 0.375
    assert TABLE.mean() == 0.25
    with pytest.raises(OptionError, match="no row 'fgo'; there are: clean, fog, snow"):
        TABLE["fgo"]


def test_markdown():
    assert TABLE.to_markdown().splitlines() == [
        "| corruption | severity | accuracy | n |",
        "|---|---|---|---|",
        "| clean |  | 75.0 | 8 |",
        "| fog | 1 | 50.0 | 8 |",
        "| fog | 5 | 25.0 | 8 |",
        "| snow | 5 | 0.0 | 8 |",
        "| mean of corruptions |  | 25.0 |  |",
    ]
    assert "mean" not in Evaluation(TABLE.rows[:1]).to_markdown()


def test_csv_reads_back():
    rows = csv.DictReader(io.StringIO(TABLE.to_csv()))
    read = (Row(row["corruption"], int(row["severity"]), float(row["accuracy"]), int(row["n"])) for row in rows)
    assert Evaluation(tuple(read)) == TABLE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruptions": ["fog", "rain"]}, "Unknown corruption 'rain'.*Known:.*fog"),
        ({"corruptions": "rain"}, "Unknown corruption 'rain'"),
        ({"severities": [5, 6]}, "severity must be one of 1, 2, 3, 4, 5, not 6"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"dataset": 3}, "dataset must be a name, an ImageSet, a Benchmark or a pair"),
        ({"dataset": (pixels(3).float(), torch.zeros(3))}, r"uint8 of shape \(N, 3, H, W\), got torch.float32"),
        ({"dataset": (pixels(3).permute(0, 2, 3, 1), torch.zeros(3))}, "uint8 of shape"),
        ({"dataset": (pixels(3), torch.zeros(2))}, "3 images but labels of shape"),
        ({"dataset": (pixels(0), torch.zeros(0))}, "no images"),
        ({"dataset": (pixels(3), torch.zeros(3))}, "labels must be class numbers"),
        ({"dataset": (pixels(3), torch.tensor([0, -1, 2]))}, "labels must be 0 or more; there are labels from -1 to 2"),
        ({"dataset": (pixels(2), ["a", "b"])}, "must be arrays or tensors of numbers"),
        ({"dataset": (pixels(2), np.array(["a", "b"]))}, "must be arrays or tensors of numbers"),
        ({"severities": 5}, "severities must be a list, got 5"),
        ({"corruptions": 5}, "corruptions must be a list, got 5"),
    ],
)
def test_errors_come_before_the_first_forward_pass(options, message):
    asked = Reddest()
    with pytest.raises(OptionError, match=message):
        evaluate(asked, **{"dataset": image_set(4), "corruptions": "fog", **options})
    assert asked.batches == []


def test_a_model_must_know_all_classes():
    asked = Reddest()
    asked.num_classes = 3
    with pytest.raises(OptionError, match="toy has 4 classes, the model knows 3"):
        evaluate(asked, image_set(4), "fog")


def test_labels_must_be_those_that_the_model_knows():
    for first in (100, -1):
        labels = torch.arange(first, first + 4)
        with pytest.raises(OptionError, match=f"0 to 3, as the model knows 4 classes; there are labels from {first} "):
            evaluate(model(), (pixels(4), labels), "fog")


@pytest.mark.parametrize("device", DEVICES)
def test_labels_may_lie_where_the_model_does(device):
    images = image_set(8)
    there = ImageSet(images.images.to(device), images.labels.to(device), images.classes)
    created = model().to(device)
    assert evaluate(created, there, "contrast") == evaluate(created, (there.images, there.labels), "contrast")
    assert accuracy(created, there) == accuracy(created, images)


def test_images_of_a_size_that_the_model_cannot_take():
    fixed = timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=24, depth=1, num_classes=4)
    with pytest.raises(OptionError, match=r"cannot take images of shape \(4, 3, 32, 32\): .*64"):
        evaluate(fixed, image_set(4), "fog")


@pytest.mark.parametrize(
    ("given", "message"),
    [(model().to("meta"), "the model is on the meta device"), (nn.Sequential(), "this Sequential has no weights")],
)
def test_a_model_without_weights(given, message):
    with pytest.raises(OptionError, match=message):
        evaluate(given, image_set(4), "fog")


@pytest.mark.usefixtures("datasets_cache")
def test_what_a_dataset_may_be(tmp_path):
    folder = toy_dataset(tmp_path / "toy", test_images=8)
    expected = ImageSet(pixels(8, seed=1), torch.arange(8) % 4, CLASSES, "toy")
    for given in (str(folder), folder):
        found, preprocessing = _as_image_set(model(), given, None, 0, {})
        assert preprocessing == "32 px, bilinear, crop 1 (the model's own)"
        assert torch.equal(found.images, expected.images)
        assert (found.labels.tolist(), found.classes, found.name) == (expected.labels.tolist(), CLASSES, "toy")
    pair, preprocessing = _as_image_set(model(), (expected.images.numpy(), expected.labels.tolist()), None, 0, {})
    assert preprocessing == "32x32, as given"
    created = model()
    results = {evaluate(created, given, "fog").rows for given in (str(folder), expected, pair)}
    assert len(results) == 1


# --- how images come to their size ---


@pytest.mark.usefixtures("datasets_cache")
def test_a_dataset_by_name_comes_to_the_models_own_size(tmp_path):
    """As timm's own transform brings it there; mixed sizes, too."""
    folder = tmp_path / "photos" / "test"
    sizes = [(40, 32), (33, 50), (64, 64), (32, 32)]
    for number, (width, height) in enumerate(sizes):
        (folder / CLASSES[number]).mkdir(parents=True)
        picture(number, width, height).save(folder / CLASSES[number] / "a.png")
    created = model()
    created.pretrained_cfg = dict(created.pretrained_cfg, crop_pct=0.8)
    found = evaluate(created, tmp_path / "photos", "contrast")
    assert found.preprocessing == "32 px, bilinear, crop 0.8 (the model's own)"
    config = timm.data.resolve_model_data_config(created)
    transform = timm.data.create_transform(**config)
    with torch.inference_mode():
        shown = torch.stack([transform(picture(number, *size)) for number, size in enumerate(sizes)])
        assert found["clean"] == (created.eval()(shown).argmax(1) == torch.arange(4)).double().mean()
    assert f"images: {found.preprocessing}" in found.to_markdown()
    assert {record["preprocessing"] for record in found.records()} == {found.preprocessing}
    plain = evaluate(created, tmp_path / "photos", [], image_size=40)
    assert plain.preprocessing == "40 px, bicubic, crop 1"


@pytest.mark.usefixtures("datasets_cache")
def test_a_split_that_is_named_is_measured_and_said(tmp_path):
    folder = toy_dataset(tmp_path / "toy")
    found = evaluate(model(), folder, [], test_split="train")
    assert (found.rows[0].n, found.notes) == (40, ("split 'train'",))
    assert evaluate(model(), folder, []).notes == ()


@pytest.mark.parametrize("given", [image_set(4), (pixels(4), [0, 1, 2, 3])])
def test_options_of_reading_are_refused_where_nothing_is_read(given):
    with pytest.raises(OptionError, match="image_size, label_column: only for a dataset that is read"):
        evaluate(model(), given, [], image_size=32, label_column="fine")


@pytest.mark.usefixtures("datasets_cache")
def test_images_of_a_corrupted_copy_are_not_called_clean(tmp_path):
    folder = toy_dataset(tmp_path / "toy", train=4, test_images=8)
    copy = write_corrupted_copy(str(folder), tmp_path / "toy-fog", "fog", severity=3)
    created = model()
    found = evaluate(created, copy, [])
    assert [(row.corruption, row.severity) for row in found.rows] == [("fog (copy)", 3)]
    assert (
        found["fog (copy)", 3] == evaluate(created, folder, "fog", severities=[3], clean=False).mean() == found.mean()
    )
    (copy / "corruption.json").write_text('{"corruption": 5}')  # of something else
    assert evaluate(created, copy, []).rows[0].corruption == "clean"


# --- models of other kinds ---


def grey(images):
    return torch.stack([torch.from_numpy(np.array(pil(image).convert("L"))) for image in images])


def test_a_model_of_one_channel_is_shown_grey_images():
    """Pillow's grey, normalised by the mean of what RGB is normalised by: as timm's loader does it."""
    created = timm.create_model("resnet18", in_chans=1, num_classes=4, channels=(8, 8, 8, 8)).eval()
    images = pixels(16, size=40)
    mean, std = (sum(created.pretrained_cfg[key]) / 3 for key in ("mean", "std"))
    with torch.inference_mode():
        expected = created((grey(images)[:, None] / 255 - mean) / std).argmax(1)
    assert torch.equal(predict(created, images), expected)
    assert evaluate(created, (images, expected), []).rows[0].accuracy == 1


def test_what_gives_no_classes_or_takes_other_channels_is_told():
    small = {"channels": (8, 8, 8, 8)}
    features = timm.create_model("resnet18", features_only=True, **small)
    for given, message in (
        (timm.create_model("resnet18", num_classes=0, **small), r"this ResNet has no classifier \(num_classes=0\)"),
        (features, "this FeatureListNet gives no scores of classes, of shape .* but list"),
        (
            timm.create_model("resnet18", in_chans=4, num_classes=4, **small),
            "takes images of 4 channels; only models for 3 or 1",
        ),
    ):
        for call in (lambda one: evaluate(one, image_set(4), []), lambda one: predict(one, pixels(4))):
            with pytest.raises(OptionError, match=message):
                call(given)


# --- devices ---


@pytest.mark.parametrize("device", ["auto", *DEVICES])
def test_the_model_comes_back_from_the_device(device):
    created, images = model(), image_set(8)
    assert evaluate(created, images, "contrast", device=device) == evaluate(created, images, "contrast")
    assert next(created.parameters()).device == torch.device("cpu")
    with pytest.raises(OptionError, match="there is no device 'cuda:99' here"):
        evaluate(created, images, [], device="cuda:99")


# --- part of a dataset ---


@pytest.mark.usefixtures("datasets_cache")
def test_a_limit_draws_at_random_and_says_so(tmp_path):
    """Many datasets are sorted by class, so the first images would be of one."""
    folder = tmp_path / "sorted" / "test"
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            picture(10 * label + number).save(folder / name / f"{number}.png")
    asked = model()
    whole, part = (evaluate(asked, tmp_path / "sorted", [], limit=limit) for limit in (None, 12))
    assert (whole.rows[0].n, part.rows[0].n) == (40, 12)
    assert (whole.notes, part.notes) == ((), ("12 images drawn at random",))
    labels = load_split(str(tmp_path / "sorted"), limit=12).labels
    assert len(set(labels.tolist())) == 4


@pytest.mark.usefixtures("datasets_cache")
def test_a_limit_that_draws_nothing_is_not_said_and_one_that_does_always(tmp_path):
    folder = tmp_path / "photos" / "test"
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        picture(number).save(folder / name / "a.png")
        (folder / name / "b.png").write_bytes(b"broken")
    asked, photos = model(), tmp_path / "photos"
    with pytest.warns(RWSWarning, match="left out"):
        whole = evaluate(asked, photos, [], limit=8, skip_broken=True)
    with pytest.warns(RWSWarning, match="left out"):
        part = evaluate(asked, photos, [], limit=7, skip_broken=True)
    assert (whole.rows[0].n, whole.notes) == (4, ())
    assert part.notes == (f"{part.rows[0].n} images drawn at random",)
    assert part.rows[0].n < 7


class ConnectError(Exception):
    """What the Hub's HTTP client raises is not an `OSError`."""


@pytest.mark.parametrize("error", [ConnectError("refused"), FileNotFoundError("none"), PermissionError(13, "closed")])
def test_where_the_hub_cannot_say_what_a_copy_is_it_is_measured_all_the_same(monkeypatch, error):
    asked = []

    def refuse(*_):
        asked.append(1)
        raise error

    monkeypatch.setattr("datasets.DownloadManager.download", refuse)
    assert copied_by("user/photos") is None
    assert asked == [1]


@pytest.mark.usefixtures("datasets_cache")
def test_without_a_clean_row_nobody_is_asked_for_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(_evaluate, "copied_by", None)
    assert len(evaluate(model(), toy_dataset(tmp_path / "toy"), "contrast", clean=False).rows) == 1


def test_what_is_no_model_is_told_how_to_become_one():
    with pytest.raises(OptionError, match="give a model, not 'user/base': load_patched loads one"):
        evaluate("user/base", "user/photos")
