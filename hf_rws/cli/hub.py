"""`hf-rws info`, `apply`, `push` and `ls`."""
# ruff: noqa: D301 (a raw docstring would take the meaning from click's \b, "leave these lines as they are")

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hf_rws._choices import SORTS
from hf_rws._files import is_file
from hf_rws.cli.options import (
    check_destination,
    fetch_options,
    license_option,
    look_options,
    output_dir_option,
    overwrite_option,
    scale_option,
    token_option,
)
from hf_rws.cli.output import Output, columns, output_options
from hf_rws.errors import OptionError
from hf_rws.timm_repo import CONFIG_NAME, MODEL_NAME


@click.command(short_help="Look at a signature without its weights.")
@click.argument("signature")
@click.option("--base", help="Folder or Hub id of a model: say whether the signature fits it, too.")
@click.option("--revision", help="Branch, tag or commit of the signature.")
@look_options
@output_options
def info(signature: str, output: Output, **options: Any) -> None:
    """What a SIGNATURE (a folder or a Hub id) is, without downloading its weights.

    \b
    Examples:
      hf-rws info user/rws-fog
      hf-rws info user/rws-fog --base user/model --json
    """
    from hf_rws import hub

    found = hub.info(signature, **options)
    output.record(json.loads(found.to_json()), id_key="id", human=repr(found))


@click.command(short_help="Write a patched model as a plain timm repo.")
@click.argument("base", required=False)
@click.argument("signatures", nargs=-1)
@scale_option
@click.option("--lockfile", type=click.Path(path_type=Path), help="File or bundle that names BASE and SIGNATURES.")
@click.option("--strict", is_flag=True, help="Refuse signatures that were made from another base.")
@click.option("--revision", help="Branch, tag or commit of the base; a signature's is part of its id: user/rws-fog@v1.")
@output_dir_option
@overwrite_option
@fetch_options
@output_options
def apply(
    base: str | None,
    signatures: tuple[str, ...],
    scales: Any,
    lockfile: Path | None,
    output_dir: Path,
    overwrite: bool,
    output: Output,
    **options: Any,
) -> None:
    """Write BASE with SIGNATURES on as a plain timm repo, for good, with a card that holds the lockfile.

    \b
    Examples:
      hf-rws apply user/model user/rws-fog --output-dir model-fog
      hf-rws apply base rws-fog rws-snow --scale rws-fog=0.7 --scale rws-snow=0.3 --output-dir model-winter
    """
    if bool(signatures) == (lockfile is not None):
        raise click.UsageError("give BASE and SIGNATURES, or --lockfile, with which BASE may be given")

    from hf_rws.loading import check_room_for_patched, load_patched, save_patched

    check_room_for_patched(output_dir, overwrite=overwrite)
    model = load_patched(base, list(signatures), scales=scales, lockfile=lockfile, **options)
    folder = save_patched(model, output_dir, overwrite=overwrite)
    output.record(
        {
            "folder": str(folder),
            "scales": [f"{name}={scale:g}" for name, scale in model.rws.scales.items()],
            "nbytes": (folder / MODEL_NAME).stat().st_size,
        },
        id_key="folder",
    )


@click.command(short_help="Push a signature, a model or a study.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo_id", required=False)
@click.option("--base", help="Hub id of the model that a signature was made from, if its config does not say.")
@click.option("--namespace", help="For a study: user or organisation.  [default: yours]")
@click.option("--name", help="For a study: name of the base's repo.  [default: the folder's]")
@click.option("--no-collection", is_flag=True, help="For a study: make no collection.")
@click.option("--private", is_flag=True, help="Make repos private that are made now.")
@click.option("--revision", help="Branch to push to, made if needed.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead.")
@click.option("--commit-message", help="First line of the commit.")
@click.option("--tag", help="Tag to put on the commit.")
@license_option
@token_option
@output_options
def push(
    folder: Path,
    repo_id: str | None,
    namespace: str | None,
    name: str | None,
    no_collection: bool,
    private: bool,
    commit_message: str | None,
    license: str | None,
    token: str | None,
    output: Output,
    **options: Any,
) -> None:
    """Push the signature or model in FOLDER to REPO_ID, or a whole study: its base and its signatures.

    Nothing but what this library wrote is pushed, and nothing at all where nothing has changed.

    \b
    Examples:
      hf-rws push rws-fog user/rws-fog
      hf-rws push study --namespace user --name vgg16-cifar10
    """
    from hf_rws import hub
    from hf_rws.signature.config import WEIGHTS_NAME

    common: dict[str, Any] = {
        "license": license, "private": private or None, "token": token, "commit_message": commit_message
    }  # fmt: skip
    if repo_id is not None:
        check_destination(repo_id)
        if namespace or name or no_collection:
            raise click.UsageError("--namespace, --name and --no-collection are for a study, without REPO_ID")
        if is_file(folder / WEIGHTS_NAME) and not options["base"] and not hub.info(folder).base_model:
            raise OptionError(
                f"{folder} does not say which model it was made from, so its card could not say how to load it: name "
                "that model's Hub id by --base"
            )
        commit = hub.push_folder(folder, repo_id, **common, **options)
        rows = [{"repo": repo_id, "commit": commit.oid, "url": commit.pr_url or str(commit.repo_url)}]
        return output.table(rows, id_key="url")
    if is_file(folder / CONFIG_NAME):
        raise click.UsageError(
            f"{folder} holds one signature or model: give REPO_ID, e.g. user/{folder.resolve().name}"
        )
    if any(options.values()):
        raise click.UsageError("--base, --revision, --create-pr and --tag are for one repo: give REPO_ID")
    pushed = hub.push_all(
        folder,
        namespace=namespace,
        name=name,
        collection=not no_collection,
        progress=True,
        **common,
    )
    rows = [{"repo": id, "commit": commit.oid, "url": str(commit.repo_url)} for id, commit in pushed.commits.items()]
    if pushed.collection:
        rows.append({"repo": "(collection)", "commit": "", "url": pushed.collection})
    output.table(rows, id_key="url")


@click.command()
@click.option("--base", help="Made from this model: a Hub id.")
@click.option("--corruption", multiple=True, help="Against this corruption; of several, all.")
@click.option("--kind", type=click.Choice(["extracted", "distilled", "combined"]), help="Made this way.")
@click.option("--author", help="By this user or organisation.")
@click.option("--search", help="With this in their ids.")
@click.option("--sort", type=click.Choice(SORTS), help="Order, the largest first.  [default: the Hub's]")
@click.option("--limit", type=click.IntRange(1), default=30, show_default=True, help="At most so many.")
@token_option
@output_options
def ls(corruption: tuple[str, ...], output: Output, **options: Any) -> None:
    """List signatures on the Hub.

    \b
    Examples:
      hf-rws ls --base user/model
      hf-rws ls --corruption fog --sort downloads --quiet
    """
    from hf_rws import hub

    found = hub.list_signatures(corruption=corruption, **options)
    shown = [
        {
            "id": one.id,
            "corruptions": one.corruptions,
            "severity": one.severity,
            "kind": one.kind,
            "ra %": None if one.ra is None else f"{100 * one.ra:.1f}",
            "ta %": None if one.ta is None else f"{100 * one.ta:.1f}",
            "base": one.base_model,
            "downloads": one.downloads,
            "modified": one.last_modified and one.last_modified[:10],
            "private": one.private or None,
        }
        for one in found
    ]
    output.table([asdict(one) for one in found], id_key="id", human=columns(shown) if shown else None)
