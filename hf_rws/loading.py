"""Ids -> models: a base by its id, and a base with its signatures on."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import timm
from safetensors import SafetensorError
from torch import nn

from hf_rws import cards, hub
from hf_rws.errors import AccessError, FormatError, NotFoundError, OptionError, RWSError
from hf_rws.layers import digest, unwrap
from hf_rws.models import is_ours, save_timm_repo
from hf_rws.patch_recipe import Recipe, read_recipe
from hf_rws.patching import Patcher, SignatureLike, listed, patch, split_name
from hf_rws.signature import Signature

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
    base: str | Path | nn.Module | None = None,
    signatures: Sequence[SignatureLike] | SignatureLike = (),
    *,
    scales: Sequence[float] | None = None,
    recipe: Mapping[str, Any] | str | Path | None = None,
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
    again = hf_rws.load_patched(recipe=model.rws.recipe())
    ```

    Args:
        base: A folder, a Hub id, a timm name (see `load_base`), or a model, which is patched in place. With a `recipe`
            it may be left out.
        signatures: `Signature`s, folders or Hub ids, or pairs (name, one of these). They are fetched in parallel.
        scales: One factor per signature. Without, one signature has 1 and n have 1/n each.
        recipe: What `model.rws.recipe()` gave, as a mapping, a file, or a folder with recipe.json (what `hub.bundle`
            makes): names signatures, scales and all revisions itself.
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
        IntegrityError: What a recipe names has changed since.
        RWSError: Others of its subclasses, as `load_base`, `Signature.from_pretrained` and `patch` raise them.
    """
    options: dict[str, Any] = {
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    given = listed(signatures)
    if recipe is not None:
        if given or scales is not None or revision is not None or signature_revisions is not None:
            raise OptionError("a recipe names signatures, scales and revisions itself: leave them out")
        return _rebuilt(read_recipe(recipe), base, strict, options)
    if base is None:
        raise OptionError("give a base, or a recipe that names one")
    if signature_revisions is not None:
        if isinstance(signature_revisions, str) or len(signature_revisions) != len(given):
            raise OptionError(
                f"signature_revisions must be a list with one entry per signature ({len(given)}), got "
                f"{signature_revisions!r}"
            )
        given = [_at(item, wanted) for item, wanted in zip(given, signature_revisions, strict=True)]
    model, origin, opened = _loaded(base, revision, given, options)
    return _patched(model, origin, opened, scales, strict)


def _rebuilt(
    recipe: Recipe, base: str | Path | nn.Module | None, strict: bool, options: Mapping[str, Any]
) -> "PatchedModel":
    """The model of a recipe, or MismatchError and IntegrityError before anything is patched."""
    source = recipe.base.source if base is None else base
    revision = recipe.base.revision if base is None else None
    if source is None:
        raise OptionError("this recipe does not say where its base is: give load_patched the base, too")
    wanted = []
    for part in recipe.signatures:
        if part.source is None:
            raise OptionError(f"this recipe does not say where its signature {part.name!r} is")
        at = part.source if part.revision is None else f"{part.source}@{part.revision}"
        wanted.append((part.name, at))
    model, origin, opened = _loaded(source, revision, wanted, options)
    recipe.base.check(digest(sorted(unwrap(model).state_dict().items())), "the base")
    for part, (name, signature) in zip(recipe.signatures, cast(list[tuple[str, Signature]], opened), strict=True):
        part.check(signature.sha256, f"the signature {name!r}")
    return _patched(model, origin, opened, [part.scale for part in recipe.signatures], strict)


def _loaded(
    base: str | Path | nn.Module, revision: str | None, signatures: Sequence[SignatureLike], options: Mapping[str, Any]
) -> tuple[nn.Module, hub.Location | None, list[SignatureLike]]:
    """The base, where it is from, and the signatures, which are fetched in threads meanwhile.

    The base is made in this thread: torch's defaults (device, dtype, inference mode) belong to a thread.
    """
    pool = ThreadPoolExecutor(max(1, len(signatures)), thread_name_prefix="hf-rws-load")
    try:
        opened = [pool.submit(_opened, item, options) for item in signatures]
        origin = None
        if not isinstance(base, nn.Module):
            loaded = load_base(base, revision=revision, **options)
            origin = replace(hub.parse_id(base, revision=revision), revision=loaded.revision)
            base = loaded.model
        return base, origin, [future.result() for future in opened]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _opened(item: SignatureLike, options: Mapping[str, Any]) -> SignatureLike:
    """A signature that is named by an id, loaded; anything else as it is, for `patch` to check."""
    name, source = split_name(item)
    if not isinstance(source, str | Path):
        return item
    signature = Signature.from_pretrained(source, name=name, **options)
    return (signature.name, signature)


def _patched(
    model: nn.Module,
    origin: hub.Location | None,
    signatures: Sequence[SignatureLike],
    scales: Sequence[float] | None,
    strict: bool,
) -> "PatchedModel":
    patch(model, signatures, scales=scales, strict=strict).base = origin
    return cast("PatchedModel", model)


def save_patched(model: nn.Module, folder: str | Path, *, repo_id: str | None = None) -> Path:
    """Write a patched model as a plain timm repo: the signatures are in its weights for good, the recipe in its card.

    `timm.create_model("local-dir:<folder>", pretrained=True)` loads it. The model stays patched as it is.

    Args:
        model: A model with signatures on, all of them loaded by their ids.
        folder: Directory, made if needed. A README.md there keeps the text that its author wrote.
        repo_id: Hub id by which the card loads the model; by default it loads the folder.

    Returns:
        The folder.

    Raises:
        OptionError: The model carries no signatures, or one that was made in memory; or `folder` is a file.
        IntegrityError: Something else changed the weights.
        AccessError: The folder cannot be written to.
    """
    plain: Any = unwrap(model)
    if not isinstance(getattr(plain, "rws", None), Patcher):
        raise OptionError("the model carries no signatures; load_patched or patch puts some on")
    recipe = plain.rws.recipe()
    readme = Path(folder) / "README.md"
    try:
        existing = cards.readme_text(readme) if readme.is_file() else None
        folder = save_timm_repo(plain, folder)
        config = _read_json(folder / CONFIG, f"{folder} {CONFIG}")
        card = cards.merged_card(
            config,
            recipe,
            repo_id=repo_id or folder.resolve().name,
            nbytes=(folder / WEIGHTS).stat().st_size,
            needs_import=is_ours(config["architecture"]),
        )
        if existing is not None:
            card = cards.merge_card(existing, card)
        readme.write_text(card, encoding="utf-8")
    except OSError as error:
        if isinstance(error, RWSError):
            raise
        raise AccessError(f"cannot save the model in {folder}: {error.strerror}") from error
    return folder


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
