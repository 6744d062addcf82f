"""Ids -> bases: a timm model from a folder, a Hub id or a timm name."""

import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

import hf_rws.models  # noqa: F401  (registers vgg16_gap and vgg16_bn_gap with timm)
from hf_rws import cards
from hf_rws._ambient import random_state_kept
from hf_rws._files import read_json
from hf_rws._transport.headers import Header, read_header
from hf_rws._transport.ids import Location, parse_id
from hf_rws._transport.reading import fetch
from hf_rws.errors import FormatError, MismatchError, NotFoundError, OptionError
from hf_rws.layers import head_names
from hf_rws.timm_repo import CONFIG_NAME, MODEL_NAME, TRAINING_NAME

__all__ = ["Base", "base_of_weights", "check_preprocessing", "license_of", "load_base", "named_model"]

_PICKLED = "pytorch_model.bin"  # what timm's save_for_hf writes by default
_STATE_DICT = "save model.state_dict(), best with safetensors.torch.save_file"
_AS_SAFETENSORS = "timm writes it by save_for_hf(..., safe_serialization=True), hf_rws.hub.save_base of other weights"


_LARGEST_ARGUMENT = 1_000_000  # classes, channels, pixels of a side
_ROOM = 2**24  # values that a model may hold beyond four times those of its file
_ROOM_FOR_HEADS = 2**28


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


@random_state_kept()
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
            a timm name such as "resnet50.a1_in1k", whose weights timm fetches. A folder's weights may be in a
            pytorch_model.bin, as timm's `save_for_hf` writes by default, which is read for its tensors alone; of the
            Hub only model.safetensors is read.
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
    if os.path.isfile(id):
        raise OptionError(
            f"{os.fspath(id)!r} is a file: make a base of its weights first, by `hf-rws save-base`, or in Python by "
            "hf_rws.hub.save_base(file, folder, architecture=...)"
        )
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
    weights, state = fetched.folder / MODEL_NAME, None
    if not os.path.isfile(weights) and where.path is not None and os.path.isfile(fetched.folder / _PICKLED):
        state = _tensors(fetched.folder / _PICKLED)
    elif not os.path.isfile(weights):
        try:
            get((MODEL_NAME,))  # says what is in the way
        except NotFoundError as error:
            raise NotFoundError(f"{error}; {_AS_SAFETENSORS}") from error
    header = read_header(pinned, weights, MODEL_NAME) if state is None else _header_of(state)
    _check_arguments(config, f"{pinned} {CONFIG_NAME}")
    source = f"local-dir:{fetched.folder}"
    try:
        if _sizes_its_layers(config):  # what it takes shows without memory for it
            with torch.device("meta"), _no_larger_than(header, str(pinned), model_options):
                timm.create_model(source, **model_options)
        with _no_larger_than(header, str(pinned), model_options):
            model = timm.create_model(source, pretrained=state is None, **model_options)
        if state is not None:
            model.load_state_dict(state)
    except FormatError:
        raise
    except Exception as error:  # the config's values reach every constructor of timm, which check nothing
        raise FormatError(f"{pinned}: timm cannot load this model: {type(error).__name__}: {error}") from error
    check_preprocessing(cast(Mapping[str, Any], model.pretrained_cfg), f"{pinned} {CONFIG_NAME}")
    training = fetched.folder / TRAINING_NAME
    record = read_json(training, f"{pinned} {TRAINING_NAME}") if os.path.isfile(training) else {}
    return Base(model.eval(), pinned, record)


def license_of(origin: Location | None, model: Any) -> str | None:
    """The license of the weights of a base, if it is known: a folder's README.md names it, or they are timm's own."""
    if origin is None:
        return None
    if origin.path is not None:
        return cards.folder_license(origin.path)
    timms = origin.kind == "name" or origin.id.startswith("timm/")
    return (model.pretrained_cfg or {}).get("license") if timms else None


