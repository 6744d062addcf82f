"""`hf-rws evaluate` and `quickstart`."""
# ruff: noqa: D301 (a raw docstring would take the meaning from click's \b, "leave these lines as they are")

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hf_rws.cli.options import corruption_option, device_option, for_all_it_calls, output_dir, token_option
from hf_rws.cli.output import Output, output_options

if TYPE_CHECKING:
    from hf_rws.data import Benchmark, ImageSet


@click.command(short_help="Measure accuracy, clean and corrupted.")
@click.argument("base")
@click.argument("signatures", nargs=-1)
@click.option("--dataset", required=True, help="Hub id or folder (its test split is used), or a CIFAR-10-C.")
@click.option("--dataset-config", help="Configuration, of a dataset that has several.")
@click.option("--dataset-revision", help="Revision of a Hub dataset.")
@click.option("--classes", help="Classes to keep, as in the training, e.g. 0-49,60; a benchmark's also by name.")
@click.option("--image-size", type=click.IntRange(1), help="Resize and crop images to this, as in the training.")
@click.option("--scale", "scales", type=float, multiple=True, help="One per signature.")
@corruption_option("Repeatable; all if none is named.", multiple=True)
@click.option(
    "--clean-only", is_flag=True, help="Measure the images as they are: for a dataset that is corrupted already."
)
@click.option(
    "--severity", "severities", type=click.IntRange(1, 5), multiple=True, default=[5], show_default=True,
    help="Repeatable.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Use only the first so many images.")
@output_options
def evaluate(
    base: str,
    signatures: tuple[str, ...],
    dataset: str,
    dataset_config: str | None,
    dataset_revision: str | None,
    classes: str | None,
    image_size: int | None,
    scales: tuple[float, ...],
    corruption: tuple[str, ...],
    clean_only: bool,
    severities: tuple[int, ...],
    limit: int | None,
    output: Output,
) -> None:
    """Accuracy of BASE with SIGNATURES on, on clean and corrupted test images, or on a published benchmark.

    \b
    Examples:
      hf-rws evaluate base rws-fog --dataset uoft-cs/cifar10 --corruption fog
      hf-rws evaluate base rws-fog --dataset cifar10-fog --clean-only
      hf-rws evaluate base rws-fog --dataset CIFAR-10-C --severity 3 --severity 5
    """
    from hf_rws.data.benchmarks import is_benchmark, open_benchmark
    from hf_rws.data.datasets import load_split
    from hf_rws.evaluation import evaluate as evaluate_model
    from hf_rws.loading import load_patched

    if clean_only and (corruption or is_benchmark(dataset)):
        raise click.UsageError("--clean-only goes without --corruption, and not with a published benchmark")
    model = load_patched(base, list(signatures), scales=list(scales) or None)
    images: ImageSet | Benchmark
    if is_benchmark(dataset):
        images = open_benchmark(dataset, classes=classes, image_size=image_size)
    else:
        images = load_split(
            dataset, config=dataset_config, revision=dataset_revision, classes=classes, image_size=image_size
        )
    result = evaluate_model(
        model,
        images,
        list(corruption) or ([] if clean_only else "all"),
        severities=severities,
        limit=limit,
        progress=sys.stderr.isatty(),
    )
    output.table([asdict(row) for row in result.rows], id_key="accuracy", human=result.to_markdown())


@click.command(short_help="The whole idea in a few minutes.")
@output_dir(default=Path("hf-rws-quickstart"), show_default=True)
@corruption_option("Repeatable; fog, gaussian_noise and contrast if none is named.", multiple=True)
@click.option("--dataset", help="Hub id or folder.  [default: the sample beside the source, else uoft-cs/cifar10]")
@device_option
@token_option
@for_all_it_calls
@output_options
def quickstart(output_dir: Path, corruption: tuple[str, ...], dataset: str | None, output: Output) -> None:
    """The whole idea in a few minutes on a CPU: train, extract, patch, measure, and draw a picture.

    \b
    Example:
      hf-rws quickstart && cd hf-rws-quickstart
      python -c 'import hf_rws; print(hf_rws.load_patched("base", ["rws-fog-distilled"]).rws)'
    """
    from hf_rws.study.quickstart import quickstart as run_quickstart

    study, text = run_quickstart(output_dir, corruptions=corruption or None, dataset=dataset)
    output.table([row.flat() for row in study.rows], id_key="corruption", human=text)
