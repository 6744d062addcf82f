"""Ids -> models: a base by its id, and a base with its signatures on."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from hf_rws import cards
from hf_rws._accelerator import resolve_device
from hf_rws._files import MODEL, README_NAME, check_room, output_folder
from hf_rws._transport.ids import Location
from hf_rws.bases import license_of, load_base
from hf_rws.errors import OptionError
from hf_rws.fingerprints import digest
from hf_rws.layers import unwrap
from hf_rws.patching.lockfile import Lockfile, read_lockfile
from hf_rws.patching.patcher import Patcher, SignatureLike, as_list, patch, split_name
from hf_rws.patching.scales import ScalesLike
from hf_rws.signature.signature import Signature
from hf_rws.timm_repo import save_timm_repo

if TYPE_CHECKING:
    from hf_rws.patching.patcher import PatchedModel

_MOST_THREADS = 32  # that fetch signatures


def load_patched(
    base: str | Path | nn.Module | None = None,
    signatures: Sequence[SignatureLike] | SignatureLike = (),
    *,
    scales: ScalesLike | None = None,
    lockfile: Mapping[str, Any] | str | Path | None = None,
    strict: bool = False,
    device: str | torch.device | None = None,
    revision: str | None = None,
    signature_revisions: Sequence[str | None] | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> "PatchedModel":
    """Load a base timm model and put signatures on it.

    ```python
    model = hf_rws.load_patched("user/vgg16-cifar10", ["user/rws-fog"])
    model.rws.set({"rws-fog": 0.7})
    again = hf_rws.load_patched(lockfile=model.rws.lockfile())
    ```

    Args:
        base: A folder, a Hub id, a timm name (see `load_base`), or a model, which is patched in place. With a
            `lockfile` it may be left out.
        signatures: `Signature`s, folders or Hub ids, or pairs (name, one of these). They are fetched in parallel.
        scales: One number for all signatures, a list with one for each, or a mapping of names or ids to them, as for
            `patch`. Without, one signature has 1 and n have 1/n each; `model.rws` says which are from that rule.
        lockfile: What `model.rws.lockfile()` gave, as a mapping, a file, or a folder with lockfile.json (what
            `hub.bundle` makes): names signatures, scales and all revisions itself.
        strict: Make it an error that a signature was made from another base, or with another normalisation.
        device: Where the model goes before it is patched: "auto" (a GPU where there is one), "cpu", "cuda:1", ...; None
            leaves it on the CPU, and one that is given as a model where it is.
        revision: The base's branch, tag or commit.
        signature_revisions: One per signature, None for the default branch.
        token: Hub token; by default the stored one.
        cache_dir: Hub cache.
        local_files_only: Use the cache only.
        force_download: Fetch again what is cached.

    Returns:
        A plain timm model, in eval mode if it was loaded here, with the patcher as `model.rws`.

    Raises:
        MismatchError: A signature does not fit the base.
        IntegrityError: What a lockfile names has changed since.
        OptionError: Scales that fit no signature, a device that is not there, options that contradict each other.
        RWSError: Others of its subclasses, as `load_base`, `Signature.from_pretrained` and `patch` raise them.
    """
    options: dict[str, Any] = {
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    given = as_list(signatures)
    to = None if device is None else resolve_device(device)
    if lockfile is not None:
        if given or scales is not None or revision is not None or signature_revisions is not None:
            raise OptionError("a lockfile names signatures, scales and revisions itself: leave them out")
        return _rebuilt(read_lockfile(lockfile), base, strict, to, options)
    if base is None:
        raise OptionError("give a base, or a lockfile that names one")
    if signature_revisions is not None and (
        isinstance(signature_revisions, str) or len(signature_revisions) != len(given)
    ):
        raise OptionError(
            f"signature_revisions must be a list with one entry per signature ({len(given)}), got "
            f"{signature_revisions!r}"
        )
    model, origin, opened = _loaded(base, revision, given, signature_revisions, options)
    return _patched(model, origin, opened, scales, strict, to)


def _rebuilt(
    lockfile: Lockfile,
    base: str | Path | nn.Module | None,
    strict: bool,
    device: torch.device | None,
    options: Mapping[str, Any],
) -> "PatchedModel":
    """The model of a lockfile, or MismatchError and IntegrityError before anything is patched."""
    source = lockfile.base.source if base is None else base
    revision = lockfile.base.revision if base is None else None
    if source is None:
        raise OptionError("this lockfile does not say where its base is: give load_patched the base, too")
    wanted = []
    for part in lockfile.signatures:
        if part.source is None:
            raise OptionError(f"this lockfile does not say where its signature {part.name!r} is")
        wanted.append((part.name, part.source))
    revisions = [part.revision for part in lockfile.signatures]
    model, origin, opened = _loaded(source, revision, wanted, revisions, options)
    lockfile.base.check(digest(sorted(unwrap(model).state_dict().items())), "the base")
    for part, (name, signature) in zip(lockfile.signatures, cast(list[tuple[str, Signature]], opened), strict=True):
        part.check(signature.sha256, f"the signature {name!r}")
    return _patched(model, origin, opened, [part.scale for part in lockfile.signatures], strict, device)


def _loaded(
    base: str | Path | nn.Module,
    revision: str | None,
    signatures: Sequence[SignatureLike],
    revisions: Sequence[str | None] | None,
    options: Mapping[str, Any],
) -> tuple[nn.Module, Location | None, list[SignatureLike]]:
    """The base, where it is from, and the signatures, which are fetched in threads meanwhile.

    The base is made in this thread: torch's defaults (device, dtype, inference mode) belong to a thread.
    """
    pool = ThreadPoolExecutor(min(max(1, len(signatures)), _MOST_THREADS), thread_name_prefix="hf-rws-load")
    try:
        wanted = zip(signatures, revisions or [None] * len(signatures), strict=True)
        opened = [pool.submit(_opened, item, at, options) for item, at in wanted]
        origin = None
        if isinstance(base, nn.Module):
            if revision is not None:
                raise OptionError(f"revision={revision!r} is for a base on the Hub; this one is given as a model")
        else:
            loaded = load_base(base, revision=revision, **options)
            base, origin = loaded.model, loaded.origin
        return base, origin, [future.result() for future in opened]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _opened(item: SignatureLike, revision: str | None, options: Mapping[str, Any]) -> SignatureLike:
    """A signature that is named by an id, loaded; anything else as it is, for `patch` to check."""
    name, source = split_name(item)
    if not isinstance(source, str | Path):
        if revision is not None:
            raise OptionError(f"signature_revisions names {revision!r} for {source!r:.80}, which is not a Hub id")
        return item
    signature = Signature.from_pretrained(source, name=name, revision=revision, **options)
    return (signature.name, signature)


def _patched(
    model: nn.Module,
    origin: Location | None,
    signatures: Sequence[SignatureLike],
    scales: ScalesLike | None,
    strict: bool,
    device: torch.device | None,
) -> "PatchedModel":
    if device is not None:
        model.to(device)
    patcher = patch(model, signatures, scales=scales, strict=strict)
    patcher.base = origin or patcher.base
    return cast("PatchedModel", model)


def save_patched(
    model: nn.Module,
    folder: str | Path,
    *,
    repo_id: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a patched model as a plain timm repo: the signatures are in its weights for good, the lockfile in its card.

    `timm.create_model("local-dir:<folder>", pretrained=True)` loads it. The model stays patched as it is.

    Args:
        model: A model with signatures on, all of them loaded by their ids.
        folder: Directory, made if needed. A README.md there keeps the text that its author wrote.
        repo_id: Hub id by which the card loads the model; by default it loads the folder.
        license: For the card, as the Hub writes it. By default that of the base where it is known: of timm's own
            weights, or named by the README.md of a base in a folder.
        overwrite: Write also into a folder that holds something else than an earlier patched model; a base, say.

    Returns:
        The folder.

    Raises:
        OptionError: The model carries no signatures, or one that was made in memory; or `folder` is a file, or holds
            something else.
        IntegrityError: Something else changed the weights.
        AccessError: The folder cannot be written to.
    """
    plain: Any = unwrap(model)
    if not isinstance(getattr(plain, "rws", None), Patcher):
        raise OptionError("the model carries no signatures; load_patched or patch puts some on")
    folder = output_folder(folder, "the patched model")
    base = plain.rws.base and plain.rws.base.path
    if base is not None and not overwrite and os.path.isdir(folder) and os.path.samefile(base, folder):
        raise OptionError(f"{folder} is the base of this model: give another folder, or overwrite=True")
    check_room_for_patched(folder, overwrite=overwrite)
    lockfile = plain.rws.lockfile()
    known = license or license_of(plain.rws.base, plain)

    def card(config: dict[str, Any], nbytes: int) -> str:
        fresh = cards.merged_card(
            config,
            lockfile,
            repo_id=repo_id or folder.resolve().name,
            nbytes=nbytes,
            license=known,
        )
        return cards.updated(folder / README_NAME, fresh, relicensed=license is not None)

    return save_timm_repo(plain, folder, card=card, overwrite=overwrite)


def check_room_for_patched(folder: Path, *, overwrite: bool = False) -> None:
    """OptionError if a folder holds something else than what `save_patched` wrote: somebody's base, say."""
    earlier = "merge" in cards.folder_words(folder, "tags")
    check_room(folder, "the patched model", MODEL if earlier else None, overwrite=overwrite)
