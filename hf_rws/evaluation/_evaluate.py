"""Accuracy of a model on clean (TA) and on corrupted test images (RA)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_rws._accelerator import resolve_device
from hf_rws._ambient import unaffected
from hf_rws._at_once import AskingInParts, by_area
from hf_rws._choices import ALL, BAR, UNSEEN
from hf_rws._progress import bar
from hf_rws.corruptions import corrupt
from hf_rws.corruptions.batch import check_severity
from hf_rws.corruptions.registry import find, spelled_out
from hf_rws.data.benchmarks import Benchmark, is_benchmark, open_benchmark
from hf_rws.data.datasets import load_split
from hf_rws.data.preprocessing import Normalize, Preprocessing, resolve
from hf_rws.data.sets import ImageSet
from hf_rws.errors import OptionError
from hf_rws.evaluation.adversary import Adversary, attacked
from hf_rws.evaluation.copied import copied_by
from hf_rws.evaluation.labels import Answers, ClassMap, check_labels, match_classes
from hf_rws.evaluation.tables import CLEAN, OWN, Comparison, Evaluation, Row
from hf_rws.layers import check_scores, evaluating, first_weight, takes_images_of, unwrap

_State = Callable[[], AbstractContextManager[Any]]  # what a model is put into for a while: its signatures off, or on


@unaffected
def evaluate(
    model: nn.Module,
    dataset: Any,
    corruptions: str | Sequence[str] = "all",
    *,
    severities: Sequence[int] = (5,),
    adversary: Adversary | None = None,
    clean: bool = True,
    seed: int = 0,
    batch_size: int | None = None,
    limit: int | None = None,
    class_map: ClassMap | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    **dataset_options: Any,
) -> Evaluation:
    """Top-1 accuracy on clean and on corrupted images.

    Classes are matched by name where the model and the dataset name theirs, whatever the order or the subset; the model
    may answer with any of its classes (see `hf_rws.evaluation.match_classes`).

    Args:
        model: A timm model; it is normalised for by its `pretrained_cfg`, run in eval mode where it is, in the dtype of
            its weights (also inside `torch.autocast`), and left in the mode that it was in. One that takes grey images
            is shown grey ones.
        dataset: The Hub id or folder of a dataset, whose test split is used, each image brought to the model's size as
            timm's `validate.py` does it; or images as they are: an `ImageSet`, a pair (uint8 images (N, 3, H, W),
            labels (N,)), or a published benchmark (`hf_rws.data.open_benchmark`): a `Benchmark` or its folder.
        corruptions: Names, one name, "all" (all of `CORRUPTIONS` that this machine can make, or all in the benchmark),
            or "bar" (all of `hf_rws.corruptions.BAR`, or those in the benchmark).
        severities: Severities, 1 to 5.
        adversary: Also measure on the clean images as this adversary changes them, for the model as it is (white-box);
            with `corruptions` [] nothing else but the clean images. Not for a published benchmark.
        clean: Whether to measure clean images too (published benchmarks have none).
        seed: Seed of the corruptions' and the adversary's draws, and of that of `limit`.
        batch_size: Images at a time; by default as many as are fast and as memory holds. It changes no result, but for
            the rounding of scores.
        limit: Use only so many images: the first (also of a published benchmark), but of a dataset by its name drawn at
            random by `seed`, as many are sorted by class, and no others are decoded.
        class_map: What classes of the dataset are among the model's, where names do not agree: {"car": "automobile"}.
        device: Where to measure: "auto" is the GPU where there is one; the model comes back afterwards. By default
            where it is.
        progress: Show a bar.
        dataset_options: Options of `hf_rws.data.load_split` for a dataset, such as `image_size` (instead of the model's
            own preprocessing: the shorter side resized to it, the centre cut) or `test_split`; of `open_benchmark` for
            the folder of a benchmark.

    Returns:
        A row for the clean images, one per corruption and severity, and one for the adversary. Images of a corrupted
        copy of a dataset (`hf-rws corrupt`) are not called clean, but e.g. "fog (copy)".

    Raises:
        OptionError: Unknown corruption or severity; no images, or of a size that the model cannot take; images and
            labels that do not fit; classes that the model does not know; a model that gives no classes, or is on the
            meta device; a device that is not there, or whose memory does not hold a single image.
        NotFoundError: There is no such dataset, or files of a benchmark are missing.
        FormatError: A dataset or benchmark cannot be read.

    Example:
        >>> model = timm.create_model("resnet18", num_classes=10)
        >>> images, labels = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8), torch.arange(20) % 10
        >>> table = hf_rws.evaluate(model, (images, labels), ["fog", "snow"], severities=[1, 5])
        >>> [(row.corruption, row.severity) for row in table.rows]
        [('clean', 0), ('fog', 1), ('fog', 5), ('snow', 1), ('snow', 5)]
        >>> table["snow"] == (table["snow", 1] + table["snow", 5]) / 2
        True
    """
    (found,) = _evaluations(
        model,
        [nullcontext],
        dataset,
        corruptions,
        severities=severities,
        adversary=adversary,
        clean=clean,
        seed=seed,
        batch_size=batch_size,
        limit=limit,
        class_map=class_map,
        device=device,
        progress=progress,
        **dataset_options,
    )
    return found


@unaffected
def compare(model: nn.Module, dataset: Any, corruptions: str | Sequence[str] = "all", **options: Any) -> Comparison:
    """A patched model beside its base: the same images with all signatures off, and as the model is.

    Args:
        model: A model with signatures on (`load_patched`, `patch`); it is left as it is.
        dataset: As for `evaluate`.
        corruptions: As for `evaluate`.
        options: The other options of `evaluate`.

    Raises:
        OptionError: As for `evaluate`; or the model carries no signatures.
        NotFoundError: As for `evaluate`.
        FormatError: As for `evaluate`.
        IntegrityError: Something else changed the weights since they were patched.

    Example:
        >>> model, robust = (timm.create_model("resnet18", num_classes=10) for _ in range(2))
        >>> patcher = hf_rws.patch(model, hf_rws.extract(robust, model, None, projection=None, corruption="fog"))
        >>> images, labels = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8), torch.arange(20) % 10
        >>> found = hf_rws.evaluation.compare(model, (images, labels), "fog")
        >>> found["fog"].value == found.after["fog"] - found.before["fog"]
        True
    """
    patcher: Any = getattr(unwrap(model), "rws", None)
    if not getattr(patcher, "signatures", None):
        raise OptionError("the model carries no signatures to compare with its base: put some on by hf_rws.patch")
    before, after = _evaluations(model, [lambda: patcher.using({}), nullcontext], dataset, corruptions, **options)
    return before.compare(after)


def _evaluations(
    model: nn.Module,
    states: Sequence[_State],
    dataset: Any,
    corruptions: str | Sequence[str],
    *,
    severities: Sequence[int] = (5,),
    adversary: Adversary | None = None,
    clean: bool = True,
    seed: int = 0,
    batch_size: int | None = None,
    limit: int | None = None,
    class_map: ClassMap | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    **dataset_options: Any,
) -> list[Evaluation]:
    """An evaluation of the model in each of some states, every image being read and corrupted once."""
    for label, number in (("limit", limit), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise OptionError(f"{label} must be at least 1, got {number!r}")
    if not isinstance(adversary, Adversary | None):
        raise OptionError(
            f"adversary must be an hf_rws.evaluation.Adversary, such as Adversary('linf', 8), got {adversary!r}"
        )
    _check_answers_classes(model)
    benchmark = _as_benchmark(dataset, dataset_options)
    settings = _settings(corruptions, severities, benchmark)
    if adversary and benchmark:
        raise OptionError(f"{benchmark.name} has no clean images for {adversary.label}: give another dataset")
    notes: list[str] = []
    if benchmark:
        images: ImageSet | Benchmark = benchmark
        preprocessing = str(benchmark.preprocessing or "as they are published")
        if limit is not None and any(benchmark.count(name, severity) > limit for name, severity in settings):
            notes.append(f"the first {limit:,} images")
    else:
        images, preprocessing = _as_image_set(model, dataset, limit, seed, dataset_options)
        if isinstance(dataset, str | Path):
            split = dataset_options.get("test_split")
            notes += [f"split {split!r}"] if split else []
            notes += [f"{len(images):,} images drawn at random"] if images.drawn_from else []
    if isinstance(images, ImageSet):
        if not len(images):
            raise OptionError("there are no images to evaluate on")
        check_labels(model, images)
    answers = match_classes(model, images.classes, class_map=class_map, name=images.name)
    plain = copied_by(dataset, dataset_options.get("revision")) if clean and not benchmark else None
    if clean and not benchmark:
        settings.insert(0, (CLEAN, 0))
    if adversary:
        settings.append((adversary.label, 0))
        notes.append(f"{adversary.label}: {adversary}, white-box")
    rows: list[list[Row]] = [[] for _ in states]
    with _on(model, device):
        place, asking = first_weight(model).device, AskingInParts(batch_size)
        attacking = AskingInParts(batch_size, back=True)
        for name, severity in bar(settings, shown=progress, desc="evaluating", leave=False):
            if isinstance(images, Benchmark):
                parts = images.batches(name, severity, batch_size=batch_size, limit=limit, device=place)
            else:
                block = batch_size or by_area(images.images.shape, place)
                parts = _corrupted(images, name, severity, seed=seed, batch_size=block, device=place)
            right: list[list[Tensor]] = [[] for _ in states]
            for part in parts:
                first = sum(map(len, right[0]))
                for state, found in zip(states, right, strict=True):
                    with state():
                        if adversary and name == adversary.label:
                            predicted = _predict_attacked(model, part, answers, attacking, adversary, seed, first)
                        else:
                            predicted = _predict(model, part.images, asking)
                    found.append(answers.correct(predicted, part.labels))
            called, at = plain if plain and name == CLEAN else (name, severity)
            for kept, found in zip(rows, right, strict=True):
                all_right = torch.cat(found)
                kept.append(Row(called, at, float(all_right.double().mean()), len(all_right), all_right))
    notes += [answers.note] if answers.note else []
    return [Evaluation(tuple(kept), preprocessing, tuple(notes)) for kept in rows]


def _settings(
    corruptions: str | Sequence[str], severities: Sequence[int], benchmark: Benchmark | None
) -> list[tuple[str, int]]:
    """What to measure; everything is checked before the first forward pass: nothing is worse than an error later."""
    if benchmark and corruptions in (ALL, UNSEEN):
        held = benchmark.corruptions
        corruptions = held if corruptions == ALL else tuple(name for name in held if name in BAR) or BAR
    corruptions = spelled_out(corruptions)
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


def _corrupted(
    images: ImageSet, name: str, severity: int, *, seed: int, batch_size: int, device: torch.device
) -> Iterator[ImageSet]:
    """Corrupted where the model is, and never all at once."""
    for first in range(0, len(images), batch_size):
        part = images.subset(slice(first, first + batch_size))
        shown = part.images.to(device)
        yield replace(part, images=corrupt(shown, name, severity, seed=seed, index=first) if severity else shown)


@unaffected
def accuracy(
    model: nn.Module,
    images: ImageSet | Iterable[ImageSet],
    *,
    batch_size: int | None = None,
    adversary: Adversary | None = None,
    seed: int = 0,
) -> float:
    """Top-1 accuracy in [0, 1] on images, or on all parts of them; classes are matched as `evaluate` does it.

    With an adversary it is that on the images as it changes them, from starts drawn by `seed`.
    """
    asking, answers = AskingInParts(batch_size, back=adversary is not None), None
    right: list[Tensor] = []
    for part in [images] if isinstance(images, ImageSet) else images:
        answers = answers or match_classes(model, part.classes, name=part.name)
        if adversary:
            first = sum(map(len, right))
            predicted = _predict_attacked(model, part, answers, asking, adversary, seed, first)
        else:
            predicted = _predict(model, part.images, asking)
        right.append(answers.correct(predicted, part.labels.cpu()))
    found = torch.cat(right) if right else torch.empty(0)
    return float(found.double().mean()) if len(found) else 0.0


@unaffected
def predict(model: nn.Module, images: Tensor, *, batch_size: int | None = None) -> Tensor:
    """Predicted classes of images.

    Args:
        model: A timm model.
        images: uint8 of shape (N, 3, H, W), of a size that the model takes; made grey for a model of one channel.
        batch_size: Images at a time; by default as many as are fast and as memory holds.

    Returns:
        int64 of shape (N,), on the CPU.

    Raises:
        OptionError: The model cannot take the images, or gives no classes; memory does not hold a single image.
    """
    return _predict(model, images, AskingInParts(batch_size))


def _predict_attacked(
    model: nn.Module,
    images: ImageSet,
    answers: Answers,
    asking: AskingInParts,
    adversary: Adversary,
    seed: int,
    first: int,
) -> Tensor:
    """As `_predict`, of images as an adversary changes them for this model; `first` is the number of the first one."""

    def changed(part: slice) -> Tensor:
        numbers = range(first + part.start, first + part.stop)
        shown, labels = images.images[part], images.labels[part]
        return 255 * attacked(model, shown, labels, adversary, seed=seed, numbers=numbers, loss=answers.loss)

    return _predict(model, images.images, asking, changed)


def _predict(
    model: nn.Module, images: Tensor, asking: AskingInParts, changed: Callable[[slice], Tensor] | None = None
) -> Tensor:
    """As `predict`, with what a run knows of its memory; `changed` gives the images that are shown instead."""
    _check_answers_classes(model)
    first = first_weight(model)
    normalize = Normalize.of(model).to(first.device)

    def classes(part: slice) -> Tensor:
        shown = changed(part) if changed else images[part]
        scores = model(normalize(shown.to(first.device)).to(first.dtype))
        return check_scores(model, scores).argmax(1).cpu()

    with evaluating(model), torch.inference_mode(), takes_images_of(images.shape):
        found = asking.by_number(model, images.shape, classes)
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def _check_answers_classes(model: nn.Module) -> None:
    """OptionError if there is no model, or one without a classifier, as far as it says so itself."""
    if not isinstance(model, nn.Module):
        raise OptionError(f"give a model, not {model!r:.80}: load_patched loads one, with signatures or without: []")
    if getattr(unwrap(model), "num_classes", None) == 0:
        raise OptionError(
            f"this {type(unwrap(model)).__name__} has no classifier (num_classes=0): it gives features, no classes"
        )


@contextmanager
def _on(model: nn.Module, device: str | torch.device | None) -> Iterator[None]:
    """The model on another device for a while; None leaves it where it is."""
    if device is None:
        yield
        return
    before, wanted = first_weight(model).device, resolve_device(device)
    model.to(wanted)
    try:
        yield
    finally:
        model.to(before)


def _as_benchmark(dataset: Any, options: dict[str, Any]) -> Benchmark | None:
    """The published benchmark that `evaluate` is given, if it is one."""
    if isinstance(dataset, str | Path) and is_benchmark(dataset):
        known = {"classes", "image_size", "preprocessing"}
        if unknown := options.keys() - known:
            raise OptionError(f"{', '.join(sorted(unknown))}: a published benchmark is measured without")
        return open_benchmark(dataset, **options)
    return dataset if isinstance(dataset, Benchmark) else None


def _as_image_set(
    model: nn.Module, dataset: Any, limit: int | None, seed: int, options: dict[str, Any]
) -> tuple[ImageSet, str]:
    """An `ImageSet` from what `evaluate` takes, its labels on the CPU, and how its images came to their size."""
    if isinstance(dataset, str | Path):
        return _loaded(model, str(dataset), options, limit=limit, seed=seed)
    if options:
        raise OptionError(f"{', '.join(sorted(options))}: only for a dataset that is read, by its id or folder")
    if isinstance(dataset, ImageSet):
        found = dataset if dataset.labels.is_cpu else replace(dataset, labels=dataset.labels.cpu())
    elif isinstance(dataset, tuple) and len(dataset) == 2:
        try:
            images, labels = (torch.as_tensor(part) for part in dataset)
        except (TypeError, ValueError, RuntimeError) as error:  # text, objects, rows of several lengths
            raise OptionError(f"a pair (images, labels) must be arrays or tensors of numbers: {error}") from error
        found = ImageSet(images, labels, ())
        found = replace(found, labels=labels.to("cpu", torch.int64))
    else:
        raise OptionError(
            f"dataset must be a name, an ImageSet, a Benchmark or a pair (images, labels), got {type(dataset).__name__}"
        )
    found = found.subset(slice(limit))
    height, width = found.images.shape[2:]
    return found, f"{width}x{height}, as given"


def _loaded(model: nn.Module, dataset: str, given: dict[str, Any], **drawn: Any) -> tuple[ImageSet, str]:
    """The test split of a dataset, its images as the model wants them, or as `image_size` says."""
    options = given | drawn
    split = options.pop("test_split", None) or "test"
    wanted = resolve(options.pop("preprocessing", None), options.pop("image_size", None))
    preprocessing = wanted or Preprocessing.of(model)
    images = load_split(dataset, split, preprocessing=preprocessing, **options)
    return images, str(preprocessing) if wanted else f"{preprocessing}{OWN}"
