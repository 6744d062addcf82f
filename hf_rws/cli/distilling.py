"""`hf-rws distill`."""
# ruff: noqa: D301 (a raw docstring would take the meaning from click's \b, "leave these lines as they are")

import tempfile
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_rws._choices import ALL, NORM_STATISTICS, OPTIMIZER_NAMES, UNSEEN
from hf_rws._files import SIGNATURE, check_room
from hf_rws.cli.options import (
    batch_size_option,
    check_destination,
    corruption_option,
    corruptions_asked_for,
    device_option,
    for_all_it_calls,
    given_options,
    image_options,
    number_or_word,
    output_dir,
    overwrite_option,
    parse_bits,
    seed_option,
    token_option,
)
from hf_rws.cli.output import Output, note, output_options
from hf_rws.errors import AccessError, RWSError

if TYPE_CHECKING:
    from hf_rws.signature import Signature


@click.command(short_help="Make a signature from unlabelled images.")
@click.option("--base", required=True, help="Folder, Hub id or timm name of the model to make robust.")
@click.option("--images", required=True, help="Folder or Hub id of clean images; labels are not needed.")
@image_options
@corruption_option(
    "Repeatable: one signature against all that are named.",
    words=(ALL, UNSEEN),
    unseen=True,
    multiple=True,
    required=True,
)
@click.option("--severity", type=click.IntRange(1, 5), default=5, show_default=True, help="Severity of the corruption.")
@output_dir("Folder for the signature.")
@overwrite_option
@click.option("--push-to", metavar="REPO_ID", help="Hub repo to push the signature to.")
@click.option("--private", is_flag=True, help="Make that repo private if it is new.")
@click.option("--limit", type=click.IntRange(1), help="Use only so many images, drawn at random.")
@click.option("--minutes", type=float, help="Time for the whole distillation; as many steps as fit.")
@click.option("--steps", type=click.IntRange(1), help="Optimizer steps.  [default: by the number of images]")
@click.option("--num-layers", help="First layers to train: a number or 'all'.  [default: 7, or what there is]")
@click.option(
    "--bits",
    default="default",
    show_default=True,
    help="1-8, ternary, a preset or none; or one for each layer, e.g. 8,4,ternary.",
)
@batch_size_option
@click.option("--clean-fraction", type=float, default=0.25, show_default=True, help="Share of clean images in a batch.")
@click.option("--temperature", type=float, default=2.0, show_default=True, help="Of the softmax of the answers.")
@click.option(
    "--optimizer",
    type=click.Choice(["auto", *OPTIMIZER_NAMES]),
    default="auto",
    show_default=True,
    help="auto: adamw where there are layer norms or --norm-statistics keep, else sgd.",
)
@click.option(
    "--norm-statistics",
    type=click.Choice(["auto", *NORM_STATISTICS]),
    default="auto",
    show_default=True,
    help="Of batch norms: auto keeps them for images of 128 px and more, else they learn.",
)
@click.option("--lr", type=float, help="Peak of the learning rate.  [default: the optimizer's]")
@click.option(
    "--quantization-aware/--no-quantization-aware",
    default=True,
    show_default=True,
    help="Take the rounding to --bits into account while training.",
)
@click.option("--hold-out", type=float, default=0.1, show_default=True, help="Share of images to judge progress on.")
@seed_option
@click.option("--name", help="Name of the signature.  [default: the corruption]")
@device_option
@token_option
@for_all_it_calls
@output_options
def distill(
    base: str,
    images: str,
    corruption: tuple[str, ...],
    output_dir: Path | None,
    push_to: str | None,
    private: bool,
    overwrite: bool,
    dataset_config: str | None,
    dataset_revision: str | None,
    image_column: str | None,
    skip_broken: bool,
    limit: int | None,
    batch_size: int | None,
    num_layers: str | None,
    bits: str,
    seed: int,
    output: Output,
    **options: Any,
) -> None:
    """Make a signature from a base and unlabelled images, in minutes.

    \b
    Examples:
      hf-rws distill --base user/model --images photos/ --corruption fog --minutes 2 --push-to user/rws-fog
      accelerate launch -m hf_rws.cli distill --base user/model --images user/photos --corruption all \\
        --num-layers all --output-dir rws-all
    """
    if output_dir is None and push_to is None:
        raise click.UsageError("say where the signature goes: --output-dir, --push-to or both")
    corruptions = corruptions_asked_for(corruption)
    if push_to is not None:
        check_destination(push_to)
    if output_dir is not None:
        check_room(output_dir, "the signature", SIGNATURE, overwrite=overwrite)

    from hf_rws._accelerator import is_main_process
    from hf_rws.bases import load_base
    from hf_rws.data import Preprocessing, as_images
    from hf_rws.distillation import DistillationStopped
    from hf_rws.distillation import distill as distill_signature
    from hf_rws.distillation.arguments import enough_images

    read = given_options(
        config=dataset_config, revision=dataset_revision, image_column=image_column, skip_broken=skip_broken
    )
    loaded = load_base(base)
    try:
        signature = distill_signature(
            loaded.model,
            as_images(
                images,
                preprocessing=Preprocessing.of(loaded.model, use_test_size=False),
                limit=limit or enough_images(options["steps"], batch_size),
                seed=seed,
                **read,
            ),
            corruption=corruptions,
            num_layers=number_or_word(num_layers),
            bits=parse_bits(bits),
            dataset=Path(images).resolve().name if Path(images).is_dir() else images,
            seed=seed,
            progress=True,
            **given_options(batch_size=batch_size),
            **options,
        )
        stopped = False
    except DistillationStopped as stop:
        signature, stopped = stop.signature, True
    if not is_main_process():
        return
    origin = replace(signature.config.base_model, repo_id=loaded.origin.repo_id, revision=loaded.origin.revision)
    signature = signature.with_results(base_model=origin)
    made_by = signature.config.method.training
    asked, taken, divergence = options["steps"], made_by["steps"], made_by["divergence"]
    early = f" (of {asked}: it got no better)" if asked and taken < asked and not stopped else ""
    note(
        f"{taken} steps{early} of {made_by['batch_size']} images, drawn from {made_by['images']}; "
        f"of {made_by['held_out']} others agree with the base:"
    )
    for kind, share in made_by["agreement"].items():
        note(f"{kind}: {share['before']:.3f} -> {share['after']:.3f}")
    note(f"divergence from its answers, which is made small: {divergence['before']:.4g} -> {divergence['after']:.4g}")
    folder = None if output_dir is None else _save(signature, output_dir, overwrite=overwrite)
    if stopped:
        folder = folder or _save_elsewhere(signature, str(push_to).rpartition("/")[2])
        note(f"stopped early, {made_by['stopped_early']}: the best signature so far is in {folder}")
    url = None if push_to is None or stopped else _push(signature, push_to, folder, private=private)
    made = {"folder": folder, "url": url, "nbytes": signature.nbytes}
    output.record(made, id_key="folder" if url is None else "url")
    if stopped:
        raise click.exceptions.Exit(130)


