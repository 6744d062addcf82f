"""Which tensors of a timm model are its first layers, and running it only that far."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn

from hf_rws.errors import OptionError

__all__ = [
    "DEFAULT_NUM_LAYERS",
    "Kind",
    "LayerTensor",
    "NumLayers",
    "StopForward",
    "architecture",
    "check_loaded",
    "check_scores",
    "evaluating",
    "find_layers",
    "first_layers",
    "first_weight",
    "head_names",
    "layer_tensors",
    "run_first_layers",
    "run_until_stopped",
    "takes_images_of",
    "unwrap",
]

DEFAULT_NUM_LAYERS = 7  # the released code's default

# How many first layers: None is 7 or what there is, "all" is all but the head.
NumLayers: TypeAlias = int | Literal["all"] | None

Kind = Literal["weight", "vector", "running_mean", "running_var"]


@dataclass(frozen=True)
class LayerTensor:
    """One tensor of a layer.

    Attributes:
        name: Its name in the state dict.
        kind: "weight" (a parameter of two or more dimensions), "vector" (biases, norm parameters), "running_mean" or
            "running_var" (statistics of a batch norm).
        layer: Index of its layer; 0 is the shallowest.
        eps: Epsilon of the batch norm of a "running_var"; 0 for the other kinds.
    """

    name: str
    kind: Kind
    layer: int = 0
    eps: float = 0.0


def find_layers(model: nn.Module) -> list[list[LayerTensor]]:
    """The layers of a model in depth order, without its head.

    A layer is one group of timm's `model.group_matcher(coarse=False)` that holds a weight of two or more dimensions; a
    group without one (a norm that timm groups apart) belongs to the layer before it. Running statistics stay with
    their norm; `num_batches_tracked` is left out. A model whose `group_matcher` is missing, fails or finds only one
    group is grouped by modules in the order of registration: each one that holds such a weight begins a layer.

    Args:
        model: A timm model, without wrappers such as DDP.

    Returns:
        A list of layers, each the list of its tensors in state-dict order.

    Example:
        >>> stem = find_layers(timm.create_model("resnet18"))[0]
        >>> [tensor.name for tensor in stem]
        ['conv1.weight', 'bn1.weight', 'bn1.bias', 'bn1.running_mean', 'bn1.running_var']
    """
    tensors = layer_tensors(model)
    head = head_names(model)
    layers: list[list[LayerTensor]] = []
    for group in _groups(model, tensors):
        group = [tensor for tensor in group if tensor.name not in head]
        if not layers or (_holds_weight(group) and _holds_weight(layers[-1])):
            layers.append([])
        layers[-1].extend(group)
    order = {name: position for position, name in enumerate(model.state_dict())}
    return [
        sorted((replace(tensor, layer=depth) for tensor in layer), key=lambda tensor: order[tensor.name])
        for depth, layer in enumerate(layers)
        if layer
    ]


def first_layers(model: nn.Module, num_layers: NumLayers = None) -> list[list[LayerTensor]]:
    """The first layers of a model.

    Args:
        model: A timm model.
        num_layers: How many; None is 7 or what there is, "all" is all but the head.

    Raises:
        OptionError: More layers are asked for than there are, or fewer than one; or there are none.
    """
    layers = find_layers(model)
    if not layers:
        raise OptionError(f"this {type(model).__name__} has no layers with weights, its head aside")
    if num_layers == "all":
        return layers
    if num_layers is None:
        return layers[:DEFAULT_NUM_LAYERS]
    if not isinstance(num_layers, int) or isinstance(num_layers, bool) or not 1 <= num_layers <= len(layers):
        raise OptionError(
            f"num_layers must be 1 to {len(layers)} for this {type(model).__name__} (its head does not count), 'all' "
            f"or None, got {num_layers!r}"
        )
    return layers[:num_layers]


def check_loaded(state: Mapping[str, Any], what: str) -> None:
    """OptionError if tensors of a state dict have no values, as on the meta device; `what` is whose they are."""
    if any(isinstance(value, Tensor) and value.is_meta for value in state.values()):
        raise OptionError(f"{what} is on the meta device; load its weights first")


def first_weight(model: nn.Module) -> Tensor:
    """What says where a model is and in which dtype; OptionError if it has no weights, or is on the meta device."""
    first = next(model.parameters(), None)
    if first is None:
        raise OptionError(f"this {type(model).__name__} has no weights; give a timm model")
    check_loaded({"first": first}, "the model")
    return first


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def takes_images_of(shape: Sequence[int]) -> Iterator[None]:
    """OptionError that names the shape (N, C, H, W) for what a model has against images of it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:  # AssertionError: timm's answer to other image sizes
        raise OptionError(f"the model cannot take images of shape {tuple(shape)}: {error}") from error


