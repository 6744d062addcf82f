"""The command `hf-rws`: data on stdout, messages on stderr; exit codes 0, 1 (RWSError), 2 (usage), 130 (Ctrl-C)."""
# ruff: noqa: D301 (a raw docstring would take the meaning from click's \b, "leave these lines as they are")

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import timm

from hf_rws import __version__
from hf_rws.augmentation import AUGMENTATIONS
from hf_rws.corruptions import CORRUPTIONS
from hf_rws.data import Splits, load_split, load_splits
from hf_rws.errors import OptionError, RWSError
from hf_rws.evaluation import evaluate as evaluate_model
from hf_rws.extraction import extract as extract_signature
from hf_rws.loading import load_patched
from hf_rws.recipes import PRECISIONS, RECIPES, SCHEDULES, TrainingArguments
from hf_rws.study import create_start, is_main_process, run_study, write_base_card
from hf_rws.training import train as train_model

Command = Callable[..., Any]


def run(command: click.Command, arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave the process with its exit code."""
    try:
        code = command.main(arguments, standalone_mode=False)
    except RWSError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; the same command goes on with a training (hf-rws train: with --resume)", err=True)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def main() -> None:
    """The entry point `hf-rws`."""
    run(cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hf-rws")
def cli() -> None:
    """Robust weight signatures for timm models: robustness as easy as patching weights."""


# --- options that commands share ---


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_output_dir = click.option(
    "--output-dir", type=click.Path(path_type=Path), required=True, help="Folder for the results."
)

_data_options = _options(
    click.option("--dataset", required=True, help="Hub id or folder of an image-classification dataset."),
    click.option("--dataset-revision", help="Revision of a Hub dataset."),
    click.option("--classes", help="Classes to keep, e.g. 0-49,60."),
    click.option("--validation", type=float, default=0.1, show_default=True, help="Share of the training images."),
    click.option("--split-seed", type=int, default=0, show_default=True, help="Seed of the validation split."),
    click.option(
        "--image-size", type=click.IntRange(1), help="Resize and crop images to this; needed where they differ in size."
    ),
    click.option("--limit", type=click.IntRange(1), help="Use only so many training images, drawn at random."),
)

_model_options = _options(
    click.option("--model", help="timm name, e.g. vgg16_gap; random weights unless --pretrained."),
    click.option("--init-from", help="Folder or Hub id of a timm repo to start from (instead of --model)."),
    click.option("--pretrained", is_flag=True, help="Start from timm's weights of --model."),
    click.option("--model-arg", "model_args", multiple=True, metavar="NAME=VALUE", help="E.g. width=0.25; repeatable."),
)

_recipe_options = _options(
    click.option(
        "--recipe", type=click.Choice(list(RECIPES)), default="short", show_default=True,
        help="What the options below start from.",
    ),
    click.option(
        "--severity", type=click.IntRange(1, 5), default=5, show_default=True, help="Severity of the corruption."
    ),
    click.option("--fresh-corruption", is_flag=True, help="Draw the corruption anew every epoch."),
    click.option("--epochs", type=click.IntRange(1), help="Passes over the training images.  [default: the recipe's]"),
    click.option("--lr", type=float, help="Learning rate; the peak of one-cycle.  [default: the recipe's]"),
    click.option("--schedule", type=click.Choice(SCHEDULES), help="Of the learning rate.  [default: the recipe's]"),
    click.option("--milestones", help="Epochs of the step schedule, e.g. 20,40.  [default: the recipe's]"),
    click.option("--gamma", type=float, default=0.1, show_default=True, help="Factor of the step schedule."),
    click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True, help="Over all processes."),
    click.option("--momentum", type=float, default=0.9, show_default=True, help="Of SGD."),
    click.option("--nesterov/--no-nesterov", default=None, help="Nesterov momentum or not.  [default: the recipe's]"),
    click.option("--weight-decay", type=float, default=5e-4, show_default=True, help="On all parameters."),
    click.option(
        "--augmentation", type=click.Choice(["auto", *AUGMENTATIONS]), default="auto", show_default=True,
        help="auto: crops below 48 px, rotations above.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the head, the order and all draws."),
    click.option(
        "--mixed-precision", type=click.Choice(PRECISIONS), default="auto", show_default=True,
        help="auto: what the hardware computes fast.",
    ),
    click.option(
        "--gradient-accumulation-steps", type=click.IntRange(1), default=1, show_default=True,
        help="Parts in which a batch is computed.",
    ),
    click.option("--log-with", multiple=True, help="Tracker of Accelerate, e.g. tensorboard; repeatable."),
)  # fmt: skip

_extraction_options = _options(
    click.option("--num-layers", help="First layers to take: a number or 'all'.  [default: 7, or what there is]"),
    click.option(
        "--projection", type=click.Choice(["weights", "all", "none"]), default="weights", show_default=True,
        help="Which differences to project: weights only, biases too, none.",
    ),
    click.option(
        "--bits", default="default", show_default=True,
        help="1-8, ternary, default, small or none; or one for each layer, e.g. 8,4,ternary.",
    ),
)  # fmt: skip

_corruption_option = click.option(
    "--corruption", multiple=True, type=click.Choice(CORRUPTIONS), help="Corruption; repeatable."
)


# --- making ---


@cli.command()
@_model_options
@_data_options
@_corruption_option
@_recipe_options
@_output_dir
@click.option("--resume", is_flag=True, help="Go on from an interrupted run in --output-dir.")
def train(output_dir: Path, resume: bool, corruption: tuple[str, ...], **options: Any) -> None:
    """Train a standard model, or with --corruption a robust one.

    \b
    Example:
      hf-rws train --model vgg16_gap --model-arg width=0.25 --dataset uoft-cs/cifar10 --corruption fog \\
        --output-dir robust-fog
    """
    arguments = _training_arguments(options, corruption)
    data, start, notes = _start(options, arguments.seed)
    result = train_model(start, data, output_dir, arguments, resume=resume, notes=notes)
    if (output_dir / "model.safetensors").is_file() and is_main_process():
        write_base_card(output_dir, result)
        click.echo(
            f"{result.folder}: best epoch {result.best_epoch}, validation {result.validation_accuracy:.4f}", err=True
        )
        for name, value in result.test_accuracy.items():
            click.echo(f"{name}\t{value:.4f}")


@click.command()
@_model_options
@_data_options
@_corruption_option
@_recipe_options
@_extraction_options
@_output_dir
@click.option("--no-scale-curve", is_flag=True, help="Do not measure TA and RA at other scales than 0 and 1.")
def study(
    output_dir: Path,
    corruption: tuple[str, ...],
    num_layers: str | None,
    projection: str,
    bits: str,
    no_scale_curve: bool,
    **options: Any,
) -> None:
    """Make a standard model, robust models and their signatures from one start, and measure them.

    Finished models are skipped, an interrupted one is resumed: the same command goes on where it stopped.
    """
    if not corruption:
        raise click.UsageError("name at least one --corruption")
    arguments = _training_arguments(options, ())
    data, start, notes = _start(options, arguments.seed)
    result = run_study(
        start,
        data,
        output_dir,
        arguments,
        corruptions=corruption,
        num_layers=_number_or_word(num_layers),
        projection=None if projection == "none" else projection,  # type: ignore[arg-type]
        bits=parse_bits(bits),
        scale_curve=not no_scale_curve,
        notes=notes,
    )
    if is_main_process():
        click.echo(result.to_markdown())


@cli.command()
@click.argument("robust")
@click.argument("standard")
@click.argument("pretrained", required=False)
@click.option(
    "--corruption", "names", multiple=True, required=True, help="What it makes robust to: any label; repeatable."
)
@click.option("--severity", type=click.IntRange(1, 5), help="Severity it was trained with.")
@click.option("--dataset", help="Name of the dataset, for the card.")
@_extraction_options
@_output_dir
def extract(
    robust: str,
    standard: str,
    pretrained: str | None,
    names: tuple[str, ...],
    num_layers: str | None,
    projection: str,
    bits: str,
    output_dir: Path,
    **options: Any,
) -> None:
    """Extract a signature from a ROBUST and a STANDARD model and the PRETRAINED one both started from.

    \b
    Example:
      hf-rws extract robust-fog base pretrained --corruption fog --severity 5 --output-dir rws-fog
    """
    signature = extract_signature(
        robust,
        standard,
        pretrained,
        corruption=list(names),
        num_layers=_number_or_word(num_layers),
        projection=None if projection == "none" else projection,  # type: ignore[arg-type]
        bits=parse_bits(bits),
        **options,
    )
    signature.save_pretrained(output_dir)
    click.echo(f"{output_dir}\t{signature.nbytes}")


# --- measuring ---


@cli.command()
@click.argument("base")
@click.argument("signatures", nargs=-1)
@click.option("--dataset", required=True, help="Hub id or folder; its test split is used.")
@click.option("--dataset-revision", help="Revision of a Hub dataset.")
@click.option("--classes", help="Classes to keep, as in the training, e.g. 0-49,60.")
@click.option("--image-size", type=click.IntRange(1), help="Resize and crop images to this, as in the training.")
@click.option("--scale", "scales", type=float, multiple=True, help="One per signature.")
@click.option("--corruption", multiple=True, type=click.Choice(CORRUPTIONS), help="Repeatable.  [default: all]")
@click.option(
    "--severity", "severities", type=click.IntRange(1, 5), multiple=True, default=[5], show_default=True,
    help="Repeatable.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Use only the first so many images.")
@click.option(
    "--format", "style", type=click.Choice(["markdown", "csv"]), default="markdown", show_default=True,
    help="Of the table on stdout.",
)  # fmt: skip
def evaluate(
    base: str,
    signatures: tuple[str, ...],
    dataset: str,
    dataset_revision: str | None,
    classes: str | None,
    image_size: int | None,
    scales: tuple[float, ...],
    corruption: tuple[str, ...],
    severities: tuple[int, ...],
    limit: int | None,
    style: str,
) -> None:
    """Accuracy of BASE with SIGNATURES on, on clean and corrupted test images.

    \b
    Example:
      hf-rws evaluate base rws-fog --dataset uoft-cs/cifar10 --corruption fog
    """
    model = load_patched(base, list(signatures), scales=list(scales) or None)
    images = load_split(dataset, revision=dataset_revision, classes=classes, image_size=image_size)
    result = evaluate_model(
        model, images, list(corruption) or "all", severities=severities, limit=limit, progress=sys.stderr.isatty()
    )
    click.echo(result.to_markdown() if style == "markdown" else result.to_csv(), nl=style == "markdown")


@cli.command()
@click.option(
    "--output-dir", type=click.Path(path_type=Path), default=Path("hf-rws-quickstart"), show_default=True,
    help="Folder for the results.",
)  # fmt: skip
@click.option(
    "--corruption",
    multiple=True,
    type=click.Choice(CORRUPTIONS),
    help="Repeatable.  [default: fog, gaussian_noise, contrast]",
)
@click.option("--dataset", help="Hub id or folder.  [default: the sample beside the source, else uoft-cs/cifar10]")
def quickstart(output_dir: Path, corruption: tuple[str, ...], dataset: str | None) -> None:
    """The whole idea in a few minutes on a CPU: train, extract, patch, measure, and draw a picture.

    \b
    Example:
      hf-rws quickstart && cd hf-rws-quickstart
      python -c 'import hf_rws; print(hf_rws.load_patched("base", ["rws-fog"]).rws)'
    """
    from hf_rws.quickstart import quickstart as run_quickstart

    click.echo(run_quickstart(output_dir, corruptions=corruption or None, dataset=dataset))


# --- helpers ---


def _training_arguments(options: dict[str, Any], corruption: tuple[str, ...]) -> TrainingArguments:
    """The recipe with what was given in its place; takes these options out of `options`."""
    taken = {name: options.pop(name) for name in ("recipe", *TrainingArguments.__dataclass_fields__) if name in options}
    given = {name: value for name, value in taken.items() if value is not None}
    if "milestones" in given:
        try:
            given["milestones"] = tuple(int(part) for part in given["milestones"].split(","))
        except ValueError:
            raise click.UsageError("--milestones must look like 20,40") from None
    return TrainingArguments.from_recipe(given.pop("recipe"), corruption=corruption, **given)


def _start(options: dict[str, Any], seed: int) -> tuple[Splits, Any, dict[str, Any]]:
    """Data, start and what to record of both, from the options that are left."""
    dataset, revision = options.pop("dataset"), options.pop("dataset_revision")
    model, init_from = options.pop("model"), options.pop("init_from")
    pretrained, pairs = options.pop("pretrained"), options.pop("model_args")
    if (model is None) == (init_from is None):
        raise click.UsageError("give either --model or --init-from")
    if pretrained and init_from is not None:
        raise click.UsageError("--pretrained goes with --model; --init-from takes the weights that are there")
    if model is not None and not timm.is_model(model.partition(".")[0]):
        raise OptionError(f"timm has no model {model!r}; timm.list_models() lists them")
    model_args = dict(_parse_pair(pair) for pair in pairs)
    data = load_splits(dataset, revision=revision, **options)
    try:
        start = create_start(init_from or model, data, pretrained=pretrained, seed=seed, **model_args)
    except TypeError as error:
        if not model_args:
            raise
        raise OptionError(f"{init_from or model} does not take --model-arg {' '.join(pairs)}: {error}") from error
    notes = {
        "dataset": data.train.name,
        "dataset_revision": revision,
        "model": model,
        "model_args": model_args,
        **options,
    }
    if init_from is not None:
        notes["init_from"] = Path(init_from).resolve().name if Path(init_from).is_dir() else init_from
    return data, start, notes


def parse_bits(text: str) -> Any:
    """The value of --bits: "4", "ternary", "default", "none" or a list such as "8,4,ternary"."""
    entries = [None if part == "none" else int(part) if part.isdigit() else part for part in text.split(",")]
    return entries if len(entries) > 1 else entries[0]


def _parse_pair(pair: str) -> tuple[str, Any]:
    name, equals, value = pair.partition("=")
    if not equals:
        raise click.UsageError(f"--model-arg must look like width=0.25, got {pair!r}")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, {"true": True, "false": False}.get(value.lower(), value)


def _number_or_word(value: str | None) -> Any:
    return int(value) if value is not None and value.isdigit() else value
