"""`hf-rws evaluate` and `quickstart`."""
# ruff: noqa: D301 (a raw docstring would take the meaning from click's \b, "leave these lines as they are")

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_rws._choices import ALL, UNSEEN
from hf_rws._environment import environment
from hf_rws._files import check_writable, read_json, write_whole
from hf_rws.cli.options import (
    adversary_options,
    batch_size_option,
    corruption_option,
    corruptions_asked_for,
    dataset_options,
    device_option,
    for_all_it_calls,
    given_options,
    output_dir,
    scale_option,
    seed_option,
    token_option,
)
from hf_rws.cli.output import Output, output_options
from hf_rws.errors import OptionError

if TYPE_CHECKING:
    from hf_rws.evaluation import Comparison, Evaluation


_ENDINGS = (".csv", ".json", ".md", ".html", ".htm")


def _tried(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """--output, tried before the work begins."""
    if path is not None:
        if path.is_dir():
            raise OptionError(f"cannot write the table to {path}: it is a folder; name a file")
        if path.suffix and path.suffix.lower() not in _ENDINGS:
            raise OptionError(f"cannot write the table to {path}: its name must end in {', '.join(_ENDINGS)}")
        check_writable(path.parent, "the table")
    return path


@click.command(short_help="Measure accuracy, clean and corrupted, before and after.")
@click.argument("base")
@click.argument("signatures", nargs=-1)
@click.option("--dataset", required=True, help="Hub id or folder, or a published benchmark such as CIFAR-10-C.")
@dataset_options
@click.option(
    "--class-map", type=click.Path(path_type=Path),
    help='JSON file: what classes of the dataset are among the model\'s, {"car": "automobile"}.',
)  # fmt: skip
@scale_option
@corruption_option("Repeatable; all but C-bar's if none is named.", words=(ALL, UNSEEN), unseen=True, multiple=True)
@adversary_options
@click.option(
    "--clean-only", is_flag=True, help="Measure the images as they are: for a dataset that is corrupted already."
)
@click.option(
    "--severity", "severities", type=click.IntRange(1, 5), multiple=True, default=[5], show_default=True,
    help="Repeatable.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(1),
    help="Use only so many images, drawn at random by --seed; of a published benchmark the first.",
)  # fmt: skip
@seed_option
@batch_size_option
@device_option
@token_option
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@click.option(
    "--output", "output_file", type=click.Path(path_type=Path), callback=_tried, metavar="FILE",
    help="Also write the table there, as its name ends: .csv, .json, .md or .html.",
)  # fmt: skip
@output_options
def evaluate(
    base: str,
    signatures: tuple[str, ...],
    dataset: str,
    dataset_config: str | None,
    dataset_revision: str | None,
    class_map: Path | None,
    scales: Any,
    corruption: tuple[str, ...],
    adversary: str | None,
    eps: float | None,
    attack_steps: int | None,
    attack_step_size: float | None,
    clean_only: bool,
    severities: tuple[int, ...],
    limit: int | None,
    seed: int,
    batch_size: int | None,
    device: str,
    token: str | None,
    as_csv: bool,
    output_file: Path | None,
    output: Output,
    **read_options: Any,
) -> None:
    """Accuracy of BASE, and beside it of BASE with SIGNATURES on, on clean and corrupted test images.

    Images are brought to the model's size as its config says; --image-size does it otherwise. Classes are matched by
    name. With --adversary and no --corruption only clean images and that are measured. The difference has its 95 %
    interval, paired by image.

    \b
    Examples:
      hf-rws evaluate base rws-fog --dataset uoft-cs/cifar10 --corruption fog
      hf-rws evaluate base rws-fog --dataset photos --test-split train --output table.csv
      hf-rws evaluate base rws-fog --dataset cifar10-fog --clean-only
      hf-rws evaluate base rws-fog --dataset CIFAR-10-C --severity 3 --severity 5
      hf-rws evaluate base rws-pgd-linf-8 --dataset uoft-cs/cifar10 --adversary linf --eps 8
    """
    from hf_rws.data.benchmarks import is_benchmark
    from hf_rws.evaluation import Adversary, compare
    from hf_rws.evaluation import evaluate as evaluate_model
    from hf_rws.loading import load_patched

    if as_csv and output.asked:
        raise click.UsageError("give only one of --csv, --format, --json and --quiet")
    if clean_only and (corruption or is_benchmark(dataset)):
        raise click.UsageError("--clean-only goes without --corruption, and not with a published benchmark")
    corruptions = corruptions_asked_for(corruption) or ([] if clean_only or adversary else ALL)
    options = given_options(config=dataset_config, revision=dataset_revision, batch_size=batch_size, **read_options)
    if adversary is not None:
        given = given_options(eps=eps, steps=attack_steps, step_size=attack_step_size)
        options["adversary"] = Adversary(adversary, **given)
    if class_map is not None:
        options["class_map"] = read_json(class_map, str(class_map))
    with environment({"HF_TOKEN": token} if token else {}):
        model = load_patched(base, list(signatures), scales=scales)
        result = (compare if signatures else evaluate_model)(
            model,
            dataset,
            corruptions,
            severities=severities,
            limit=limit,
            seed=seed,
            device=device,
            progress=True,
            **options,
        )
    if as_csv:
        click.echo(result.to_csv(), nl=False)
    else:
        output.table(result.records(), id_key="accuracy", human=result.to_markdown())
    if output_file is not None:
        write_whole(output_file, _written(result, output_file.suffix.lower()))


def _written(result: "Evaluation | Comparison", ending: str) -> str:
    """A table in the format of a file's name; Markdown where that says nothing."""
    if ending == ".csv":
        return result.to_csv()
    if ending == ".json":
        return json.dumps(result.records(), indent=2) + "\n"
    return (result.to_html() if ending in (".html", ".htm") else result.to_markdown()) + "\n"


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
