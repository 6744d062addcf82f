"""`hf-rws train`, `study` and `extract`."""
# ruff: noqa: D301 (a raw docstring would take the meaning from click's \b, "leave these lines as they are")

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_rws._choices import ALL, SPREADS
from hf_rws._files import MODEL, SIGNATURE, check_room, is_file, locked, writing
from hf_rws.cli.options import (
    adversary_options,
    corruption_option,
    corruptions_asked_for,
    data_options,
    device_option,
    extraction_options,
    for_all_it_calls,
    given_options,
    model_options,
    number_or_word,
    output_dir_option,
    overwrite_option,
    parse_bits,
    parse_pairs,
    recipe_options,
    token_option,
)
from hf_rws.cli.output import Output, note, output_options
from hf_rws.errors import OptionError
from hf_rws.timm_repo import CONFIG_NAME, METRICS_NAME, MODEL_NAME, TRAINING_NAME

if TYPE_CHECKING:
    from hf_rws.data import Splits
    from hf_rws.study.processes import Spread
    from hf_rws.training import TrainingArguments


@click.command(short_help="Train a standard or a robust model.")
@model_options
@data_options
@corruption_option("What to train against; repeatable.", words=(ALL,), multiple=True)
@adversary_options
@recipe_options
@output_dir_option
@click.option("--resume", is_flag=True, help="Go on from an interrupted run in --output-dir.")
@overwrite_option
@device_option
@token_option
@for_all_it_calls
@output_options
def train(
    output_dir: Path, resume: bool, overwrite: bool, corruption: tuple[str, ...], output: Output, **options: Any
) -> None:
    """Train a standard model, or with --corruption or --adversary a robust one.

    \b
    Examples:
      hf-rws train --model vgg16_gap --model-arg width=0.25 --dataset uoft-cs/cifar10 --corruption fog \\
        --output-dir robust-fog
      accelerate launch -m hf_rws.cli train --model resnet18.a1_in1k --pretrained --dataset user/photos \\
        --output-dir base
    """
    if resume and overwrite:
        raise click.UsageError("--resume goes on with what is there, --overwrite removes it: give one of them")
    is_run = is_file(output_dir / TRAINING_NAME)
    check_room(output_dir, "the trained model", MODEL if is_run else None, overwrite=overwrite)
    corruptions = corruptions_asked_for(corruption)

    from hf_rws._accelerator import is_main_process
    from hf_rws.corruptions.registry import spelled_out
    from hf_rws.study.run import write_base_card
    from hf_rws.training import train as train_model

    arguments = _training_arguments(options, tuple(spelled_out(corruptions)))
    data, start, notes = _start(options, arguments.seed)
    if overwrite:
        _remove_run(output_dir)
    result = train_model(start, data, output_dir, arguments, resume=resume, notes=notes)
    if (output_dir / MODEL_NAME).is_file() and is_main_process():
        write_base_card(output_dir, result)
        note(f"{result.folder}: best epoch {result.best_epoch}, validation {result.validation_accuracy:.4f}")
        rows = [{"images": name, "accuracy": round(value, 4)} for name, value in result.test_accuracy.items()]
        output.table(rows, id_key="accuracy")


@click.command(short_help="Train, extract, distil and measure, from one start.")
@model_options
@data_options
@corruption_option("What to train against; repeatable.", words=(ALL,), multiple=True)
@adversary_options
@recipe_options
@extraction_options
@output_dir_option
@click.option("--distilled", type=click.IntRange(1), help="Also distil signatures, from so many training images.")
@click.option("--no-robust", is_flag=True, help="Leave out the robust models and what is extracted from them.")
@click.option("--no-scale-curve", is_flag=True, help="Do not measure TA and RA at other scales than 0 and 1.")
@click.option(
    "--spread",
    type=click.Choice(SPREADS),
    default="auto",
    show_default=True,
    help="What processes share out: models, or batches of each; auto is models where there are enough.",
)
@device_option
@token_option
@for_all_it_calls
@output_options
def study(
    output_dir: Path,
    corruption: tuple[str, ...],
    num_layers: str | None,
    projection: str,
    bits: str,
    distilled: int | None,
    no_robust: bool,
    no_scale_curve: bool,
    spread: "Spread",
    output: Output,
    **options: Any,
) -> None:
    """Make a standard model, robust models and their signatures from one start, and measure them.

    Finished models are skipped, an interrupted one is resumed: the same command goes on where it stopped.

    \b
    Examples:
      hf-rws study --init-from pretrained --dataset uoft-cs/cifar10 --corruption fog --corruption snow \\
        --output-dir study
      accelerate launch -m hf_rws.cli study --model resnet18.a1_in1k --pretrained --dataset user/photos \\
        --corruption all --output-dir study
    """
    if not corruption and options["adversary"] is None:
        raise click.UsageError("name at least one --corruption, or an --adversary")
    corruptions = corruptions_asked_for(corruption)

    from hf_rws._accelerator import is_main_process
    from hf_rws.corruptions.registry import spelled_out
    from hf_rws.study import run_study

    arguments = _training_arguments(options, ())
    data, start, notes = _start(options, arguments.seed)
    result = run_study(
        start,
        data,
        output_dir,
        arguments,
        corruptions=spelled_out(corruptions),
        distilled=distilled,
        robust=not no_robust,
        num_layers=number_or_word(num_layers),
        projection=None if projection == "none" else projection,  # type: ignore[arg-type]
        bits=parse_bits(bits),
        scale_curve=not no_scale_curve,
        spread=spread,
        notes=notes,
    )
    if is_main_process():
        output.table([row.flat() for row in result.rows], id_key="corruption", human=result.to_markdown())


