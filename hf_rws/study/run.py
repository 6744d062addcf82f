"""A study: one start, a standard model, robust models, their signatures, and what they are worth."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import timm
import torch
from torch import nn

from hf_rws import cards
from hf_rws._accelerator import (
    check_trackers,
    create_accelerator,
    end_trackers,
    is_main_process,
    process_state,
    state_kept,
)
from hf_rws._ambient import random_state_kept
from hf_rws._choices import SPREADS
from hf_rws._files import README_NAME, check_writable, read_json, write_whole
from hf_rws._progress import bar
from hf_rws.bases import load_base, named_model
from hf_rws.corruptions.frost import picture_paths
from hf_rws.data.sets import ImageSet, Splits
from hf_rws.distillation import distill
from hf_rws.errors import OptionError
from hf_rws.evaluation import Adversary
from hf_rws.extraction import extract
from hf_rws.fingerprints import fingerprint, weights_digest
from hf_rws.layers import NumLayers, first_layers
from hf_rws.signature.bits import BitsLike, resolve_bits
from hf_rws.signature.config import CONFIG_NAME, PROJECTIONS, with_bits
from hf_rws.signature.signature import Signature
from hf_rws.study.layout import BASE, RESULTS_NAME, START, robust_name, signature_name
from hf_rws.study.measuring import CURVE_SCALES, Study, StudyRow, measure_scales
from hf_rws.study.processes import Spread, spread_over_processes
from hf_rws.timm_repo import MODEL_NAME, TRAINING_NAME, drop_test_settings, save_timm_repo
from hf_rws.training.arguments import TrainingArguments
from hf_rws.training.pixels import Pixels
from hf_rws.training.trainer import TrainingResult, train

_T = TypeVar("_T")


@random_state_kept()
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
    drop_test_settings(config, ("input_size", "crop_pct"))
    for key in ("label_names", "label_descriptions"):  # of what it was before
        config.pop(key, None)
    if normalization == "dataset" or (is_name and not pretrained):
        config["mean"], config["std"] = data.train.mean_std()
    start.pretrained_cfg = start.default_cfg = config
    return start


@state_kept()
def run_study(
    start: nn.Module,
    data: Splits,
    output_dir: str | Path,
    arguments: TrainingArguments,
    *,
    corruptions: Sequence[str],
    distilled: int | None = None,
    robust: bool = True,
    num_layers: NumLayers = None,
    projection: Literal["weights", "all"] | None = "weights",
    bits: BitsLike = "default",
    scale_curve: bool = True,
    spread: Spread = "auto",
    notes: Mapping[str, Any] | None = None,
) -> Study:
    """Make a standard model, signatures and robust models from one start, and measure and describe them.

    Leaves in `output_dir`: `pretrained/` (the start), `base/` (the standard model), `rws-fog-distilled/`, ...,
    `robust-fog/`, ..., `rws-fog/` (extracted), ..., each a Hub-layout repo with a card, and `study.json`. What is
    finished is skipped, what was interrupted is resumed.

    Several processes need one folder that all of them see. Where each makes models of its own (`spread`), these are the
    same as those of one process. One that fails ends with its error, and the others with an error of theirs once they
    have made their share; the same call goes on from there. All but the main one return a study without rows.

    Args:
        start: The common start, see `create_start`.
        data: Training, validation and test images.
        output_dir: Folder of the study.
        arguments: The recipe, without corruptions. Its adversary, if it has one, counts as one corruption more, which
            only robust models are trained against: `robust-pgd-linf-8/` and so on.
        corruptions: One signature of each kind for each.
        distilled: Also distil signatures, from the so many training images drawn at random, without labels.
        robust: Train robust models and extract their signatures.
        num_layers: As in `extract`.
        projection: As in `extract`.
        bits: As in `extract`.
        scale_curve: Also measure TA and RA at the scales of `CURVE_SCALES`.
        spread: What several processes share out: "models" (each trains, distils and measures some of its own),
            "batches" (all train each model together, and batch norms see a share of each batch), or "auto": models
            where there are as many corruptions as processes.
        notes: More to record in each training_args.json.

    Raises:
        OptionError: An option makes no sense, or the folder holds another study.
        MissingExtraError: Frost is asked for, and its pictures are not here.
        RWSError: Another process has ended; others of its subclasses, as `train` and `distill` raise them.
    """
    attacks = arguments.attacks
    if not (corruptions or attacks) or len(set(corruptions)) != len(corruptions):
        raise OptionError(f"a study needs at least one corruption, each once, got {corruptions!r}")
    if not robust and distilled is None:
        raise OptionError("a study needs signatures: give distilled, or leave robust on")
    if attacks and (distilled is not None or not robust):
        raise OptionError(
            f"a signature against {attacks.measuring.label} is extracted from a robust model, not distilled: make "
            "distilled signatures, or no robust models, in a study of corruptions alone"
        )
    resolve_bits(bits, len(first_layers(start, num_layers)))  # before hours of training, not after
    if "frost" in corruptions:
        picture_paths()
    if projection not in PROJECTIONS:
        raise OptionError(f"projection must be one of {PROJECTIONS}, got {projection!r}")
    if spread not in SPREADS:
        raise OptionError(f"spread must be one of {', '.join(SPREADS)}, got {spread!r}")
    plain = replace(arguments, adversary=None)
    runs = {robust_name(name): replace(plain, corruption=(name,)) for name in corruptions if robust}
    labels = [*corruptions]
    if attacks:
        labels.append(attacks.measuring.label)
        runs[robust_name(labels[-1])] = arguments
    check_trackers(arguments.log_with)
    folder = check_writable(output_dir, "the study")
    names = [BASE, *runs]
    _keep_start(start, folder)
    weights = {name: value.clone() for name, value in start.state_dict().items()}
    scales = CURVE_SCALES if scale_curve else (0.0, 1.0)
    results: dict[str, TrainingResult] = {}
    rows: dict[str, StudyRow] = {}
    with spread_over_processes(spread, len(labels)) as processes:
        distil = partial(_distill, folder, data, arguments, count=distilled, num_layers=num_layers, bits=bits)
        seen = {name for name in names if (folder / name / MODEL_NAME).is_file()}
        finished = set.intersection(*processes.meet(seen))  # a disk in the network shows not all the same at once
        for name in bar(processes.share(names, finished), desc="study", unit="model"):
            start.load_state_dict(weights)
            resume = (folder / name / TRAINING_NAME).is_file()
            wanted = runs.get(name, plain)
            results[name] = train(start, data, folder / name, wanted, resume=resume, notes=dict(notes or {}))
            if is_main_process():
                write_base_card(results[name].folder, results[name])
            if name == BASE and not processes.apart:
                distil(corruptions)
        results = _merged(processes.meet(results))
        if processes.apart:
            distil(processes.share(corruptions))
        if is_main_process():  # where they are apart each is the main one of its own
            for name in bar(processes.share(labels), desc="signatures", unit="signature"):
                adversary = None if name in corruptions or not attacks else attacks.measuring
                made = {}
                if distilled is not None:
                    made["distilled"] = Signature.from_pretrained(folder / signature_name(name, "distilled"))
                if robust:
                    made["extracted"] = _extract(
                        folder, name, data, runs[robust_name(name)], num_layers, projection, bits
                    )
                rows[name] = _measure(folder, name, made, results, data.test, scales, adversary)
        rows = _merged(processes.meet(rows))
    if not processes.first:
        return Study(folder, (), arguments.summary())
    study = Study(folder, tuple(rows[name] for name in labels), arguments.summary())
    _report(study, arguments)
    write_whole(folder / RESULTS_NAME, json.dumps([row.flat() for row in study.rows], indent=2) + "\n")
    return study


def _merged(parts: Sequence[Mapping[str, _T]]) -> dict[str, _T]:
    return {name: value for part in parts for name, value in part.items()}


def _extract(
    folder: Path,
    corruption: str,
    data: Splits,
    arguments: TrainingArguments,
    num_layers: NumLayers,
    projection: Literal["weights", "all"] | None,
    bits: BitsLike,
) -> Signature:
    """The signature of a robust model of the study, which was trained with these arguments."""
    training = {key: getattr(arguments, key) for key in ("epochs", "lr", "schedule", "batch_size", "seed")}
    if arguments.attacks:
        training["training_attack"] = str(arguments.attacks.training)
    return extract(
        folder / robust_name(corruption),
        folder / BASE,
        folder / START,
        corruption=corruption,
        severity=None if arguments.attacks else arguments.severity,
        dataset=data.test.name or None,
        num_layers=num_layers,
        projection=projection,
        bits=bits,
        training=training,
    )


def _report(study: Study, arguments: TrainingArguments) -> None:
    """Tell the trackers what the table says: "fog-5/RA/robust" and so on."""
    if not arguments.log_with:
        return
    accelerator = create_accelerator("no", log_with=arguments.log_with, project_dir=study.folder)
    accelerator.init_trackers("hf_rws", config={key: str(value) for key, value in asdict(arguments).items()})
    for row in study.rows:
        measured: dict[str, Mapping[str, float]] = {"TA": row.ta, "RA": row.ra, "nbytes": row.nbytes}
        values = {f"{what}/{who}": value for what, values in measured.items() for who, value in values.items()}
        accelerator.log({f"{row.title}/{name}": value for name, value in values.items()}, step=0)
    end_trackers(accelerator)


def _distill(
    folder: Path,
    data: Splits,
    arguments: TrainingArguments,
    corruptions: Sequence[str],
    *,
    count: int | None,
    num_layers: NumLayers,
    bits: BitsLike,
) -> None:
    """Leave a distilled signature for each corruption; those that are there already, made just so, are kept.

    Args:
        folder: Of the study.
        data: Its images.
        arguments: Its recipe.
        corruptions: Those wanted.
        count: How many training images there are to learn from; None leaves nothing.
        num_layers: As in `distill`.
        bits: As in `distill`.
    """
    if count is None:
        return
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(arguments.seed))
    rows = order[:count].sort().values  # datasets may be sorted by class
    missing, base = [], None
    for name in corruptions:
        where = folder / signature_name(name, "distilled")
        if (where / CONFIG_NAME).is_file():
            base = base or load_base(folder / BASE).model
            _check_distilled(where, base, arguments, len(rows), num_layers, bits)
        else:
            missing.append(name)
    images = data.train.images[rows] if missing else None
    process_state().wait_for_everyone()  # until every process has seen what the folder held
    for name in missing:
        signature = distill(
            folder / BASE,
            images,
            corruption=name,
            severity=arguments.severity,
            dataset=data.train.name or None,
            num_layers=num_layers,
            bits=bits,
            seed=arguments.seed,
            mixed_precision=arguments.mixed_precision,
        )
        if is_main_process():
            signature.save_pretrained(folder / signature_name(name, "distilled"))
    process_state().wait_for_everyone()


def _check_distilled(
    where: Path,
    base: nn.Module,
    arguments: TrainingArguments,
    count: int,
    num_layers: NumLayers,
    bits: BitsLike,
) -> None:
    """OptionError unless a signature was distilled with these settings, from this base."""
    config = Signature.from_pretrained(where).config
    state, training = base.state_dict(), config.method.training
    touched = {spec.name: state[spec.name] for spec in config.tensors if spec.name in state}
    layers = len(first_layers(base, num_layers))
    held_out, learned = (training.get(key) for key in ("held_out", "images"))
    pairs: dict[str, tuple[Any, Any]] = {
        "severity": (config.corruption.severity, arguments.severity),
        "num_layers": (config.method.num_layers, layers),
        "images": (learned + held_out if isinstance(learned, int) and isinstance(held_out, int) else None, count),
        "seed": (training.get("seed"), arguments.seed),
    }
    if config.method.num_layers == layers:  # else a list of bits is of another length
        wanted = with_bits(config.tensors, bits)
        pairs["bits"] = ([spec.bits for spec in config.tensors], [spec.bits for spec in wanted])
    if dict(config.base_model.fingerprint) != fingerprint(touched):
        pairs["base"] = ("other weights", "these")
    differing = [f"{key}: {then} then, {now} now" for key, (then, now) in sorted(pairs.items()) if then != now]
    if differing:
        raise OptionError(
            f"{where} holds a signature that was distilled with other settings ({'; '.join(differing)}); remove it, or "
            "choose another output folder"
        )


def _keep_start(start: nn.Module, folder: Path) -> None:
    """Write `pretrained/`, once; another start than the one that the folder's models have is an error."""
    if (folder / BASE).exists():
        if weights_digest(load_base(folder / START).model) != weights_digest(start):
            raise OptionError(f"{folder} holds a study from another start; choose another output folder")
    elif is_main_process():
        save_timm_repo(start, folder / START)
    process_state().wait_for_everyone()
    if not (folder / START / MODEL_NAME).is_file():
        raise OptionError(
            f"{folder / START} is not what the first process has written: give an output folder that all processes see"
        )


