"""Bundles: a base, its signatures and a lockfile in one folder, for a machine without network."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from hf_rws._files import README_NAME, is_file, new_folder, output_folder, writing
from hf_rws._transport.ids import NAME, Location, parse_id
from hf_rws._transport.reading import fetch
from hf_rws.bases import load_base
from hf_rws.errors import OptionError
from hf_rws.layers import unwrap
from hf_rws.loading import load_patched
from hf_rws.patching.lockfile import LOCKFILE_NAME
from hf_rws.patching.patcher import SignatureLike, as_list, check_clean, split_name
from hf_rws.patching.scales import ScalesLike
from hf_rws.signature.signature import Signature
from hf_rws.timm_repo import CONFIG_NAME, MODEL_NAME, TRAINING_NAME, save_timm_repo

_FILES = (CONFIG_NAME, MODEL_NAME)
_OPTIONAL = (TRAINING_NAME, README_NAME)


def bundle(
    base: str | Path | nn.Module,
    signatures: Sequence[SignatureLike] | SignatureLike,
    folder: str | os.PathLike[str],
    *,
    scales: ScalesLike | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    **load_options: Any,
) -> Path:
    """Pack a base and signatures into a folder from which they load without network.

    ```python
    hf_rws.hub.bundle("user/base", ["user/rws-fog", "user/rws-snow"], "bundle")
    model = hf_rws.load_patched(lockfile="bundle")
    ```

    The folder holds `base/`, a folder for each signature under `signatures/`, and `lockfile.json` with the scales. It
    is loaded once before it is in place, so what does not fit shows here. An architecture of hf_rws itself needs
    `import hf_rws.models` there, which `load_patched` has done.

    Args:
        base: As for `load_patched`: a folder, a Hub id, a timm name or a model.
        signatures: As for `load_patched`.
        folder: Must not exist, be empty, or with `overwrite` hold an earlier bundle.
        scales: As for `load_patched`: what is on when the bundle is loaded.
        revision: The base's branch, tag or commit.
        overwrite: Put the bundle in the place of an earlier one; that goes when the new one is complete.
        load_options: Options of `load_patched`: token, cache_dir, local_files_only, force_download.

    Returns:
        The folder.

    Raises:
        OptionError: The folder holds something else, or scales do not fit the signatures.
        MismatchError: A signature does not fit the base.
        RWSError: Others of its subclasses, as `load_patched` raises them. Nothing is left behind.
    """
    folder = output_folder(folder, "the bundle")
    if os.path.exists(folder) and os.path.samefile(folder, os.curdir):
        raise OptionError("the present folder cannot be replaced by a bundle: give another one, or one in it")
    with writing(f"write the bundle {os.fspath(folder)!r}"):
        _check_empty(folder, overwrite)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = new_folder(folder.parent, ".bundling-")
        try:
            origin = _pack_base(base, temporary / "base", revision, load_options)
            packed = _pack_signatures(as_list(signatures), temporary / "signatures", load_options)
            _write_lockfile(temporary, packed, scales, [origin, *(signature.origin for _, signature, _ in packed)])
            _put(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder


def _check_empty(folder: Path, overwrite: bool) -> None:
    if not os.path.exists(folder) or not any(folder.iterdir()):
        return
    is_bundle = is_file(folder / LOCKFILE_NAME)
    if not (is_bundle and overwrite):
        way = ", or give overwrite=True" if is_bundle else ""
        held = "a bundle" if is_bundle else "not an empty folder"
        raise OptionError(f"{os.fspath(folder)!r} is there already and {held}: choose another one{way}")


def _put(complete: Path, folder: Path) -> None:
    """Give a bundle its place; an earlier one steps aside, and is gone afterwards."""
    if not is_file(folder / LOCKFILE_NAME):
        complete.replace(folder)
        return
    aside = new_folder(folder.parent, ".bundled-")
    folder.replace(aside / folder.name)
    try:
        complete.replace(folder)
    except BaseException:
        (aside / folder.name).replace(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _pack_base(
    base: str | Path | nn.Module, target: Path, revision: str | None, load_options: dict[str, Any]
) -> Location | None:
    """The files of a repo as they are; a model, or what timm fetches itself, is saved. Where it is from."""
    if isinstance(base, nn.Module):
        model = unwrap(base)
        check_clean(model, "bundle")
        save_timm_repo(model, target)
        return None
    where = parse_id(base, revision=revision)
    if where.kind == "name":
        save_timm_repo(load_base(base, revision=revision, **load_options).model, target)
        return where
    fetched = fetch(where, _FILES, optional=_OPTIONAL, **load_options)
    target.mkdir()
    for name in (*_FILES, *_OPTIONAL):
        if is_file(fetched.folder / name):
            shutil.copyfile(fetched.folder / name, target / name)
    return replace(where, revision=fetched.revision)


def _pack_signatures(
    signatures: Sequence[SignatureLike], target: Path, load_options: dict[str, Any]
) -> list[tuple[str, Signature, Path]]:
    """Save each signature; its name and its folder."""
    packed: dict[str, tuple[str, Signature, Path]] = {}
    for number, item in enumerate(signatures):
        name, source = split_name(item)
        signature = source if isinstance(source, Signature) else Signature.from_pretrained(source, **load_options)
        name = name or signature.name
        if name in packed:
            raise OptionError(f"two signatures are called {name!r}: give one another name, as a pair (name, id)")
        usable = NAME.fullmatch(name) and not name.startswith("signature-")  # what others are called
        place = target / (name if usable else f"signature-{number}")
        packed[name] = (name, signature, signature.save_pretrained(place))
    return list(packed.values())


def _write_lockfile(
    folder: Path,
    packed: Sequence[tuple[str, Signature, Path]],
    scales: ScalesLike | None,
    origins: Sequence[Location | None],
) -> None:
    """The lockfile of the packed files, with folders relative to it and what they are copies of on the Hub."""
    lockfile = load_patched(folder / "base", [(name, place) for name, _, place in packed], scales=scales).rws.lockfile()
    for part, origin in zip((lockfile["base"], *lockfile["signatures"]), origins, strict=True):
        part["id"] = Path(part["id"]).relative_to(folder).as_posix()
        if origin is not None and origin.kind == "hub":
            part["copy_of"] = str(origin)
    (folder / LOCKFILE_NAME).write_text(json.dumps(lockfile, indent=2) + "\n", encoding="utf-8")
