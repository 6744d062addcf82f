"""Ids -> bases: a timm model from a folder, a Hub id or a timm name."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from torch import nn

from hf_rws._files import read_json
from hf_rws._transport.ids import Location, parse_id
from hf_rws._transport.reading import fetch
from hf_rws.errors import FormatError, NotFoundError, OptionError
from hf_rws.timm_repo import CONFIG_NAME, MODEL_NAME, TRAINING_NAME

__all__ = ["Base", "load_base", "named_model"]


@dataclass(frozen=True)
class Base:
    """A loaded timm model and where it came from.

    Attributes:
        model: The model, in eval mode.
        origin: Where it is from, with the commit of a Hub repo.
        training: What training_args.json says; empty without one.
    """

    model: nn.Module
    origin: Location
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
    where = parse_id(id, revision=revision)
    if where.kind == "name":
        if where.revision or local_files_only or force_download:
            raise OptionError(
                f"timm itself fetches {where.id!r}, without revision, local_files_only and force_download; use its "
                f"Hub id instead: timm/{where.id}"
            )
        return Base(named_model(where.id, cache_dir=cache_dir, **model_options).eval(), where)
    get = partial(
        fetch,
        where,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    fetched = get((CONFIG_NAME,), optional=(MODEL_NAME, TRAINING_NAME))
    pinned = replace(where, revision=fetched.revision)
    config = read_json(fetched.folder / CONFIG_NAME, f"{pinned} {CONFIG_NAME}")
    if not isinstance(config.get("architecture"), str):
        raise FormatError(
            f"{pinned} {CONFIG_NAME}: not a timm model's config (it names no architecture); is it a signature?"
        )
    if not (fetched.folder / MODEL_NAME).is_file():
        get((MODEL_NAME,))  # says what is in the way
    try:
        model = timm.create_model(f"local-dir:{fetched.folder}", pretrained=True, **model_options)
    except (RuntimeError, TypeError, KeyError, ValueError, AttributeError, OSError, SafetensorError) as error:
        raise FormatError(f"{pinned}: timm cannot load this model: {error}") from error
    training = fetched.folder / TRAINING_NAME
    record = read_json(training, f"{pinned} {TRAINING_NAME}") if training.is_file() else {}
    return Base(model.eval(), pinned, record)


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
