"""Ids -> models: a base by its id, and a base with its signatures on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import timm
from safetensors import SafetensorError
from torch import nn

from hf_rws import hub
from hf_rws.errors import FormatError, NotFoundError, OptionError
from hf_rws.patching import SignatureLike, listed, patch, split_name

if TYPE_CHECKING:
    from hf_rws.patching import PatchedModel

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TRAINING = "training_args.json"


@dataclass(frozen=True)
class Base:
    """A loaded timm model and where it came from.

    Attributes:
        model: The model, in eval mode.
        repo_id: Its Hub id; None for a folder or a timm name.
        revision: The commit sha of a Hub repo.
        training: What training_args.json says; empty without one.
    """

    model: nn.Module
    repo_id: str | None = None
    revision: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


def load_base(
    id: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    **model_options: Any,
) -> Base:
    """Load a timm model by a folder, a Hub id or a timm name.

    Args:
        id: A folder that holds a timm repo, "user/name", "hf-hub:user/name" (each possibly followed by "@revision"), or
            a timm name such as "resnet50.a1_in1k", whose weights timm fetches.
        revision: Branch, tag or commit on the Hub.
        token: Hub token; by default the stored one.
        cache_dir: Hub cache.
        local_files_only: Use the cache only.
        force_download: Fetch again what is cached.
        model_options: Options of `timm.create_model`, such as `num_classes`.

    Raises:
        NotFoundError: No such folder, repo, revision, file or timm name.
        AccessError: The Hub refuses access.
        NetworkError: The Hub cannot be reached.
        FormatError: The files are not a timm model's.
    """
    location = hub.parse_id(id, revision=revision)
    if location.kind == "name":
        if location.revision or local_files_only or force_download:
            raise OptionError(
                f"timm itself fetches {location.id!r}, without revision, local_files_only and force_download; use its "
                f"Hub id instead: timm/{location.id}"
            )
        return Base(named_model(location.id, cache_dir=cache_dir, **model_options).eval())
    options: dict[str, Any] = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    fetched = hub.fetch(id, (CONFIG,), optional=(WEIGHTS, TRAINING), **options)
    where = f"{fetched.repo_id}@{fetched.revision}" if fetched.repo_id else str(id)
    if not isinstance(_read_json(fetched.folder / CONFIG, f"{where} {CONFIG}").get("architecture"), str):
        raise FormatError(f"{where} {CONFIG}: not a timm model's config (it names no architecture); is it a signature?")
    if not (fetched.folder / WEIGHTS).is_file():
        hub.fetch(id, (WEIGHTS,), **options)  # says what is in the way
    try:
        model = timm.create_model(f"local-dir:{fetched.folder}", pretrained=True, **model_options)
    except (RuntimeError, TypeError, KeyError, ValueError, AttributeError, OSError, SafetensorError) as error:
        raise FormatError(f"{where}: timm cannot load this model: {error}") from error
    training = fetched.folder / TRAINING
    record = _read_json(training, f"{where} {TRAINING}") if training.is_file() else {}
    return Base(model.eval(), fetched.repo_id, fetched.revision, record)


def load_patched(
    base: str | Path | nn.Module,
    signatures: Sequence[SignatureLike] | SignatureLike = (),
    *,
    scales: Sequence[float] | None = None,
    strict: bool = False,
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
    ```

    Args:
        base: A folder, a Hub id, a timm name (see `load_base`), or a model, which is patched in place.
        signatures: `Signature`s, folders or Hub ids, or pairs (name, one of these).
        scales: One factor per signature. Without, one signature has 1 and n have 1/n each.
        strict: Make it an error that a signature was made from another base, or with another normalisation.
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
        RWSError: Others of its subclasses, as `load_base`, `Signature.from_pretrained` and `patch` raise them.
    """
    options: dict[str, Any] = {
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    given = listed(signatures)
    if signature_revisions is not None:
        if isinstance(signature_revisions, str) or len(signature_revisions) != len(given):
            raise OptionError(
                f"signature_revisions must be a list with one entry per signature ({len(given)}), got "
                f"{signature_revisions!r}"
            )
        given = [_at(item, wanted) for item, wanted in zip(given, signature_revisions, strict=True)]
    model = base if isinstance(base, nn.Module) else load_base(base, revision=revision, **options).model
    patch(model, given, scales=scales, strict=strict, **options)
    return cast("PatchedModel", model)


def named_model(name: str, *, pretrained: bool = True, **options: Any) -> Any:
    """A timm model by its name; NotFoundError if there is none or its weights cannot be had."""
    if not timm.is_model(name.partition(".")[0]):
        raise NotFoundError(
            f"{name!r} is neither a folder here, nor a Hub id (user/name), nor the name of a timm model"
        )
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (RuntimeError, OSError, ValueError) as error:
        raise NotFoundError(f"timm cannot load {name!r}: {error}") from error


def _at(item: SignatureLike, revision: str | None) -> SignatureLike:
    """The same signature at a revision, as an id with "@revision"."""
    if revision is None:
        return item
    name, source = split_name(item)
    if not isinstance(source, str):
        raise OptionError(f"signature_revisions names {revision!r} for {source!r}, which is not a Hub id")
    location = hub.parse_id(source, revision=revision)
    return (name or location.name, f"{source.partition('@')[0]}@{revision}")


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise FormatError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise FormatError(f"{where}: must hold a JSON object")
    return content
