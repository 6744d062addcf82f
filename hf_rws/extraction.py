"""Pretrained, standard and robust weights -> signature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from hf_rws._ambient import unaffected
from hf_rws._transport.ids import Location
from hf_rws.bases import load_base
from hf_rws.corruptions.batch import check_severity
from hf_rws.errors import MismatchError, OptionError, warn
from hf_rws.fingerprints import fingerprint, weights_digest
from hf_rws.layers import LayerTensor, NumLayers, architecture, check_loaded, first_layers, unwrap
from hf_rws.signature.bits import BitsLike
from hf_rws.signature.config import (
    PROJECTIONS,
    BaseModel,
    CorruptionSpec,
    Method,
    SignatureConfig,
    tensor_specs,
)
from hf_rws.signature.signature import Signature

__all__ = ["Weights", "describe_base", "difference", "extract", "project_out", "relative_differences"]

Weights: TypeAlias = nn.Module | Mapping[str, Tensor] | str | Path


@unaffected
def extract(
    robust: Weights,
    standard: Weights,
    pretrained: Weights | None,
    *,
    corruption: str | Sequence[str],
    severity: int | None = None,
    dataset: str | None = None,
    num_layers: NumLayers = None,
    projection: Literal["weights", "all"] | None = "weights",
    bits: BitsLike = "default",
    name: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> Signature:
    """Extract the signature of a corruption from three models (Cai et al., ICML 2023).

    For each tensor of the first layers, flattened, with ds = standard - pretrained and dr = robust - pretrained:

        signature = dr - (<dr, ds> / <ds, ds>) ds

    Batch norm statistics are stored as the difference of the means and of the logarithms of the variances.

    Args:
        robust: `pretrained` fine-tuned on corrupted images: a timm model, a state dict, a folder or a Hub id.
        standard: `pretrained` fine-tuned on clean images with the same recipe.
        pretrained: What both started from; may be None with `projection=None`.
        corruption: What it makes robust to: any label ("fog", "rain"), or several for a model trained on several.
        severity: Severity of the training corruption, 1 to 5, if it has one.
        dataset: Name of the dataset, for the card.
        num_layers: How many layers from the shallow end; None is 7 or what there is, "all" is all but the head.
        projection: Which differences are projected: "weights" those of tensors of two or more dimensions, "all" those
            of biases and norm parameters too (the released code), None no difference at all.
        bits: Bits per weight: 1 to 8, "ternary", a preset ("default", "small", "tiny"), a list with one entry per
            layer, or None for float32.
        name: Name of the signature; the corruption's label if None.
        training: How the models were trained, recorded in the config.

    Returns:
        The signature; nothing is written and no model is changed.

    Raises:
        OptionError: An option makes no sense, or only state dicts are given (one of the three must be a model); one is
            on the meta device, or has no layers.
        MismatchError: The three do not have the same tensors.

    Example:
        >>> robust, standard, pretrained = (timm.create_model("resnet18", num_classes=10) for _ in range(3))
        >>> hf_rws.extract(robust, standard, pretrained, corruption="fog", severity=5, bits=4)
        Signature('fog': fog-5 for resnet18, extracted, 7 layers, 1,411,800 bytes)
    """
    if projection not in PROJECTIONS:
        raise OptionError(f"projection must be 'weights', 'all' or None, got {projection!r}")
    if pretrained is None and projection is not None:
        raise OptionError("pretrained may be None only with projection=None: the projection needs the common start")
    names = tuple(corruption) if isinstance(corruption, Sequence) and not isinstance(corruption, str) else (corruption,)
    if not names or not all(isinstance(label, str) and label for label in names):
        raise OptionError(f"corruption must be a label or a list of labels, got {corruption!r}")
    if severity is not None:
        check_severity(severity)
    given = {"standard": standard, "robust": robust, "pretrained": pretrained}
    sources = {role: _open(weights, role) for role, weights in given.items() if weights is not None}
    _warn_of_other_start(sources)
    models = [source.model for source in sources.values() if source.model is not None]
    architectures = {role: architecture(source.model) for role, source in sources.items() if source.model is not None}
    if len(set(architectures.values())) > 1:
        listed = ", ".join(f"{role} is {name}" for role, name in architectures.items())
        raise MismatchError(f"the models are of different architectures: {listed}")
    if not models:
        raise OptionError("at least one of robust, standard and pretrained must be a model, not a state dict")
    layers = first_layers(models[0], num_layers)
    tensors = [tensor for layer in layers for tensor in layer]
    _check_tensors(sources, tensors)
    specs = tensor_specs(tensors, {t.name: sources["standard"].state[t.name].shape for t in tensors}, bits)
    states = {role: source.state for role, source in sources.items()}
    deltas = {
        tensor.name: difference(
            tensor,
            states["robust"][tensor.name],
            states["standard"][tensor.name],
            states["pretrained"][tensor.name] if _is_projected(tensor, projection) else None,
        )
        for tensor in tensors
    }
    config = SignatureConfig(
        base_model=describe_base(
            sources["standard"].model or models[0],
            {tensor.name: states["standard"][tensor.name] for tensor in tensors},
            sources["standard"].origin,
        ),
        corruption=CorruptionSpec(names, severity, dataset),
        method=Method("extracted", len(layers), projection, training=dict(training or {})),
        tensors=specs,
    )
    return Signature.from_deltas(deltas, config, name=name)


def relative_differences(robust: nn.Module, standard: nn.Module) -> list[float]:
    """How far the weights of two models are apart in each layer but the head, from the shallow end on.

    That is the norm of robust - standard over the norm of standard, tensors of two or more dimensions concatenated.

    Raises:
        MismatchError: The two do not have the same tensors.
    """
    layers = first_layers(standard, "all")
    sources = {"standard": _open(standard, "standard"), "robust": _open(robust, "robust")}
    found = []
    for layer in layers:
        weights = [tensor for tensor in layer if tensor.kind == "weight"]
        _check_tensors(sources, weights)
        pairs = [[sources[role].state[tensor.name].double() for role in ("robust", "standard")] for tensor in weights]
        apart = sum(float((r - s).square().sum()) for r, s in pairs)
        found.append((apart / max(sum(float(s.square().sum()) for _, s in pairs), 1e-300)) ** 0.5)
    return found


def describe_base(model: nn.Module, touched: Mapping[str, Tensor], origin: Location | None = None) -> BaseModel:
    """What a config says of the base: its place on the Hub, architecture, preprocessing, and a fingerprint."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return BaseModel(
        architecture=architecture(model),
        num_classes=int(getattr(model, "num_classes", 0)),
        mean=tuple(config.get("mean") or ()),
        std=tuple(config.get("std") or ()),
        input_size=tuple(config.get("input_size") or ()),
        fingerprint=fingerprint(touched),
        repo_id=origin.repo_id if origin else None,
        revision=origin.revision if origin else None,
    )


