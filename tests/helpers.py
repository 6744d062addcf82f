"""Small data, models and arguments for the tests of data, training, evaluation and the command line."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
import torch
from accelerate.state import AcceleratorState, PartialState
from PIL import Image

import hf_rws.models  # noqa: F401  (registers our models)
from hf_rws.data.sets import ImageSet, Splits
from hf_rws.training.arguments import TrainingArguments

CLASSES = ("apple", "bird", "car", "door")


@pytest.fixture
def on_cpu(monkeypatch):
    """Accelerate on the CPU, whatever this machine has and whatever ran before."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    """A cache of `datasets` of one's own."""
    folder = tmp_path / "datasets-cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
    return folder


def pixels(count: int, seed: int = 0, size: int = 32) -> torch.Tensor:
    """uint8 images whose colour tells their class (number modulo 4), under noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 100, (count, 3, size, size), generator=generator)
    for index in range(count):
        noise[index, index % 4 % 3] += 100 if index % 4 < 3 else -50
    return noise.clamp(0, 255).to(torch.uint8)


def image_set(count: int, seed: int = 0, size: int = 32, name: str = "toy") -> ImageSet:
    return ImageSet(pixels(count, seed, size), torch.arange(count) % len(CLASSES), CLASSES, name)


def splits(train: int = 32, validation: int = 12, test: int = 20) -> Splits:
    return Splits(image_set(train, 1), image_set(validation, 2), image_set(test, 3))


def model(name: str = "vgg16_gap", seed: int = 0, width: float = 0.05, **options) -> torch.nn.Module:
    torch.manual_seed(seed)
    created = timm.create_model(name, num_classes=len(CLASSES), width=width, **options)
    created.pretrained_cfg = dict(
        created.pretrained_cfg, input_size=(3, 32, 32), num_classes=len(CLASSES), crop_pct=1.0
    )
    return created


def arguments(**options) -> TrainingArguments:
    given = {"epochs": 2, "lr": 0.01, "batch_size": 8, "mixed_precision": "no", **options}
    return TrainingArguments.from_recipe("short", **given)


def weights(trained: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trained.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def picture(seed: int, width: int = 32, height: int = 32, mode: str = "RGB") -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(values, mode)


def write_parquet(folder: Path, features: datasets.Features, **columns_of_splits: dict) -> Path:
    """A dataset folder as on the Hub: one parquet file per split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, columns in columns_of_splits.items():
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def toy_dataset(folder: Path, image: str = "img", label: str = "label", test: str = "test", **sizes: int) -> Path:
    """The images of `pixels`, four classes; by default 40 for training and 12 in the test split."""
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=list(CLASSES))})
    counts = {"train": sizes.get("train", 40), test: sizes.get("test_images", 12)}
    content = {
        split: {image: [pil(x) for x in pixels(count, seed)], label: [i % 4 for i in range(count)]}
        for seed, (split, count) in enumerate(counts.items())
    }
    return write_parquet(folder, features, **content)
