"""`hf-rws bundle` and `save-base`."""
# ruff: noqa: D301 (a raw docstring would take the meaning from click's \b, "leave these lines as they are")

from pathlib import Path
from typing import Any

import click

from hf_rws._files import read_text
from hf_rws.cli.options import (
    fetch_options,
    for_all_it_calls,
    given_options,
    image_size_option,
    license_option,
    model_arg_option,
    output_dir_option,
    overwrite_option,
    parse_pairs,
    scale_option,
    token_option,
)
from hf_rws.cli.output import Output, output_options
from hf_rws.timm_repo import MODEL_NAME


@click.command(short_help="Pack a base and signatures into one folder.")
@click.argument("base")
@click.argument("signatures", nargs=-1, required=True)
@scale_option
@click.option("--revision", help="Branch, tag or commit of the base; a signature's is part of its id: user/rws-fog@v1.")
@output_dir_option
@click.option("--overwrite", is_flag=True, help="Replace an earlier bundle in --output-dir.")
@fetch_options
@output_options
def bundle(
    base: str,
    signatures: tuple[str, ...],
    output_dir: Path,
    overwrite: bool,
    output: Output,
    **options: Any,
) -> None:
    """Pack BASE and SIGNATURES into a folder that loads without network: `load_patched(lockfile=folder)`.

    \b
    Examples:
      hf-rws bundle user/model user/rws-fog user/rws-snow --output-dir winter
      hf-rws apply --lockfile winter --output-dir model-winter
    """
    from hf_rws import hub

    folder = hub.bundle(base, list(signatures), output_dir, overwrite=overwrite, **options)
    nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    output.record({"folder": str(folder), "nbytes": nbytes}, id_key="folder")


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Three numbers, one for each channel."""
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter("give three numbers, for red, green and blue, e.g. 0.5,0.5,0.5") from None
    return red, green, blue


@click.command(short_help="Make a base of a model of your own.")
@click.argument("source")
@click.option("--model", "architecture", help="timm name of the model whose weights a file holds.")
@model_arg_option
@click.option("--label-names", metavar="TEXT|FILE", help="Class names by number: cat,dog, or a file with one a line.")
@image_size_option
@click.option("--mean", metavar="R,G,B", callback=_numbers, help="Of the images, on a scale of 0 to 1.")
@click.option("--std", metavar="R,G,B", callback=_numbers, help="Of the images, on a scale of 0 to 1.")
@output_dir_option
@overwrite_option
@license_option
@token_option
@for_all_it_calls
@output_options
def save_base(
    source: str,
    output_dir: Path,
    model_args: tuple[str, ...],
    label_names: str | None,
    image_size: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    output: Output,
    **options: Any,
) -> None:
    """Make a base of SOURCE: a file with the weights of a timm model, or a folder, Hub id or timm name of one.

    Of a file only tensors are read: a state dict, or a checkpoint of timm's trainer.

    \b
    Examples:
      hf-rws save-base model.pt --model resnet18 --image-size 32 --label-names cat,dog --output-dir base
      hf-rws save-base saved-by-timm/ --license mit --output-dir base
    """
    from hf_rws import hub

    size = None if image_size is None else (3, image_size, image_size)
    folder = hub.save_base(
        source,
        output_dir,
        label_names=() if label_names is None else _names(label_names),
        preprocessing=given_options(input_size=size, mean=mean, std=std),
        **options,
        **parse_pairs(model_args),
    )
    output.record({"folder": str(folder), "nbytes": (folder / MODEL_NAME).stat().st_size}, id_key="folder")


def _names(text: str) -> list[str]:
    """Class names, from a list or from a file."""
    lines = read_text(Path(text), text).splitlines() if Path(text).is_file() else text.split(",")
    return [line.strip() for line in lines if line.strip()]
