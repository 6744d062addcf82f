"""`hf-rws corrupt`."""
# ruff: noqa: D301 (a raw docstring would take the meaning from click's \b, "leave these lines as they are")

from pathlib import Path
from typing import Any

import click

from hf_rws._choices import PARAMETER_SETS
from hf_rws._files import COPY, check_room, read_json
from hf_rws.cli.options import (
    check_destination,
    corruption_option,
    for_all_it_calls,
    given_options,
    image_options,
    output_dir_option,
    overwrite_option,
    seed_option,
    token_option,
)
from hf_rws.cli.output import Output, output_options


@click.command(short_help="Write a corrupted copy of a dataset.")
@click.option("--dataset", required=True, help="Hub id or folder of a dataset with images.")
@image_options
@click.option("--split", "splits", multiple=True, help="Repeatable.  [default: all]")
@corruption_option("What to do to the images.", unseen=True, required=True)
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
@overwrite_option
@click.option("--push-to", metavar="REPO_ID", help="Hub dataset to push the copy to.")
@click.option("--private", is_flag=True, help="Make that dataset private if it is new.")
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
    overwrite: bool,
    push_to: str | None,
    private: bool,
    output: Output,
    **options: Any,
) -> None:
    """Write a corrupted copy of a dataset as parquet, all else as it is.

    The same command goes on where it was interrupted.

    \b
    Examples:
      hf-rws corrupt --dataset uoft-cs/cifar10 --corruption fog --output-dir cifar10-fog --num-proc 4
      hf-rws corrupt --dataset user/photos --split test --corruption snow --severity 3 --output-dir photos-snow \\
        --push-to user/photos-snow
    """
    if push_to is not None:
        check_destination(push_to)
    check_room(output_dir, "the copy", COPY, overwrite=overwrite)

    from hf_rws.copies import RECORD, push_copy, write_corrupted_copy

    folder = write_corrupted_copy(
        dataset,
        output_dir,
        corruption,
        splits=splits or None,
        overwrite=overwrite,
        progress=True,
        **given_options(config=dataset_config, revision=dataset_revision, skip_broken=skip_broken),
        **options,
    )
    record = read_json(folder / RECORD, str(folder / RECORD))
    url = None if push_to is None else str(push_copy(folder, push_to, private=private or None).commit_url)
    made = {"folder": str(folder), "images": sum(record["splits"].values()), "url": url}
    output.record(made, id_key="folder" if url is None else "url")
