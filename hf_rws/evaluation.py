"""Accuracy of a model on clean (TA) and on corrupted test images (RA), as a table."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_rws._ambient import unaffected
from hf_rws._progress import bar
from hf_rws.corruptions import corrupt
from hf_rws.corruptions.batch import check_severity
from hf_rws.corruptions.registry import all_names, find
from hf_rws.data.benchmarks import Benchmark, is_benchmark, open_benchmark
from hf_rws.data.datasets import load_split
from hf_rws.data.preprocessing import Normalize
from hf_rws.data.sets import ImageSet
from hf_rws.errors import OptionError
from hf_rws.layers import check_loaded, takes_images_of

__all__ = ["Evaluation", "Row", "accuracy", "evaluate", "predict"]

_CLEAN = "clean"


@dataclass(frozen=True)
class Row:
    """One line of a table: accuracy in [0, 1] on `n` images; `severity` is 0 for clean images."""

    corruption: str
    severity: int
    accuracy: float
    n: int


@dataclass(frozen=True)
class Evaluation:
    """The rows of an evaluation, clean images first."""

    rows: tuple[Row, ...]

    def __getitem__(self, corruption: str) -> float:
        """Mean accuracy over the severities of one corruption, or of "clean"; OptionError if there is no such row."""
        found = [row.accuracy for row in self.rows if row.corruption == corruption]
        if not found:
            names = dict.fromkeys(row.corruption for row in self.rows)
            raise OptionError(f"there is no row {corruption!r}; there are: {', '.join(names)}")
        return _mean(found)

    def mean(self) -> float:
        """RA: mean accuracy over all corrupted rows (clean images are not in it)."""
        return _mean(row.accuracy for row in self.rows if row.corruption != _CLEAN)

    def to_markdown(self) -> str:
        """A table with accuracies in percent and the mean below."""
        lines = ["| corruption | severity | accuracy | n |", "|---|---|---|---|"]
        lines += [f"| {r.corruption} | {r.severity or ''} | {100 * r.accuracy:.1f} | {r.n} |" for r in self.rows]
        if any(row.corruption != _CLEAN for row in self.rows):
            lines.append(f"| mean of corruptions | | {100 * self.mean():.1f} | |")
        return "\n".join(lines)

    def to_csv(self) -> str:
        """The rows with a header line; accuracies in [0, 1]."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        return text.getvalue()