@random_state_kept()
def base_of_weights(path: Path, architecture: str | None, **model_options: Any) -> Any:
    """A timm model with the weights of a checkpoint: a state dict, as it is or under a name as timm's trainer uses it.

    Args:
        path: A file that `torch.save` wrote, of which only tensors are read, or a safetensors file.
        architecture: A timm name.
        model_options: Options of `timm.create_model`; `num_classes` is what the file's head has, if it can be told.

    Raises:
        OptionError: No architecture, or an option that it does not take.
        NotFoundError: timm has no such architecture.
        FormatError: The file holds something else than tensors.
        MismatchError: They are not those of the architecture.
    """
    if architecture is None:
        raise OptionError(f"{path} holds weights alone: say by architecture= which timm model they are of")
    name = architecture.partition(".")[0]
    if not timm.is_model(name):
        raise NotFoundError(f"timm has no model {name!r}; timm.list_models() lists them")
    state = _tensors(path)
    try:
        if "num_classes" not in model_options:
            with torch.device("meta"):
                heads = head_names(timm.create_model(name, **model_options))
            sizes = {len(state[key]) for key in heads if key in state and state[key].ndim}
            model_options |= {"num_classes": sizes.pop()} if len(sizes) == 1 else {}
        model = timm.create_model(architecture, pretrained=False, **model_options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise OptionError(f"timm cannot make {architecture} with these options: {error}") from error
    own = model.state_dict()
    problems = [f"no tensor {key}" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    problems += [f"{key}, which {architecture} has not" for key in state if key not in own]
    problems += [
        f"{key} of {tuple(value.shape)} instead of {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise MismatchError(f"the weights in {path} are not those of {architecture}: {', '.join(problems[:5])}{more}")
    model.load_state_dict(state, strict=False)
    return model.eval()


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their names, read without running anything that it holds."""
    try:
        found = timm.models.load_state_dict(str(path), weights_only=True)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {os.fspath(path)!r}") from error
    except Exception as error:  # what a file that is none makes of torch and safetensors
        raise FormatError(
            f"{path}: cannot be read for its tensors alone, it holds something else or is damaged; of a whole model, "
            f"{_STATE_DICT}"
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()) or not found:
        raise FormatError(f"{path}: holds something else than tensors by their names; {_STATE_DICT}")
    return dict(found)


def _header_of(state: Mapping[str, Tensor]) -> Header:
    shapes = {name: (str(value.dtype), tuple(value.shape)) for name, value in state.items()}
    return Header(shapes, sum(value.nbytes for value in state.values()))


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


# --- what a config may ask for ---


def _check_arguments(config: Mapping[str, Any], where: str) -> None:
    """FormatError for numbers that no model is made with: lists as long would be made before its first layer."""
    values = [config.get("model_args"), config.get("num_classes"), config.get("pretrained_cfg")]
    while values:
        value = values.pop()
        if isinstance(value, Mapping | list):
            values += value.values() if isinstance(value, Mapping) else value
        elif isinstance(value, int) and abs(value) > _LARGEST_ARGUMENT:
            raise FormatError(f"{where}: asks for a larger model than any: it names the number {value}")


def _sizes_its_layers(config: Mapping[str, Any]) -> bool:
    """Whether a model's layers are of other sizes than its architecture says, but for the first and the last."""
    given, default = config.get("pretrained_cfg", config), timm.get_pretrained_cfg(config["architecture"])
    arguments = dict(config.get("model_args") or {})
    size = arguments.pop("img_size", None) or (given["input_size"][1:] if given.get("fixed_input_size") else None)
    usual = list(default.input_size[1:]) if default else None
    return bool(arguments.keys() - {"in_chans", "num_classes", "global_pool"}) or size not in (None, usual)


@contextmanager
def _no_larger_than(header: Header, where: str, model_options: Mapping[str, Any]) -> Iterator[None]:
    """FormatError as soon as a model that is being built has far more, or larger, tensors than its file could fill.

    Torch calls before a tensor's memory is written to, and memory that is not written to takes none. There is room
    for what the file need not hold: tied tensors and constants, and a head that the caller asks for.
    """
    room = _ROOM if not model_options else _ROOM_FOR_HEADS
    most_tensors = 4 * len(header.tensors) + 1000
    most_values = 4 * sum(math.prod(shape) for _, shape in header.tensors.values()) + room
    thread, tensors, values = threading.get_ident(), 0, 0

    def registered(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal tensors, values
        if value is None or threading.get_ident() != thread:
            return
        tensors, values = tensors + 1, values + value.numel()
        if tensors > most_tensors or values > most_values:
            raise FormatError(f"{where}: {CONFIG_NAME} asks for a larger model than {MODEL_NAME} holds")

    with ExitStack() as stack:
        for watch in (register_module_parameter_registration_hook, register_module_buffer_registration_hook):
            stack.callback(watch(registered).remove)
        yield


def check_preprocessing(config: Mapping[str, Any], where: str) -> None:
    """FormatError unless what a model's images are made with has the types that all who read it count on."""
    size = config.get("input_size")
    channels = size[0] if size and _is_list(size, int) else 3
    lists = {"input_size": int, "test_input_size": int, "min_input_size": int, "mean": float, "std": float}
    for key, kind in lists.items():
        value: Any = config.get(key)
        fits = _is_list(value, kind) and len(value) in ((3,) if kind is int else (1, channels))
        if value is not None and not (fits and (key == "mean" or all(item > 0 for item in value))):
            raise FormatError(f"{where}: {key!r} is not what timm reads there: {value!r:.80}")
    for key in ("crop_pct", "test_crop_pct"):
        value = config.get(key)
        if value is not None and not (_is_list([value], float) and 0 < value <= 10):
            raise FormatError(f"{where}: {key!r} must be a share of the image, got {value!r:.80}")
    for key in ("architecture", "interpolation", "crop_mode", "license"):
        value = config.get(key)
        if not isinstance(value, str | None):
            raise FormatError(f"{where}: {key!r} must be text, got {value!r:.80}")


def _is_list(value: Any, kind: type) -> bool:
    kinds = int if kind is int else int | float
    return isinstance(value, list | tuple) and all(
        isinstance(item, kinds) and not isinstance(item, bool) and abs(item) < 2**31 for item in value
    )