def project_out(delta: Tensor, direction: Tensor) -> Tensor:
    """`delta` without its part along `direction`, in float64; `delta` itself where `direction` is zero."""
    delta, direction = delta.double(), direction.double()
    length = torch.vdot(direction.flatten(), direction.flatten())
    if length == 0:  # a frozen tensor
        return delta
    return delta - (torch.vdot(delta.flatten(), direction.flatten()) / length) * direction


@dataclass(frozen=True)
class _Weights:
    """One of the three inputs: its weights, and what else is known of it."""

    state: Mapping[str, Tensor]
    model: nn.Module | None = None
    origin: Location | None = None
    init_sha256: str | None = None


def _open(weights: Weights, role: str) -> _Weights:
    if isinstance(weights, nn.Module):
        weights = unwrap(weights)
        if any(getattr(getattr(weights, "rws", None), "scales", {}).values()):
            raise OptionError(f"{role} carries signatures; take them off first: model.rws.clear()")
        check_loaded(weights.state_dict(), role)
        return _Weights(_cpu(weights.state_dict()), weights)
    if isinstance(weights, Mapping):
        check_loaded(weights, role)
        return _Weights(_cpu(weights))
    if isinstance(weights, str | Path):
        base = load_base(weights)
        start = base.training.get("init_sha256")
        known = start if isinstance(start, str) else None
        return _Weights(_cpu(base.model.state_dict()), base.model, base.origin, known)
    raise OptionError(f"{role} must be a model, a state dict, a folder or an id, got {type(weights).__name__}")


def _cpu(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in state.items() if isinstance(value, Tensor)}


def _warn_of_other_start(sources: Mapping[str, _Weights]) -> None:
    starts = {
        role: source.init_sha256 for role, source in sources.items() if role != "pretrained" and source.init_sha256
    }
    if "pretrained" in sources and sources["pretrained"].model is not None:
        starts["pretrained"] = weights_digest(sources["pretrained"].model)
    if len(set(starts.values())) > 1:
        warn(
            "robust and standard did not start from the same weights, or not from the pretrained ones (init_sha256 in "
            "their training_args.json); their difference is not a signature of the corruption alone",
        )


def _check_tensors(sources: Mapping[str, _Weights], tensors: Sequence[LayerTensor]) -> None:
    expected = sources["standard"].state
    for role, source in sources.items():
        for tensor in tensors:
            found, wanted = source.state.get(tensor.name), expected.get(tensor.name)
            if found is None or wanted is None:
                raise MismatchError(f"{role if found is None else 'standard'} has no tensor {tensor.name!r}")
            if found.shape != wanted.shape:
                raise MismatchError(
                    f"{tensor.name!r} is {tuple(found.shape)} in {role} but {tuple(wanted.shape)} in standard"
                )
            if not found.dtype.is_floating_point:
                raise MismatchError(f"{tensor.name!r} is {found.dtype} in {role}; a signature needs floating point")


def _is_projected(tensor: LayerTensor, projection: str | None) -> bool:
    projected = {"weights": ("weight",), "all": ("weight", "vector"), None: ()}
    return tensor.kind in projected[projection]


def difference(tensor: LayerTensor, robust: Tensor, standard: Tensor, pretrained: Tensor | None = None) -> Tensor:
    """`robust` - `standard` in float32, of logarithms for a running_var; with `pretrained`, projected."""
    robust, standard = robust.double(), standard.double()
    if tensor.kind == "running_var":
        return ((robust + tensor.eps).log() - (standard + tensor.eps).log()).float()
    if pretrained is None:
        return (robust - standard).float()
    pretrained = pretrained.double()
    return project_out(robust - pretrained, standard - pretrained).float()
