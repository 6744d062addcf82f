"""Tensors <-> the flat arrays of signature.safetensors."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from safetensors.torch import load
from torch import Tensor

from hf_rws._ambient import unaffected
from hf_rws.errors import FormatError, OptionError
from hf_rws.signature.config import ARRAYS, TensorSpec, array_lengths
from hf_rws.signature.quantization import decode, encode

_DTYPES = {"U8": torch.uint8, "F16": torch.float16, "F32": torch.float32}
_ARRAYS = {name: _DTYPES[dtype] for name, dtype in ARRAYS.items()}

_LONGEST_HEADER = 100_000  # bytes; that of four arrays has less than 400


@unaffected
def pack_arrays(deltas: Mapping[str, Tensor], tensors: Sequence[TensorSpec], codec: str) -> dict[str, Tensor]:
    """Flat arrays, in storage order, of float32 tensors by name; arrays without elements are left out.

    Raises:
        OptionError: Values are not finite or beyond float16 where they would be stored as such.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in _ARRAYS}
    for spec in tensors:
        value = deltas[spec.name].detach().to("cpu", torch.float32).contiguous()
        if spec.bits == 32:
            parts["values"].append(value.flatten())
        elif spec.bits == 16:
            parts["vectors"].append(_to_float16(value, spec.name).flatten())
        else:
            codes, scales = encode(value, spec.bits, codec=codec)
            parts["codes"].append(codes)
            parts["scales"].append(scales)
    return {name: torch.cat(pieces) for name, pieces in parts.items() if sum(map(len, pieces))}


@unaffected
def read_arrays(content: bytes, tensors: Sequence[TensorSpec], codec: str, where: str) -> dict[str, Tensor]:
    """The arrays of a weight file.

    Raises:
        FormatError: It is no safetensors file, or its arrays have not just the dtypes, lengths and finite values that
            `tensors` ask for.
    """
    if int.from_bytes(content[:8], "little") > _LONGEST_HEADER:
        raise FormatError(f"{where}: not a safetensors file of a signature (its header is too long)")
    try:
        arrays = load(content)
    except Exception as error:  # what a broken header makes of safetensors and torch is not theirs to say
        raise FormatError(f"{where}: not a safetensors file ({type(error).__name__}: {error})") from error
    if strange := sorted(arrays.keys() - _ARRAYS.keys()):
        raise FormatError(f"{where}: holds arrays that no signature has: {', '.join(map(repr, strange[:5]))}")
    for name, length in array_lengths(tensors, codec, where).items():
        dtype = _ARRAYS[name]
        found = arrays.get(name, torch.empty(0, dtype=dtype))
        if found.dtype != dtype or found.ndim != 1 or len(found) != length:
            raise FormatError(
                f"{where}: array {name!r} is {found.dtype} of shape {tuple(found.shape)}; config.json asks for "
                f"{dtype} of shape ({length},)"
            )
        if dtype.is_floating_point and not bool(torch.isfinite(found).all()):
            raise FormatError(f"{where}: array {name!r} holds NaN or infinite values")
    return arrays


def tensor_parts(
    arrays: Mapping[str, Tensor], tensors: Sequence[TensorSpec], codec: str
) -> Iterator[dict[str, Tensor]]:
    """The parts of the arrays that belong to each tensor, in storage order; views, nothing is copied."""
    position = dict.fromkeys(_ARRAYS, 0)
    for spec in tensors:
        mine = {}
        for name, size in spec.sizes(codec).items():
            array = arrays.get(name, torch.empty(0, dtype=_ARRAYS[name]))
            mine[name] = array[position[name] : position[name] + size]
            position[name] += size
        yield mine


def unpack_tensor(parts: Mapping[str, Tensor], spec: TensorSpec, codec: str) -> Tensor:
    """The float32 tensor of one spec from its parts of the arrays."""
    if spec.bits == 32:
        return parts["values"].view(spec.shape).clone()
    if spec.bits == 16:
        return parts["vectors"].view(spec.shape).float()
    return decode(parts["codes"], parts["scales"], spec.shape, spec.bits, codec=codec)


def _to_float16(value: Tensor, name: str) -> Tensor:
    half = value.half()
    if not bool(torch.isfinite(half).all()):
        raise OptionError(f"{name} holds values that are not finite or beyond float16; use bits=None")
    return half
