"""Does a signature fit a model, and is the model the one that it was made from?"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hf_rws.errors import MismatchError, OptionError
from hf_rws.fingerprints import has_fingerprint
from hf_rws.layers import LayerTensor
from hf_rws.signature.signature import Signature


def check_fit(
    signature: Signature, name: str, found: str, tensors: Mapping[str, Tensor], kinds: Mapping[str, LayerTensor]
) -> None:
    """Check that every tensor of a signature is in a model.

    Args:
        signature: The signature.
        name: What to call it in errors.
        found: The model's architecture.
        tensors: Its state dict, with its own tensors.
        kinds: Its `layer_tensors`.

    Raises:
        MismatchError: A tensor is missing, or of another shape or kind.
        OptionError: They are there but cannot be written to: meta, quantized, sharded, tied.
    """
    _check_writable(signature, tensors)
    wanted = signature.config.base_model.architecture
    problems = [f"the signature is for {wanted}, the model is {found}"] if found != wanted else []
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


def _check_writable(signature: Signature, tensors: Mapping[str, Tensor]) -> None:
    places: dict[int, str] = {}
    for spec in signature.config.tensors:
        tensor = tensors.get(spec.name)
        if tensor is None:
            continue
        if tensor.is_inference() and not torch.is_inference_mode_enabled():
            raise OptionError(
                "the model was made in inference mode, which forbids to change its weights; clone it first"
            )
        if not tensor.is_meta and places.setdefault(tensor.data_ptr(), spec.name) != spec.name and tensor.numel():
            raise OptionError(
                f"{spec.name} and {places[tensor.data_ptr()]} share memory in the model; untie them first"
            )
        if tensor.is_meta:
            raise OptionError("the model is on the meta device; load its weights first, then patch")
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_quantized or not tensor.is_floating_point():
            raise OptionError(
                f"{spec.name} is a {type(tensor).__name__} of {tensor.dtype}; patch the floating-point model first, "
                "and quantize or shard the patched one (bake() keeps the weights)"
            )


def transfer_reasons(signature: Signature, model: nn.Module, touched: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Why this is a transfer to another base; empty if it is the base that the signature was made from."""
    base = signature.config.base_model
    reasons = []
    if not has_fingerprint(touched, base.fingerprint):
        reasons.append("the signature was made from other weights of this architecture")
    config = getattr(model, "pretrained_cfg", None) or {}
    for key in ("mean", "std"):
        theirs, ours = getattr(base, key), tuple(config.get(key, ()))
        if theirs and ours and not _close(theirs, ours):
            reasons.append(f"its images were normalised with {key} {theirs}, the model's are with {ours}")
    return tuple(reasons)


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) < 1e-4 for x, y in zip(a, b, strict=True))
