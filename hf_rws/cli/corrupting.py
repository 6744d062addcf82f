"""`hf-rws corrupt`."""
# ruff: noqa: D301 (a raw docstring would take the meaning from click's \b, "leave these lines as they are")

import sys
from pathlib import Path
from typing import Any

import click

from hf_rws._choices import PARAMETER_SETS
from hf_rws._files import read_json
from hf_rws.cli.options import (
    corruption_option,
    for_all_it_calls,
    given_options,
    image_options,
    output_dir_option,
    seed_option,
    token_option,
)
from hf_rws.cli.output import Output, output_options


@click.command(short_help="Write a corrupted copy of a dataset.")
@click.option("--dataset", required=True, help="Hub id or folder of a dataset with images.")
@image_options
@click.option("--split", "splits", multiple=True, help="Repeatable.  [default: all]")
@corruption_option("What to do to the images.", required=True)
@click.option("--severity", type=click.IntRange(1, 5), default=5, show_default=True, help="How much of it.")
@seed_option
@click.option(
    "--parameters", type=click.Choice(["auto", *PARAMETER_SETS]), default="auto", show_default=True,
    help="Severity constants; auto: by the size of each image.",
)  # fmt: skip
@click.option("--jpeg-quality", type=click.IntRange(1, 100), help="Save JPEG, e.g. 85 as ImageNet-C.  [default: PNG]")
@click.option("--images-per-shard", type=click.IntRange(1), help="Images in a file.  [default: up to 256 MB of pixels]")
@click.option("--num-proc", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@output_dir_option
@token_option
@for_all_it_calls
@output_options
def corrupt(
    dataset: str,
    output_dir: Path,
    corruption: str,
    splits: tuple[str, ...],
    dataset_config: str | None,
    dataset_revision: str | None,
    skip_broken: bool,
    output: Output,
    **options: Any,
) -> None:
    """Write a corrupted copy of a dataset as parquet, all else as it is, ready for `hf upload`.

    The same command goes on where it was interrupted.

    \b
    Example:
      hf-rws corrupt --dataset uoft-cs/cifar10 --corruption fog --output-dir cifar10-fog --num-proc 4
      hf upload user/cifar10-fog cifar10-fog --repo-type dataset
    """
    from hf_rws.copies import RECORD, write_corrupted_copy

    folder = write_corrupted_copy(
        dataset,
        output_dir,
        corruption,
        splits=splits or None,
        progress=sys.stderr.isatty(),
        **given_options(config=dataset_config, revision=dataset_revision, skip_broken=skip_broken),
        **options,
    )
    record = read_json(folder / RECORD, str(folder / RECORD))
    output.record({"folder": str(folder), "images": sum(record["splits"].values())}, id_key="folder")