def write_base_card(folder: Path, result: TrainingResult) -> None:
    """Write the README.md of a trained model from what its folder says; an existing one keeps its text."""
    config, training = (read_json(folder / name, str(folder / name)) for name in (CONFIG_NAME, TRAINING_NAME))
    clean = result.test_accuracy["clean"]
    metrics = {"ta": clean, "ra": {k: v for k, v in result.test_accuracy.items() if k != "clean"}, "n": result.n}
    card = cards.base_card(
        config,
        training=training,
        metrics=metrics,
        repo_id=folder.name,
        nbytes=(folder / MODEL_NAME).stat().st_size,
    )
    write_whole(folder / README_NAME, cards.updated(folder / README_NAME, card))


def _measure(
    folder: Path,
    corruption: str,
    made: Mapping[str, Signature],
    results: Mapping[str, TrainingResult],
    test: ImageSet,
    scales: Sequence[float],
    adversary: Adversary | None,
) -> StudyRow:
    """A study's row; each signature gets what was measured into its config, and is saved."""
    severity = next(iter(made.values())).config.corruption.severity or 0
    device = process_state().device
    shown = test if adversary else Pixels(test, device, (corruption,), severity)
    title = adversary.label if adversary else f"{corruption}-{severity}"
    base_nbytes = (folder / BASE / MODEL_NAME).stat().st_size
    ta, ra, nbytes, download = {}, {}, {}, {}
    robust = results.get(robust_name(corruption))
    if robust is not None:
        ta["robust"], ra["robust"] = robust.test_accuracy["clean"], robust.test_accuracy[title]
    for kind, signature in made.items():
        model = load_base(folder / BASE).model.to(device)
        curve = measure_scales(model, signature, test, shown, scales, adversary=adversary)
        off, on = (next(point for point in curve if point["scale"] == scale) for scale in (0.0, 1.0))
        ta |= {"standard": off["ta"], kind: on["ta"]}
        ra |= {"standard": off["ra"], kind: on["ra"]}
        metrics: dict[str, Any] = {
            "dataset": test.name,
            "split": "test",
            "n": len(test),
            "seed": 0,
            **({"attack": str(adversary)} if adversary else {"severity": severity}),
            "standard": {"ta": off["ta"], "ra": off["ra"]},
            "patched": {"ta": on["ta"], "ra": on["ra"]},
            **({"robust": {"ta": ta["robust"], "ra": ra["robust"]}} if robust is not None else {}),
            "base_nbytes": base_nbytes,
            "signature_nbytes": signature.nbytes,
        }
        if len(curve) > 2:
            metrics["scale_curve"] = curve
        where = folder / signature_name(corruption, kind)
        signature.with_results(metrics=metrics).save_pretrained(where)
        nbytes[kind] = signature.nbytes
        download[kind] = signature.nbytes + (where / CONFIG_NAME).stat().st_size
    return StudyRow(corruption, severity, len(test), ta, ra, nbytes, download, base_nbytes)