def _save(signature: "Signature", folder: Path, *, overwrite: bool) -> str:
    """Save where it was asked for; if that fails, the work of minutes is left elsewhere."""
    try:
        return str(signature.save_pretrained(folder, overwrite=overwrite))
    except RWSError as error:
        raise type(error)(f"{error}; the signature is in {_save_elsewhere(signature, folder.name)}") from error


def _save_elsewhere(signature: "Signature", name: str) -> str:
    """Save in a new folder of about this name, here or where temporary files are."""
    for place in (Path(), Path(tempfile.gettempdir())):
        free = (place / (name if number == 1 else f"{name}-{number}") for number in count(1))
        with suppress(RWSError):
            return str(signature.save_pretrained(next(path for path in free if not path.exists())))
    raise AccessError(f"neither here nor in {tempfile.gettempdir()} is room for the signature: it is lost")


def _push(signature: "Signature", repo_id: str, folder: str | None, *, private: bool) -> str:
    """Push; if that fails, the work of minutes is left in a folder."""
    try:
        return str(signature.push_to_hub(repo_id, private=private or None).commit_url)
    except (RWSError, KeyboardInterrupt) as error:
        folder = folder or _save_elsewhere(signature, repo_id.rpartition("/")[2])
        kept = f"the signature is in {folder}: hf-rws push {folder} {repo_id}"
        if isinstance(error, RWSError):
            raise type(error)(f"{error}; {kept}") from error
        note(kept)
        raise
