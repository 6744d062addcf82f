"""Does a signature fit a model, and is the model the one that it was made from?"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from hf_rws.errors import MismatchError, OptionError
from hf_rws.fingerprints import has_fingerprint
from hf_rws.layers import LayerTensor
from hf_rws.signature.signature import Signature

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_fit(
    signature: Signature, name: str, architecture: str, tensors: Mapping[str, Tensor], kinds: Mapping[str, LayerTensor]
) -> None:
    """Check that every tensor of a signature is in a model.

    Args:
        signature: The signature.
        name: What to call it in errors.
        architecture: The model's.
        tensors: Its state dict, with its own tensors.
        kinds: Its `layer_tensors`.

    Raises:
        MismatchError: A tensor is missing, or of another shape or kind.
        OptionError: They are there but cannot be written to: meta, quantized, sharded, tied, expanded, in float8.
    """
    there = {name: tensors[name] for name in signature.specs if name in tensors}
    if any(tensor.is_inference() for tensor in there.values()) and not torch.is_inference_mode_enabled():
        raise OptionError("the model was made in inference mode, which forbids to change its weights; clone it first")
    for key, own in there.items():
        check_writable(key, own)
    _check_apart(there)
    wanted = signature.config.base_model.architecture
    problems = [f"the signature is for {wanted}, the model is {architecture}"] if architecture != wanted else []
    for spec in signature.config.tensors:
        tensor = tensors.get(spec.name)
        if tensor is None:
            problems.append(f"the model has no tensor {spec.name}")
        elif tensor.shape != spec.shape:
            problems.append(f"{spec.name} is {tuple(tensor.shape)} in the model, {spec.shape} in the signature")
        elif spec.name not in kinds or kinds[spec.name].kind != spec.kind:
            problems.append(f"{spec.name} is no {spec.kind} in the model")
    if problems:
        more = f"; and {len(problems) - 5} more differences" if len(problems) > 5 else ""
        raise MismatchError(f"signature {name!r} does not fit this model: {'; '.join(problems[:5])}{more}")


def check_writable(name: str, tensor: Tensor) -> None:
    """OptionError unless a tensor of a model can be written to, and holds the sums of clean values and signatures."""
    if tensor.is_meta:
        raise OptionError("the model is on the meta device; load its weights first, then patch")
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
    if not plain or not tensor.is_floating_point():
        raise OptionError(
            f"{name} is a {type(tensor).__name__} of {tensor.dtype}; patch the floating-point model first, "
            "and quantize or shard the patched one (bake() keeps the weights)"
        )
    if tensor.dtype not in _DTYPES:
        raise OptionError(
            f"{name} is kept in {tensor.dtype}, which is too coarse for signatures; patch the model in float32, "
            "float16 or bfloat16, and cast the patched one (bake() keeps the weights)"
        )
    if _overlaps_itself(tensor):
        raise OptionError(
            f"several values of {name} lie in the same memory (its strides are {tensor.stride()}), as expand() leaves "
            "it; clone it first"
        )


def check_values(clean: Mapping[str, Tensor], kinds: Mapping[str, LayerTensor]) -> None:
    """OptionError if weights of a model are not finite, or a variance is negative: signatures change its logarithm."""
    for name, value in clean.items():
        values = value.detach()
        # A finite sum has finite terms, and takes a thirtieth of the time of `isfinite`.
        if not math.isfinite(float(values.sum())) and not bool(torch.isfinite(values).all()):
            raise OptionError(f"{name} of the model holds NaN or infinite values; load its weights again")
        if kinds[name].kind == "running_var" and bool((values < 0).any()):
            raise OptionError(
                f"{name} of the model holds {float(values.min()):g}, and a variance is never negative: its weights are "
                "broken; load them again"
            )


def _check_apart(tensors: Mapping[str, Tensor]) -> None:
    """OptionError if two tensors share memory."""
    order = {name: position for position, name in enumerate(tensors)}
    starts = sorted((str(t.device), t.data_ptr(), name) for name, t in tensors.items() if t.numel())
    for (device, start, name), (other_device, next_start, other) in pairwise(starts):
        dense = all(_span(tensors[key]) == tensors[key].numel() for key in (name, other))  # others may be interleaved
        reached = start + (tensors[name].nbytes if dense else 1)
        if device == other_device and next_start < reached:
            first, second = sorted((name, other), key=order.__getitem__)
            raise OptionError(f"{second} and {first} share memory in the model; untie them first")


def _span(tensor: Tensor) -> int:
    """How many values lie between the first and the last of a tensor in memory, with these."""
    if tensor.is_contiguous():
        return tensor.numel()
    return 1 + sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _overlaps_itself(tensor: Tensor) -> bool:
    """Whether the strides of a tensor may lead to the same memory twice."""
    if tensor.is_contiguous():
        return False
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return tensor.numel() > 0
        reach += stride * (size - 1)
    return False


def transfer_reasons(signature: Signature, model: nn.Module, touched: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Why this is a transfer to another base; empty if it is the base that the signature was made from."""
    base = signature.config.base_model
    reasons = []
    if not has_fingerprint(touched, base.fingerprint):
        reasons.append("the signature was made from other weights of this architecture")
    config = getattr(model, "pretrained_cfg", None) or {}
    for key in ("mean", "std"):
        theirs, ours = getattr(base, key), tuple(config.get(key) or ())
        if theirs and ours and not _close(theirs, ours):
            reasons.append(f"its images were normalised with {key} {theirs}, the model's are with {ours}")
    return tuple(reasons)


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) < 1e-4 for x, y in zip(a, b, strict=True))