@click.command(short_help="Make a signature from trained models.")
@click.argument("robust")
@click.argument("standard")
@click.argument("pretrained", required=False)
@click.option(
    "--corruption", "names", multiple=True, required=True, help="What it makes robust to: any label; repeatable."
)
@click.option("--severity", type=click.IntRange(1, 5), help="Severity it was trained with.")
@click.option("--dataset", help="Name of the dataset, for the card.")
@extraction_options
@output_dir_option
@overwrite_option
@token_option
@for_all_it_calls
@output_options
def extract(
    robust: str,
    standard: str,
    pretrained: str | None,
    names: tuple[str, ...],
    num_layers: str | None,
    projection: str,
    bits: str,
    output_dir: Path,
    overwrite: bool,
    output: Output,
    **options: Any,
) -> None:
    """Extract a signature from a ROBUST and a STANDARD model and the PRETRAINED one both started from.

    \b
    Example:
      hf-rws extract robust-fog base pretrained --corruption fog --severity 5 --output-dir rws-fog
    """
    check_room(output_dir, "the signature", SIGNATURE, overwrite=overwrite)

    from hf_rws.extraction import extract as extract_signature

    signature = extract_signature(
        robust,
        standard,
        pretrained,
        corruption=list(names),
        num_layers=number_or_word(num_layers),
        projection=None if projection == "none" else projection,  # type: ignore[arg-type]
        bits=parse_bits(bits),
        **options,
    )
    signature.save_pretrained(output_dir, overwrite=overwrite)
    output.record({"folder": str(output_dir), "nbytes": signature.nbytes}, id_key="folder")


def _remove_run(folder: Path) -> None:
    """Take away what an earlier training, or a saved model or signature, left."""
    from accelerate.state import PartialState

    from hf_rws._accelerator import is_main_process
    from hf_rws.signature.config import WEIGHTS_NAME as SIGNATURE_NAME

    if is_main_process():
        with writing(f"remove what {folder} holds"):
            if (folder / "checkpoint").is_dir():
                with locked(folder / "checkpoint", wait=0):  # not that of a training that is under way
                    shutil.rmtree(folder / "checkpoint")
            for name in (CONFIG_NAME, MODEL_NAME, TRAINING_NAME, METRICS_NAME, SIGNATURE_NAME):
                (folder / name).unlink(missing_ok=True)
    PartialState().wait_for_everyone()


# --- from options to what is trained ---


def _training_arguments(options: dict[str, Any], corruption: tuple[str, ...]) -> "TrainingArguments":
    """The recipe with what was given in its place; takes these options out of `options`."""
    from hf_rws.training import TrainingArguments

    taken = {name: options.pop(name) for name in ("recipe", *TrainingArguments.__dataclass_fields__) if name in options}
    given = {name: value for name, value in taken.items() if value is not None}
    if "milestones" in given:
        try:
            given["milestones"] = tuple(int(part) for part in given["milestones"].split(","))
        except ValueError:
            raise click.UsageError("--milestones must look like 20,40") from None
    return TrainingArguments.from_recipe(given.pop("recipe"), corruption=corruption, **given)


def _start(options: dict[str, Any], seed: int) -> "tuple[Splits, Any, dict[str, Any]]":
    """Data, start and what to record of both, from the options that are left."""
    dataset, config, revision = (options.pop(name) for name in ("dataset", "dataset_config", "dataset_revision"))
    model, init_from = options.pop("model"), options.pop("init_from")
    pretrained, pairs = options.pop("pretrained"), options.pop("model_args")
    skip_broken = options.pop("skip_broken")
    if (model is None) == (init_from is None):
        raise click.UsageError("give either --model or --init-from")
    if pretrained and init_from is not None:
        raise click.UsageError("--pretrained goes with --model; --init-from takes the weights that are there")

    import timm

    from hf_rws.data import load_splits
    from hf_rws.study import create_start

    if model is not None and not timm.is_model(model.partition(".")[0]):
        raise OptionError(f"timm has no model {model!r}; timm.list_models() lists them")
    model_args = parse_pairs(pairs)
    data = load_splits(dataset, **given_options(config=config, revision=revision, skip_broken=skip_broken), **options)
    try:
        start = create_start(init_from or model, data, pretrained=pretrained, seed=seed, **model_args)
    except TypeError as error:
        if not model_args:
            raise
        raise OptionError(f"{init_from or model} does not take --model-arg {' '.join(pairs)}: {error}") from error
    notes = {
        "dataset": data.train.name,
        "dataset_config": config,
        "dataset_revision": revision,
        "model": model,
        "model_args": model_args,
        **given_options(skip_broken=skip_broken),
        **options,
        **({"pretrained": True} if pretrained else {}),
    }
    if init_from is not None:
        notes["init_from"] = Path(init_from).resolve().name if Path(init_from).is_dir() else init_from
    return data, start, notes
