"""`hf-rws bundle` and `save-base`."""
# ruff: noqa: D301 (a raw docstring would take the meaning from click's \b, "leave these lines as they are")

from pathlib import Path
from typing import Any

import click

from hf_rws.cli.options import (
    fetch_options,
    output_dir_option,
    overwrite_option,
    scale_option,
)
from hf_rws.cli.output import Output, output_options


@click.command(short_help="Pack a base and signatures into one folder.")
@click.argument("base")
@click.argument("signatures", nargs=-1, required=True)
@scale_option
@click.option("--revision", help="Branch, tag or commit of the base; a signature's is part of its id: user/rws-fog@v1.")
@output_dir_option
@overwrite_option
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