def check_scores(model: nn.Module, scores: Any) -> Tensor:
    """A model's output as scores of classes, of shape (N, classes); OptionError if it is something else."""
    if isinstance(scores, Tensor) and scores.ndim == 2:
        return scores
    what = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
    raise OptionError(
        f"this {type(unwrap(model)).__name__} gives no scores of classes, of shape (N, classes), but {what}; a timm "
        "model with its classifier does"
    )


class StopForward(Exception):
    """Raised by a hook: nobody needs the rest of this pass through the model."""


def run_until_stopped(model: nn.Module, images: Tensor) -> None:
    """Run a model for what its hooks see, until one of them raises `StopForward`."""
    with suppress(StopForward):
        model(images)


def run_first_layers(model: nn.Module, images: Tensor, num_layers: int | Literal["all"] | None = None) -> Tensor:
    """Run a model only as far as its first layers go.

    Args:
        model: A timm model, without wrappers such as DDP.
        images: What the model takes.
        num_layers: As in `first_layers`.

    Returns:
        The output of the largest module that ends those layers and holds nothing of deeper ones: of a ResNet's block;
        of a convolution or its norm where layers are no larger modules. What follows a layer without weights of its
        own (an activation, pooling) and is no part of such a module has not been run.

    Raises:
        OptionError: `num_layers` as in `first_layers`; or an image does not go through all of these layers.
    """
    waiting = _largest_modules(model, {tensor.name for layer in first_layers(model, num_layers) for tensor in layer})
    outputs: list[Tensor] = []

    def note(module: nn.Module, args: object, output: Tensor) -> None:
        waiting.discard(module)
        if not waiting:
            outputs.append(output)
            raise StopForward

    hooks = [module.register_forward_hook(note) for module in waiting]
    try:
        run_until_stopped(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    if not outputs:
        raise OptionError(f"{len(waiting)} modules of the first layers of this {type(model).__name__} are not used")
    return outputs[0]


def _largest_modules(model: nn.Module, names: set[str]) -> set[nn.Module]:
    """The largest modules all of whose parameters and statistics have these names, and that hold some."""
    found: set[nn.Module] = set()

    def visit(prefix: str, module: nn.Module) -> None:
        mine = [f"{prefix}{name}" for name in module.state_dict() if not name.endswith("num_batches_tracked")]
        known = [name for name in mine if name in names or name not in every]
        if any(name in names for name in mine) and len(known) == len(mine):
            found.add(module)
            return
        for key, child in module.named_children():
            visit(f"{prefix}{key}.", child)

    every = layer_tensors(model)
    visit("", model)
    return found


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel and torch.compile wrappers."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def head_names(model: nn.Module) -> frozenset[str]:
    """State-dict names of the classifier, buffers included, as timm's `get_classifier` finds it."""
    if not hasattr(model, "get_classifier"):
        return frozenset()
    timm_model: Any = model
    heads = timm_model.get_classifier()
    modules = [module for module in (heads if isinstance(heads, tuple | list) else (heads,)) if module is not None]
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if any(module is head for head in modules))
    return frozenset(name for name in model.state_dict() if prefixes and name.startswith(prefixes))


def architecture(model: nn.Module) -> str:
    """Timm's name of the architecture, or the class where the model has none."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    return config.get("architecture") or type(model).__name__


def layer_tensors(model: nn.Module) -> dict[str, LayerTensor]:
    """Every tensor that could belong to a layer, by state-dict name, without its place."""
    found: dict[str, LayerTensor] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:  # of tied ones the first
                seen.add(id(parameter))
                found[dot + key] = LayerTensor(dot + key, "weight" if parameter.ndim >= 2 else "vector")
        if all(module._buffers.get(key) is not None for key in ("running_mean", "running_var")):
            for key in ("weight", "bias"):  # buffers where the norm is frozen, by timm's freeze_batch_norm_2d, say
                if module._buffers.get(key) is not None:
                    found[dot + key] = LayerTensor(dot + key, "vector")
            eps: Any = module.eps
            found[f"{dot}running_mean"] = LayerTensor(f"{dot}running_mean", "running_mean")
            found[f"{dot}running_var"] = LayerTensor(f"{dot}running_var", "running_var", eps=float(eps))
    return found


def _holds_weight(tensors: list[LayerTensor]) -> bool:
    return any(tensor.kind == "weight" for tensor in tensors)


def _groups(model: nn.Module, tensors: dict[str, LayerTensor]) -> list[list[LayerTensor]]:
    timm_model: Any = model
    try:
        matcher = timm_model.group_matcher(coarse=False)
        groups = group_with_matcher(iter([(name, name) for name in tensors]), matcher)
        if len(groups) > 1 and sum(map(len, groups.values())) == len(tensors):
            return [[tensors[name] for name in groups[key]] for key in sorted(groups)]
    except (AttributeError, TypeError, ValueError, KeyError):
        pass
    by_module: dict[str, list[LayerTensor]] = {}
    for name, tensor in tensors.items():
        by_module.setdefault(name.rpartition(".")[0], []).append(tensor)
    return list(by_module.values())
