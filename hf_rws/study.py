"""A study: one start, a standard model, robust models, their signatures, and what they are worth."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import nn
from tqdm.auto import tqdm

from hf_rws import cards
from hf_rws.corruptions import corrupt
from hf_rws.data import ImageSet, Splits
from hf_rws.errors import OptionError
from hf_rws.evaluation import accuracy
from hf_rws.extraction import extract
from hf_rws.format import PROJECTIONS
from hf_rws.layers import first_layers, weights_digest
from hf_rws.loading import load_base, named_model
from hf_rws.models import is_ours, save_timm_repo
from hf_rws.patching import patch
from hf_rws.quantization import Bits, resolve_bits
from hf_rws.signature import Signature
from hf_rws.training import TrainingArguments, TrainingResult, train

_WHO = ("standard", "patched", "robust")
START, BASE = "pretrained", "base"
CURVE_SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True)
class StudyRow:
    """One corruption of a study; accuracies in [0, 1] on the test split, sizes in bytes.

    TA is the accuracy on clean images, RA under the corruption.
    """

    corruption: str
    severity: int
    n: int
    standard_ta: float
    standard_ra: float
    patched_ta: float
    patched_ra: float
    robust_ta: float
    robust_ra: float
    signature_nbytes: int
    base_nbytes: int


@dataclass(frozen=True)
class Study:
    """The rows of a study, its folder, and the recipe of its trainings in words."""

    folder: Path
    rows: tuple[StudyRow, ...]
    recipe: str = ""

    def recovery(self) -> float:
        """(mean RA patched - mean RA standard) / (mean RA robust - mean RA standard)."""
        standard, patched, robust = ([getattr(row, f"{who}_ra") for row in self.rows] for who in _WHO)
        return recovery(standard, patched, robust)

    def to_markdown(self) -> str:
        """A table in percent, kB and times smaller than the base's weight file."""
        lines = [
            "| corruption | TA standard | TA patched | TA robust | RA standard | RA patched | RA robust | kB | ratio |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            accuracies = (getattr(row, f"{who}_{what}") for what in ("ta", "ra") for who in _WHO)
            lines.append(
                f"| {row.corruption}-{row.severity} | "
                + " | ".join(f"{100 * value:.1f}" for value in accuracies)
                + f" | {row.signature_nbytes / 1000:.1f} | {row.base_nbytes / row.signature_nbytes:.0f}x |"
            )
        lines.append(f"\nrecovery {self.recovery():.2f}, n = {self.rows[0].n} test images. Recipe: {self.recipe}")
        return "\n".join(lines)


def recovery(standard: Sequence[float], patched: Sequence[float], robust: Sequence[float]) -> float:
    """Share of the robust models' gain in RA that patching brings: a ratio of means over corruptions."""
    gained, gap = (sum(values) - sum(standard) for values in (patched, robust))
    return gained / gap if gap else float("nan")


def create_start(
    model: str | Path,
    data: Splits,
    *,
    pretrained: bool = False,
    seed: int = 0,
    normalization: Literal["auto", "dataset"] = "auto",
    **model_args: Any,
) -> nn.Module:
    """The model that a training starts from, with a fresh head and the preprocessing of `data` in its config.

    Args:
        model: A timm name (its weights are random unless `pretrained`), a folder or a Hub id (its weights are kept).
        data: Gives the number of classes, the input size and, where nothing is pretrained, the normalisation.
        pretrained: For a timm name: start from timm's weights.
        seed: Seed of what is initialised at random.
        normalization: "auto" keeps that of pretrained weights; "dataset" takes the training images' mean and deviation.
        model_args: Options of `timm.create_model`, such as `width`.
    """
    classes, size = len(data.train.classes), tuple(data.train.images.shape[1:])
    is_name = timm.is_model(str(model).partition(".")[0]) and not Path(model).is_dir()
    start: Any  # a timm model: it has a pretrained_cfg and reset_classifier
    torch.manual_seed(seed)
    if is_name:
        known = timm.get_pretrained_cfg(str(model))
        if known is not None and known.fixed_input_size:
            model_args = {"img_size": size[1:], **model_args}
        start = named_model(str(model), pretrained=pretrained, num_classes=classes, **model_args)
    else:
        start = load_base(model, num_classes=classes, **model_args).model
        torch.manual_seed(seed)
        start.reset_classifier(classes)
    config = dict(start.pretrained_cfg, num_classes=classes, input_size=size, crop_pct=1.0, tag=None)
    config.pop("label_names", None)
    if normalization == "dataset" or (is_name and not pretrained):
        config["mean"], config["std"] = data.train.mean_std()
    start.pretrained_cfg = start.default_cfg = config
    return start


def run_study(
    start: nn.Module,
    data: Splits,
    output_dir: str | Path,
    arguments: TrainingArguments,
    *,
    corruptions: Sequence[str],
    num_layers: int | Literal["all"] | None = None,
    projection: Literal["weights", "all"] | None = "weights",
    bits: Bits | str | Sequence[Bits | None] | None = "default",
    scale_curve: bool = True,
    notes: Mapping[str, Any] | None = None,
) -> Study:
    """Train a standard and robust models from one start; extract, measure and describe their signatures.

    Leaves in `output_dir`: `pretrained/` (the start), `base/` (the standard model), `robust-fog/`, `rws-fog/`, ...
    each a Hub-layout repo with a card, and `study.json`. What is finished is skipped, what was interrupted is resumed.

    With several processes the main one measures; the others return a study without rows.

    Args:
        start: The common start, see `create_start`.
        data: Training, validation and test images.
        output_dir: Folder of the study.
        arguments: The recipe, without corruptions.
        corruptions: One robust model and one signature for each.
        num_layers: As in `extract`.
        projection: As in `extract`.
        bits: As in `extract`.
        scale_curve: Also measure TA and RA at the scales of `CURVE_SCALES`.
        notes: More to record in each training_args.json.
    """
    if not corruptions or len(set(corruptions)) != len(corruptions):
        raise OptionError(f"a study needs at least one corruption, each once, got {corruptions!r}")
    runs = [(BASE, arguments)] + [(f"robust-{name}", replace(arguments, corruption=(name,))) for name in corruptions]
    resolve_bits(bits, len(first_layers(start, num_layers)))  # before hours of training, not after
    if projection not in PROJECTIONS:
        raise OptionError(f"projection must be one of {PROJECTIONS}, got {projection!r}")
    folder = Path(output_dir)
    _keep_start(start, folder)
    weights = {name: value.clone() for name, value in start.state_dict().items()}
    results: dict[str, TrainingResult] = {}
    for name, wanted in tqdm(runs, desc="study", unit="model"):
        start.load_state_dict(weights)
        resume = (folder / name / "training_args.json").is_file()
        results[name] = train(start, data, folder / name, wanted, resume=resume, notes=dict(notes or {}))
    if not is_main_process():
        return Study(folder, (), arguments.summary())
    for result in results.values():
        write_base_card(result.folder, result)
    rows = []
    recipe = {key: getattr(arguments, key) for key in ("epochs", "lr", "schedule", "batch_size", "seed")}
    for name in tqdm(corruptions, desc="signatures", unit="signature"):
        signature = extract(
            folder / f"robust-{name}",
            folder / BASE,
            folder / START,
            corruption=name,
            severity=arguments.severity,
            dataset=data.test.name or None,
            num_layers=num_layers,
            projection=projection,
            bits=bits,
            training=recipe,
        )
        scales = CURVE_SCALES if scale_curve else (0.0, 1.0)
        row, metrics = _measure(signature, results[BASE], results[f"robust-{name}"], data.test, scales)
        signature.with_results(metrics=metrics).save_pretrained(folder / f"rws-{name}")
        rows.append(row)
    study = Study(folder, tuple(rows), arguments.summary())
    (folder / "study.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return study


def _keep_start(start: nn.Module, folder: Path) -> None:
    """Write `pretrained/`, once; another start than the one that the folder's models have is an error."""
    if not (folder / BASE).exists():
        save_timm_repo(start, folder / START)
    elif weights_digest(load_base(folder / START).model) != weights_digest(start):
        raise OptionError(f"{folder} holds a study from another start; choose another output folder")


def is_main_process() -> bool:
    """Whether this process is the only or the first one that was launched."""
    from accelerate.state import PartialState

    return PartialState().is_main_process


def write_base_card(folder: Path, result: TrainingResult) -> None:
    """Write the README.md of a trained model from what its folder says; an existing one keeps its text."""
    config, training = (json.loads((folder / name).read_text()) for name in ("config.json", "training_args.json"))
    clean = result.test_accuracy["clean"]
    metrics = {"ta": clean, "ra": {k: v for k, v in result.test_accuracy.items() if k != "clean"}, "n": result.n}
    card = cards.base_card(
        config,
        training=training,
        metrics=metrics,
        repo_id=folder.name,
        nbytes=(folder / "model.safetensors").stat().st_size,
        needs_import=is_ours(config["architecture"]),
    )
    readme = folder / "README.md"
    if readme.is_file():
        card = cards.merge_card(readme.read_text(encoding="utf-8", errors="replace"), card)
    readme.write_text(card, encoding="utf-8")


def _measure(
    signature: Signature, standard: TrainingResult, robust: TrainingResult, test: ImageSet, scales: Sequence[float]
) -> tuple[StudyRow, dict[str, Any]]:
    """A study's row, and the `metrics` of the signature's config."""
    corruption, severity = signature.config.corruption.label, signature.config.corruption.severity or 0
    shown = replace(test, images=corrupt(test.images, corruption, severity))
    curve = measure_scales(load_base(standard.folder).model, signature, test, shown, scales)
    off, on = (next(point for point in curve if point["scale"] == scale) for scale in (0.0, 1.0))
    row = StudyRow(
        corruption=corruption,
        severity=severity,
        n=len(test),
        standard_ta=off["ta"],
        standard_ra=off["ra"],
        patched_ta=on["ta"],
        patched_ra=on["ra"],
        robust_ta=robust.test_accuracy["clean"],
        robust_ra=robust.test_accuracy[f"{corruption}-{severity}"],
        signature_nbytes=signature.nbytes,
        base_nbytes=(standard.folder / "model.safetensors").stat().st_size,
    )
    metrics: dict[str, Any] = {
        "dataset": test.name,
        "split": "test",
        "n": row.n,
        "seed": 0,
        "severity": severity,
        **{who: {what: getattr(row, f"{who}_{what}") for what in ("ta", "ra")} for who in _WHO},
        "base_nbytes": row.base_nbytes,
        "signature_nbytes": row.signature_nbytes,
    }
    if len(curve) > 2:
        metrics["scale_curve"] = curve
    return row, metrics


def measure_scales(
    model: nn.Module, signature: Signature, clean: ImageSet, corrupted: ImageSet, scales: Iterable[float]
) -> list[dict[str, float]]:
    """TA and RA of `model` with `signature` at each scale; the model is clean again afterwards."""
    patcher = patch(model, [("measured", signature)])
    points = []
    for scale in scales:
        patcher.set({"measured": scale})
        points.append({"scale": scale, "ta": accuracy(model, clean), "ra": accuracy(model, corrupted)})
    patcher.clear()
    patcher.bake()
    return points
