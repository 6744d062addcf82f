"""The main job in one command: a small study of real images on a CPU, with a table and a picture."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_rws import _progress, plots
from hf_rws.corruptions import corrupt
from hf_rws.data.datasets import load_splits
from hf_rws.data.sets import ImageSet, Splits
from hf_rws.errors import MissingExtraError
from hf_rws.evaluation import predict
from hf_rws.loading import load_patched
from hf_rws.study.layout import BASE, signature_name
from hf_rws.study.measuring import Study
from hf_rws.study.run import create_start, run_study
from hf_rws.training.trainer import TrainingArguments

_CORRUPTIONS = ("fog", "gaussian_noise", "contrast")
_RECIPE = TrainingArguments.from_recipe("short", epochs=3, lr=0.01)
_SHOWN_IMAGES = 7
_PICTURE = "overview.png"

# A checkout has a sample of CIFAR-10 and a small network trained on CIFAR-100; an installed wheel has neither.
_EMBEDDED = Path(__file__).resolve().parents[2] / "scripts" / "quickstart"
_HUB_DATASET, _HUB_START = "uoft-cs/cifar10", "resnet18.a1_in1k"
_DISTILLED_IMAGES = 500
_TRAIN_LIMIT, _TEST_LIMIT = 3600, 1000  # of other datasets, drawn at random: a few minutes, not a result


def quickstart(
    output_dir: str | Path, *, corruptions: Sequence[str] | None = None, dataset: str | None = None
) -> tuple[Study, str]:
    """Make a base robust from a few hundred images, then in the paper's way; measure both, and draw a picture.

    Without a `dataset` it uses the sample of CIFAR-10 and the start that a checkout holds, and needs no network; where
    they are not beside the source, CIFAR-10 and timm's ImageNet ResNet-18 from the Hub.

    Args:
        output_dir: Folder for `base/`, `rws-fog-distilled/`, `rws-fog/`, ..., `study.json` and the picture. A second
            start goes on where the first one stopped.
        corruptions: Names; fog, gaussian_noise and contrast by default.
        dataset: Hub id or folder of another dataset, of which a random part is used.

    Returns:
        The study, and its table and what to do next as text.
    """
    corruptions = tuple(corruptions or _CORRUPTIONS)
    embedded = _EMBEDDED.is_dir()
    data = _data(dataset, embedded)
    start = _start(data, embedded)
    settings: dict[str, Any] = {
        "corruptions": corruptions, "distilled": _DISTILLED_IMAGES, "notes": {"dataset": data.train.name}
    }  # fmt: skip
    first = run_study(start, data, output_dir, _RECIPE, robust=False, scale_curve=False, **settings)
    _progress.write(f"\ndistilled from {_DISTILLED_IMAGES} images without labels:\n{first.to_markdown()}\n")
    study = run_study(_start(data, embedded), data, output_dir, _RECIPE, **settings)
    lines = [study.to_markdown(), ""]
    try:
        lines.append(f"picture: {_draw(study, data.test)}")
    except MissingExtraError as error:
        lines.append(f"no picture: {error}")
    first_signature = signature_name(corruptions[0], "distilled")
    lines.append(
        f"try it: cd {shlex.quote(str(output_dir))} && {shlex.quote(sys.executable)} -c 'import hf_rws; "
        f'print(hf_rws.load_patched("base", ["{first_signature}"]).rws)\''
    )
    return study, "\n".join(lines)


def _data(dataset: str | None, embedded: bool) -> Splits:
    if dataset is None and embedded:
        return load_splits(str(_EMBEDDED / "cifar10-sample"))
    data = load_splits(dataset or _HUB_DATASET, limit=_TRAIN_LIMIT)
    shown = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:_TEST_LIMIT]
    return replace(data, test=data.test.subset(shown.sort().values))


def _start(data: Splits, embedded: bool) -> nn.Module:
    if embedded:
        return create_start(_EMBEDDED / "start", data)
    return create_start(_HUB_START, data, pretrained=True)


def _draw(study: Study, test: ImageSet) -> Path:
    """The first test images and what the model makes of them, before and after each distilled patch."""
    shown = test.subset(slice(_SHOWN_IMAGES))
    signatures = {row.corruption: signature_name(row.corruption, "distilled") for row in study.rows}
    model = load_patched(study.folder / BASE, [study.folder / name for name in signatures.values()])

    def names(images: ImageSet) -> list[str]:
        return [test.classes[label] for label in predict(model, images.images).tolist()]

    rows = []
    for row in study.rows:
        images = replace(shown, images=corrupt(shown.images, row.corruption, row.severity))
        model.rws.clear()
        before, name = names(images), signatures[row.corruption]
        model.rws.set({name: 1.0})
        curve = (model.rws.signatures[name].config.metrics or {}).get("scale_curve", ())
        rows.append(plots.OverviewRow(row.corruption, images.images, before, names(images), curve))
    model.rws.clear()
    labels = [test.classes[label] for label in shown.labels.tolist()]
    path = study.folder / _PICTURE
    plots.overview(shown.images, labels, names(shown), rows, save=path)
    return path