@unaffected
def evaluate(
    model: nn.Module,
    dataset: Any,
    corruptions: str | Sequence[str] = "all",
    *,
    severities: Sequence[int] = (5,),
    clean: bool = True,
    seed: int = 0,
    batch_size: int = 500,
    limit: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Top-1 accuracy on clean and on corrupted images.

    Args:
        model: A timm model; it is normalised for by its `pretrained_cfg`, run in eval mode where it is, in the dtype of
            its weights (also inside `torch.autocast`), and left in the mode that it was in.
        dataset: An `ImageSet`, a pair (uint8 images (N, 3, H, W), labels (N,)), or the Hub id or folder of a dataset,
            whose test split is used; or a published benchmark (`hf_rws.data.open_benchmark`): a `Benchmark` or its
            folder.
        corruptions: Names, one name, or "all" (all that this machine can make, or all in the benchmark).
        severities: Severities, 1 to 5.
        clean: Whether to measure clean images too (published benchmarks have none).
        seed: Seed of the corruptions' draws.
        batch_size: Images at a time.
        limit: Use only the first so many images.
        progress: Show a bar.

    Returns:
        A row for the clean images and one per corruption and severity.

    Raises:
        OptionError: Unknown corruption or severity; no images, or of a size that the model cannot take; images and
            labels that do not fit; more classes, or other labels, than the model knows; a model on the meta device.
        NotFoundError: There is no such dataset, or files of a benchmark are missing.
        FormatError: A dataset or benchmark cannot be read.

    Example:
        >>> model = timm.create_model("resnet18", num_classes=10)
        >>> images, labels = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8), torch.arange(20) % 10
        >>> table = hf_rws.evaluate(model, (images, labels), ["fog", "snow"], severities=[1, 5])
        >>> [(row.corruption, row.severity) for row in table.rows]
        [('clean', 0), ('fog', 1), ('fog', 5), ('snow', 1), ('snow', 5)]
        >>> 0 <= table["fog"] <= 1
        True
    """
    for label, number in (("limit", limit), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise OptionError(f"{label} must be at least 1, got {number!r}")
    benchmark = _as_benchmark(dataset)
    settings = _settings(corruptions, severities, benchmark)
    images = benchmark or _as_image_set(dataset).subset(slice(limit))
    if isinstance(images, ImageSet) and not len(images):
        raise OptionError("there are no images to evaluate on")
    check_classes(model, images)
    first = _first_parameter(model)
    if clean and not benchmark:
        settings.insert(0, (_CLEAN, 0))
    rows = []
    for name, severity in bar(settings, shown=progress, desc="evaluating", leave=False):
        if isinstance(images, Benchmark):
            parts = images.batches(name, severity, batch_size=batch_size, limit=limit)
        else:
            parts = _corrupted(images, name, severity, seed=seed, batch_size=batch_size, device=first.device)
        right = [predict(model, part.images, batch_size=batch_size) == part.labels for part in parts]
        rows.append(Row(name, severity, float(torch.cat(right).double().mean()), sum(map(len, right))))
    return Evaluation(tuple(rows))


def _settings(
    corruptions: str | Sequence[str], severities: Sequence[int], benchmark: Benchmark | None
) -> list[tuple[str, int]]:
    """What to measure; everything is checked before the first forward pass: nothing is worse than an error later."""
    if corruptions == "all":
        corruptions = benchmark.corruptions if benchmark else all_names()
    for label, values in (("corruptions", corruptions), ("severities", severities)):
        if not isinstance(values, Iterable):
            raise OptionError(f"{label} must be a list, got {values!r}")
    names, severities = (corruptions,) if isinstance(corruptions, str) else corruptions, tuple(severities)
    settings = [(name, severity) for name in names for severity in severities]
    for name, severity in settings:
        if benchmark:
            benchmark.count(name, severity)
        else:
            find(name)
            check_severity(severity)
    return settings


def check_classes(model: nn.Module, images: ImageSet | Benchmark) -> None:
    """OptionError unless a model, where it says how many classes it knows, knows those of images and their labels."""
    known = getattr(model, "num_classes", None)
    if known and known < len(images.classes):
        name = images.name or "the dataset"
        raise OptionError(
            f"{name} has {len(images.classes)} classes, the model knows {known}: choose those that it knows by classes"
        )
    if isinstance(images, ImageSet) and len(images):
        first, last = int(images.labels.min()), int(images.labels.max())
        if first < 0 or (known and last >= known):
            most = f"to {known - 1}, as the model knows {known} classes" if known else "or more"
            raise OptionError(f"labels must be 0 {most}; there are labels from {first} to {last}")


def _corrupted(
    images: ImageSet, name: str, severity: int, *, seed: int, batch_size: int, device: torch.device
) -> Iterator[ImageSet]:
    """Corrupted where the model is, and never all at once."""
    for first in range(0, len(images), batch_size):
        part = images.subset(slice(first, first + batch_size))
        shown = part.images.to(device)
        yield replace(part, images=shown if name == _CLEAN else corrupt(shown, name, severity, seed=seed, index=first))


def accuracy(model: nn.Module, images: ImageSet, *, batch_size: int = 500) -> float:
    """Top-1 accuracy in [0, 1]."""
    right = predict(model, images.images, batch_size=batch_size) == images.labels.cpu()
    return float(right.double().mean()) if len(right) else 0.0


@unaffected
def predict(model: nn.Module, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """Predicted classes, int64 on the CPU, of uint8 images (N, 3, H, W); OptionError if the model cannot take them."""
    first = _first_parameter(model)
    normalize = Normalize.of(model).to(first.device)
    found = []
    with _evaluating(model), torch.inference_mode():
        for chunk in images.split(batch_size):
            with takes_images_of(chunk.shape):
                found.append(model(normalize(chunk.to(first.device)).to(first.dtype)).argmax(1).cpu())
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def _first_parameter(model: nn.Module) -> Tensor:
    """What says where a model is and in which dtype; OptionError if it has no weights, or is on the meta device."""
    first = next(model.parameters(), None)
    if first is None:
        raise OptionError(f"this {type(model).__name__} has no weights; give a timm model")
    check_loaded({"first": first}, "the model")
    return first


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _as_benchmark(dataset: Any) -> Benchmark | None:
    """The published benchmark that `evaluate` is given, if it is one."""
    if isinstance(dataset, Benchmark):
        return dataset
    return open_benchmark(dataset) if isinstance(dataset, str | Path) and is_benchmark(dataset) else None


def _as_image_set(dataset: Any) -> ImageSet:
    """An `ImageSet` from what `evaluate` takes, its labels on the CPU."""
    if isinstance(dataset, ImageSet):
        return dataset if dataset.labels.is_cpu else replace(dataset, labels=dataset.labels.cpu())
    if isinstance(dataset, tuple) and len(dataset) == 2:
        try:
            images, labels = (torch.as_tensor(part) for part in dataset)
        except (TypeError, ValueError, RuntimeError) as error:  # text, objects, rows of several lengths
            raise OptionError(f"a pair (images, labels) must be arrays or tensors of numbers: {error}") from error
        found = ImageSet(images, labels, ())
        return replace(found, labels=labels.to("cpu", torch.int64))
    if isinstance(dataset, str | Path):
        return load_split(str(dataset))
    raise OptionError(
        f"dataset must be a name, an ImageSet, a Benchmark or a pair (images, labels), got {type(dataset).__name__}"
    )


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
