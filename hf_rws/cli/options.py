"""Options that commands share, and what their texts mean.

| options | commands |
|---|---|
| --output-dir | train study extract distill corrupt apply bundle save-base quickstart |
| --overwrite | train extract distill corrupt apply bundle save-base |
| --dataset-config --dataset-revision --image-column --skip-broken | train study distill corrupt evaluate |
| --label-column --classes --test-split | train study evaluate |
| --image-size | train study evaluate save-base |
| --model-arg | train study save-base |
| --adversary --eps --attack-steps --attack-step-size | train study evaluate |
| --device | train study distill evaluate quickstart |
| --batch-size | train study distill evaluate |
| --seed | train study distill corrupt evaluate |
| --scale | apply bundle evaluate |
| --token | train study extract distill corrupt apply bundle save-base quickstart evaluate info push ls |
| --license | push save-base |
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hf_rws._choices import (
    ADVERSARIES,
    ALL,
    AUGMENTATION_NAMES,
    BAR,
    CORRUPTIONS,
    PRECISIONS,
    RECIPE_NAMES,
    SCHEDULES,
    UNSEEN,
)
from hf_rws._environment import environment
from hf_rws._files import check_writable
from hf_rws._transport.ids import REPO_ID
from hf_rws.errors import OptionError

_Command = Callable[..., Any]


def _together(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Several options as one decorator, listed by `--help` in this order."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def output_dir(help: str = "Folder for the results.", **settings: Any) -> Callable[[_Command], _Command]:
    """--output-dir, which is tried before the work begins."""

    def tried(context: click.Context, option: click.Parameter, folder: Path | None) -> Path | None:
        return None if folder is None else check_writable(folder, "the results")

    return click.option("--output-dir", type=click.Path(path_type=Path), callback=tried, help=help, **settings)


output_dir_option = output_dir(required=True)

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what else --output-dir holds.")
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="E.g. cpu, cuda, cuda:1, mps; auto: the fastest.",
)
token_option = click.option(
    "--token", help="User access token.  [default: that of `hf auth login` or HF_TOKEN, which no history keeps]"
)


def for_all_it_calls(command: _Command) -> _Command:
    """Decorator of a command with --token or --device: they hold for whatever it calls, by environment variables."""

    @functools.wraps(command)
    def inside(*args: Any, token: str | None = None, device: str = "auto", **options: Any) -> Any:
        from hf_rws._accelerator import training_on

        with environment({"HF_TOKEN": token} if token else {}), training_on(device):
            return command(*args, **options)

    return inside


look_options = _together(
    click.option("--cache-dir", type=click.Path(path_type=Path), help="Instead of the Hub's own cache."),
    click.option("--local-files-only", is_flag=True, help="Do not ask the Hub; take what is in the cache."),
    token_option,
)
fetch_options = _together(
    look_options,
    click.option("--force-download", is_flag=True, help="Fetch again what is in the cache."),
)
license_option = click.option("--license", help="For the card, e.g. apache-2.0.  [default: the base's, where known]")


def _scales(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> Any:
    """What `load_patched` takes: None, one number for all, a list, or a mapping of names."""
    pairs = [text.rpartition("=") for text in given]
    if any(equals for _, equals, _ in pairs) and not all(name and equals for name, equals, _ in pairs):
        raise click.BadParameter("give numbers in the order of the signatures, or NAME=NUMBER for each")
    try:
        numbers = [float(number) for _, _, number in pairs]
    except ValueError:
        raise click.BadParameter(f"must look like 0.7 or rws-fog=0.7, got {' '.join(given)}") from None
    if pairs and pairs[0][1]:
        names = [name for name, _, _ in pairs]
        if len(set(names)) < len(names):
            raise click.BadParameter("names each signature once")
        return dict(zip(names, numbers, strict=True))
    return numbers[0] if len(numbers) == 1 else numbers or None


scale_option = click.option(
    "--scale", "scales", multiple=True, callback=_scales, metavar="[NAME=]NUMBER",
    help="One for all, one per signature in their order, or by name: rws-fog=0.7.  [default: by their number]",
)  # fmt: skip
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Of the order and of all draws.")
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Images at a time, over all processes.  [default: 128 in training; in measuring what memory holds]",
)

image_size_option = click.option(
    "--image-size", type=click.IntRange(1), help="Side of the square images; others are resized and cropped."
)
model_arg_option = click.option(
    "--model-arg", "model_args", multiple=True, metavar="NAME=VALUE", help="E.g. width=0.25; repeatable."
)

# Of whatever holds images.
image_options = _together(
    click.option("--dataset-config", help="Configuration, of a dataset that has several."),
    click.option("--dataset-revision", help="Revision of a Hub dataset."),
    click.option("--image-column", help="Column of the images, where there are several."),
    click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read, and say which."),
)

# Of what is labelled, too.
dataset_options = _together(
    image_options,
    click.option("--label-column", help="Column of the labels.  [default: the class label with the most classes]"),
    click.option("--classes", help="Classes to keep, by number or name: 0-49,60 or cat,dog."),
    click.option("--test-split", help="Split that is measured.  [default: test, or validation]"),
    image_size_option,
)

data_options = _together(
    click.option("--dataset", required=True, help="Hub id or folder of an image-classification dataset."),
    dataset_options,
    click.option("--validation", type=float, default=0.1, show_default=True, help="Share of the training images."),
    click.option("--split-seed", type=int, default=0, show_default=True, help="Seed of the validation split."),
    click.option("--limit", type=click.IntRange(1), help="Use only so many training images, drawn at random."),
)

model_options = _together(
    click.option("--model", help="timm name, e.g. vgg16_gap; random weights unless --pretrained."),
    click.option("--init-from", help="Folder or Hub id of a timm repo to start from (instead of --model)."),
    click.option("--pretrained", is_flag=True, help="Start from timm's weights of --model."),
    model_arg_option,
)


def _of_an_adversary(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """The value of an option that means nothing without --adversary, which click has read before."""
    if value is not None and context.params.get("adversary") is None:
        raise click.UsageError(f"{option.opts[0]} goes with --adversary")
    return value


adversary_options = _together(
    click.option(
        "--adversary", type=click.Choice(ADVERSARIES), is_eager=True,
        help="Adversarial images (PGD), bounded in this norm, as one corruption more.",
    ),
    click.option("--eps", type=float, callback=_of_an_adversary, help="That bound, in 1/255.  [default: 8]"),
    click.option(
        "--attack-steps", type=click.IntRange(1), callback=_of_an_adversary,
        help="Steps of PGD; a study measures with 10 whatever it trains with.  [default: 10]",
    ),
    click.option(
        "--attack-step-size", type=float, callback=_of_an_adversary,
        help="How far each goes, in 1/255.  [default: 2.5 eps / steps]",
    ),
)  # fmt: skip

recipe_options = _together(
    click.option(
        "--recipe", type=click.Choice(RECIPE_NAMES), default="short", show_default=True,
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
    batch_size_option,
    click.option("--momentum", type=float, default=0.9, show_default=True, help="Of SGD."),
    click.option("--nesterov/--no-nesterov", default=None, help="Nesterov momentum or not.  [default: the recipe's]"),
    click.option("--weight-decay", type=float, default=5e-4, show_default=True, help="On all parameters."),
    click.option(
        "--augmentation", type=click.Choice(["auto", *AUGMENTATION_NAMES]), default="auto", show_default=True,
        help="auto: crops below 48 px, rotations above.",
    ),
    seed_option,
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

extraction_options = _together(
    click.option("--num-layers", help="First layers to take: a number or 'all'.  [default: 7, or what there is]"),
    click.option(
        "--projection", type=click.Choice(["weights", "all", "none"]), default="weights", show_default=True,
        help="Which differences to project: weights only, biases too, none.",
    ),
    click.option(
        "--bits", default="default", show_default=True,
        help="1-8, ternary, default, small, tiny or none; or one for each layer, e.g. 8,4,ternary.",
    ),
)  # fmt: skip


def corruption_option(
    help: str, *, words: tuple[str, ...] = (), unseen: bool = False, **settings: Any
) -> Callable[[_Command], _Command]:
    """--corruption, whose names are listed in the help text rather than in its one long first line.

    Args:
        help: What is done with them.
        words: For several at once; see `corruptions_asked_for`.
        unseen: Whether those of `BAR` can be named, too.
        settings: Of `click.option`.
    """
    names = [*words, *CORRUPTIONS, *(BAR if unseen else ())]
    help = f"{help} One of {', '.join(names)}."
    return click.option("--corruption", metavar="NAME", type=click.Choice(names), help=help, **settings)


def corruptions_asked_for(given: tuple[str, ...]) -> str | list[str]:
    """The values of --corruption as functions take them: a list of names, or the one word for several."""
    for word in (ALL, UNSEEN):
        if word in given:
            if len(given) > 1:
                raise click.UsageError(f"--corruption {word} stands alone")
            return word
    return list(given)


def check_destination(repo_id: str) -> None:
    """OptionError before the work begins, unless this can be the id of a repo."""
    if not REPO_ID.fullmatch(repo_id):
        raise OptionError(f"{repo_id!r} is no Hub id to push to: give user/name")


def parse_pairs(pairs: tuple[str, ...]) -> dict[str, Any]:
    """The values of --model-arg: whole numbers, other numbers, true and false, or words."""
    return dict(_parse_pair(pair) for pair in pairs)


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


def given_options(**values: Any) -> dict[str, Any]:
    """Those that were given: neither None nor a flag that is not set; what is called has its own defaults."""
    return {name: value for name, value in values.items() if value is not None and value is not False}


def parse_bits(text: str) -> Any:
    """The value of --bits: "4", "ternary", "default", "none" or a list such as "8,4,ternary"."""
    entries = [None if part == "none" else int(part) if _is_number(part) else part for part in text.split(",")]
    return entries if len(entries) > 1 else entries[0]


def number_or_word(value: str | None) -> Any:
    """The value of --num-layers: "7" or "all"."""
    return int(value) if value is not None and _is_number(value) else value


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
