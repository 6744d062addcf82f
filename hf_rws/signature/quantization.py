"""Values <-> packed codes.

One formula serves every bit width of the default codec, "symmetric":

    value = scale[channel] * unit * (2 * code - top)        channel: index along dimension 0

| bits      | codes    | top      | unit         | values, in scales                |
|-----------|----------|----------|--------------|----------------------------------|
| b: 1 to 7 | 0 to top | 2**b - 1 | 2**(1 - b)   | as many below as above zero      |
| 8         | 0 to 254 | 254      | 1 / 128      | -127 / 64, ..., 0, ..., 127 / 64 |
| "ternary" | 0 to 2   | 2        | 1 / 2        | -1, 0, 1                         |

Scales are float16 and units powers of two, so values are exact in float32, on every machine. Codes run in row-major
order through the whole tensor; `_packing` says how they lie in bytes.

The codecs "linear" and "log" are the two schemes of the released code (VITA-Group/Robust_Weight_Signatures), there for
comparison. Both lay evenly spaced points between two ends that `scales` holds. "linear": 2**b of them, between the
smallest and the largest value of the tensor. "log": 2**(b-1), between the smallest and the largest log2 of a nonzero
magnitude, in the low bits of a code; its top bit is set for negative values. (There a single exact zero makes the whole
tensor NaN; here zeros take the smallest magnitude.)
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hf_rws._ambient import unaffected
from hf_rws.errors import FormatError, OptionError
from hf_rws.signature._packing import pack_codes, steps_to_unpack
from hf_rws.signature.bits import Bits, packed_sizes, top_code
from hf_rws.signature.decoding import (
    Coded,
    centred,
    decoder,
    row_ranges,
    unit,
    workspace,
)

_FLOAT16_MAX = torch.finfo(torch.float16).max
_SMALLEST_STEP = 2.0**-32  # below what the integers of the smallest scale in float16 count
_FLOAT32_TINY = torch.finfo(torch.float32).tiny

# The search comes within 0.3 % of the least squared error of an exhaustive one up to 4 bits, 1 % at 8 (normal and
# Student-t channels of 9 to 4,608 values).
_CANDIDATES = 24
_REFINEMENTS = 2
_CHUNK = 2**17  # values searched at a time: what fits a CPU's second-level cache

# --- encoding and decoding ---


@unaffected
def encode(values: Tensor, bits: Bits, *, codec: str = "symmetric") -> tuple[Tensor, Tensor]:
    """Quantizes a tensor.

    "symmetric" chooses each channel's scale for the least squared error, never worse than giving the top code to the
    largest magnitude; a channel of zeros, or of values below float16's smallest number, has scale 0. For every codec,
    encoding what `decode` returns gives the same codes and scales again.

    Args:
        values: float tensor (read as float32) on any device, of shape (channels, ...), at least one dimension; finite
            and within float16's range of ±65,504.
        bits: 1 to 8 ("log": 2 to 8), or "ternary" ("symmetric" only).
        codec: one of `bits.CODECS`. "log" has no code for zero: zeros take the smallest nonzero magnitude of the tensor
            (but a tensor of nothing but zeros stays zero).

    Returns:
        codes: uint8, one-dimensional, packed.
        scales: float16; one per channel for "symmetric", [smallest, largest] value or log2 magnitude for the others.
        Both on the CPU, with the lengths of `packed_sizes`.

    Raises:
        OptionError: unknown or unfit bits or codec, or values that are no floats, not finite or out of range.
    """
    _, num_scales = packed_sizes(values.shape, bits, codec=codec)
    rows = _checked_rows(values).cpu()
    if rows.numel() == 0:
        return torch.empty(0, dtype=torch.uint8), torch.zeros(num_scales, dtype=torch.float16)
    if codec == "symmetric":
        codes, scales = _encode_symmetric(rows, top_code(bits), unit(bits))
    elif codec == "linear":
        codes, scales = _encode_linear(rows, 2 ** int(bits) - 1)
    else:
        codes, scales = _encode_log(rows, 2 ** (int(bits) - 1) - 1)
    return pack_codes(codes.reshape(-1), bits), scales


@unaffected
def decode(codes: Tensor, scales: Tensor, shape: Sequence[int], bits: Bits, *, codec: str = "symmetric") -> Tensor:
    """The float32 tensor (on the CPU) that `encode` packed into `codes` and `scales`.

    "symmetric" is exact: no value is rounded.

    Raises:
        FormatError: the arrays have other dtypes or lengths than `packed_sizes(shape, bits)`, or scales are not finite.
        OptionError: unknown or unfit bits or codec.
    """
    length, num_scales = packed_sizes(shape, bits, codec=codec)
    _check_array("codes", codes, torch.uint8, length, shape)
    _check_array("scales", scales, torch.float16, num_scales, shape)
    if not scales.isfinite().all():
        raise FormatError(f"scales of a tensor of shape {tuple(shape)} hold NaN or Inf: the file is broken")
    codes, scales, width = codes.cpu(), scales.cpu(), math.prod(shape[1:])
    values = torch.empty(math.prod(shape), dtype=torch.float32, device="cpu")
    parts = [(rows, values[rows.start * width : rows.stop * width]) for rows in row_ranges(shape)]
    work = workspace(max((len(part) for _, part in parts), default=0), values.device)
    if codec == "symmetric":
        coded = Coded.of(codes, scales, shape, bits)
        for rows, part in parts:
            decoder([(slice(0, len(part)), coded[rows])], part, work)()
    else:
        table = (_linear_table if codec == "linear" else _log_table)(scales, int(bits))
        for rows, part in parts:
            numbers, spare = work[:, : len(part)]
            for step in steps_to_unpack(codes, len(values), bits, rows.start * width, numbers, spare):
                step()
            torch.index_select(table, 0, numbers.int(), out=part)
    return values.view(tuple(shape))


@unaffected
def rounded(values: Tensor, bits: Bits) -> Tensor:
    """What `decode` makes of what `encode` makes of a tensor with the codec "symmetric", on the tensor's own device.

    Bit for bit on the CPU; elsewhere another scale of nearly the same error may be chosen. Raises as `encode` does.
    """
    packed_sizes(values.shape, bits)  # refuses what has no channels
    rows = _checked_rows(values)
    if rows.numel() == 0:
        return rows.view(values.shape)
    codes, scales = _encode_symmetric(rows, top_code(bits), unit(bits))
    return centred(codes.float(), top_code(bits)).mul_((scales.float() * unit(bits))[:, None]).view(values.shape)


def _checked_rows(values: Tensor) -> Tensor:
    """A row of float32 values for every channel."""
    if not values.is_floating_point():
        raise OptionError(f"values must be floating point, not {values.dtype}")
    rows = values.detach().float().reshape(len(values), math.prod(values.shape[1:]))
    if rows.numel():
        _check_range(rows)
    return rows


def _check_range(rows: Tensor) -> None:
    low, high = (end.item() for end in rows.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise OptionError(
            f"{int((~rows.isfinite()).sum())} of {rows.numel()} values are NaN or Inf: codes cannot hold them. "
            "Mend the model they come from; bits=None would store them as they are, as float32"
        )
    if max(-low, high) > _FLOAT16_MAX:
        raise OptionError(
            f"values from {low:g} to {high:g} are beyond the range of float16 scales (65504): use bits=None (float32)"
        )


def _check_array(name: str, array: Tensor, dtype: torch.dtype, length: int, shape: Sequence[int]) -> None:
    if array.dtype != dtype or tuple(array.shape) != (length,):
        raise FormatError(
            f"{name} of a tensor of shape {tuple(shape)} must be {length} numbers of {dtype}, "
            f"got shape {tuple(array.shape)} of {array.dtype}"
        )


# --- symmetric ---


def _encode_symmetric(rows: Tensor, top: int, unit: float) -> tuple[Tensor, Tensor]:
    codes = torch.empty(rows.shape, dtype=torch.uint8, device=rows.device)
    scales = torch.empty(len(rows), dtype=torch.float16, device=rows.device)
    count = max(1, _CHUNK // rows.shape[1])
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        scales[part] = _best_scales(rows[part].abs(), top, unit)
        codes[part] = _nearest_codes(rows[part], scales[part].float() * unit, top)
    return codes, scales


def _best_scales(magnitudes: Tensor, top: int, unit: float) -> Tensor:
    """The float16 scale of each row that (nearly) minimises its squared error.

    What is sought is the step, which the integers count. The least-squares step gives the top code at least the mean
    magnitude: what it is multiplied with is at most that code's and grows with the magnitudes. So the candidates give
    it from the largest to the mean magnitude, in geometric steps that are finer near the largest.

    `limit` keeps the largest magnitude at the top code, and that in the range that is allowed. So the scale can be read
    off the decoded values as that of their largest magnitude: encoding them once more finds it again, at no error.
    """
    largest, mean = magnitudes.amax(1), magnitudes.mean(1)
    limit = (largest / (top - 0.5)).clamp(max=_FLOAT16_MAX / top)
    best, best_gain = largest / top, torch.full_like(largest, -1.0)
    for i in range(_CANDIDATES if top > 1 else 1):
        toward_mean = (i / _CANDIDATES) ** 2
        steps, gain = _least_squares(magnitudes, largest ** (1 - toward_mean) * mean**toward_mean / top, top)
        best, best_gain = torch.where(gain > best_gain, steps, best), torch.maximum(gain, best_gain)
    for _ in range(_REFINEMENTS):
        best, _gain = _least_squares(magnitudes, torch.minimum(best, limit), top)
    plain, best = (_scales_to_float16(steps / unit, limit / unit) for steps in (largest / top, best))
    error, plain_error = (_squared_error(magnitudes, scales.float() * unit, top) for scales in (best, plain))
    return torch.where(error < plain_error, best, plain)


def _least_squares(magnitudes: Tensor, steps: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The best steps for the codes that `steps` give, and by how much they lower the squared error from that of 0."""
    nearest = centred(_nearest_codes(magnitudes, steps, top), top)
    product = (magnitudes * nearest).sum(1)
    refined = product / nearest.square_().sum(1).clamp_min_(_FLOAT32_TINY)
    return refined, refined * product


def _squared_error(magnitudes: Tensor, steps: Tensor, top: int) -> Tensor:
    decoded = centred(_nearest_codes(magnitudes, steps, top), top).mul_(steps[:, None])
    return decoded.sub_(magnitudes).square_().sum(1)


def _nearest_codes(rows: Tensor, steps: Tensor, top: int) -> Tensor:
    """The codes of the nearest values, as floats. Steps too small for any scale in float16 count as 0."""
    codes_per_value = torch.where(steps < _SMALLEST_STEP, 0.0, 0.5 / steps)
    return rows.mul(codes_per_value[:, None]).add_((top + 1) / 2).floor_().clamp_(0, top)


def _scales_to_float16(scales: Tensor, limit: Tensor) -> Tensor:
    """The nearest float16 numbers that are at most `limit`."""
    nearest = torch.minimum(scales, limit).to(torch.float16)
    next_lower = (nearest.view(torch.int16) - 1).view(torch.float16)  # of positive numbers
    return torch.where(nearest <= limit, nearest, next_lower)


# --- linear and log ---


def _encode_linear(rows: Tensor, top: int) -> tuple[Tensor, Tensor]:
    low, high = (end.double() for end in rows.aminmax())
    ends = _ends_to_float16(low, high)
    return _grid_codes(rows, ends, top).to(torch.uint8), ends


def _encode_log(rows: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The magnitudes' codes, plus `top + 1` for negative values. Subnormal float32 numbers count as zeros."""
    magnitudes = rows.abs()
    nonzero = magnitudes[magnitudes >= _FLOAT32_TINY]
    if len(nonzero) == 0:
        return torch.zeros(rows.shape, dtype=torch.uint8), torch.full((2,), -_FLOAT16_MAX, dtype=torch.float16)
    smallest, largest = nonzero.aminmax()
    # Multiples of 2**-10, and a tolerance above float32's rounding of the decoded ends: encoding those finds the same.
    low = torch.ceil((smallest.double().log2() - 2.0**-22) * 1024) / 1024
    high = torch.floor((largest.double().log2() + 2.0**-22) * 1024) / 1024
    ends = _ends_to_float16(low, high)
    codes = _grid_codes(magnitudes.clamp_min_(smallest).log2_(), ends, top)
    return codes.add_(rows < 0, alpha=top + 1).to(torch.uint8), ends


def _linear_table(ends: Tensor, bits: int) -> Tensor:
    """The values of all codes of the codec "linear", float32 of shape (2**bits,); `ends` are the two scales."""
    low, high = ends.double()
    top = 2**bits - 1
    return (low + (high - low) * _fractions(top)).float()


def _fractions(top: int) -> Tensor:
    return torch.arange(top + 1, dtype=torch.float32, device="cpu") / top


def _log_table(ends: Tensor, bits: int) -> Tensor:
    """The same of the codec "log"."""
    low, high = ends.double()
    top = 2 ** (bits - 1) - 1
    magnitudes = torch.exp2(low + (high - low) * _fractions(top)).float()
    if not magnitudes.isfinite().all():
        raise FormatError(f"scales {ends.tolist()} of codec 'log' give values beyond float32: the file is broken")
    return torch.cat([magnitudes, -magnitudes])


def _grid_codes(values: Tensor, ends: Tensor, top: int) -> Tensor:
    """The nearest of `top + 1` evenly spaced points between the two ends, as float codes."""
    low, high = ends.tolist()
    per_value = top / (high - low) if high > low else 0.0
    return values.sub(low).mul_(per_value).round_().clamp_(0, top)


def _ends_to_float16(low: Tensor, high: Tensor) -> Tensor:
    """Both ends as float16, rounded inwards: then both are in use, and encoding decoded values finds them again."""
    minus_low, inner_high = _float16_at_most(torch.stack([-low, high]))
    inner_low = torch.minimum(-minus_low, inner_high)  # they cross where no float16 number lies between the two
    return torch.stack([inner_low, inner_high]) + 0.0  # no -0.0: it would not come again


def _float16_at_most(values: Tensor) -> Tensor:
    nearest = values.to(torch.float16)
    with np.errstate(over="ignore"):  # below -65504, where nothing is taken from
        below = np.nextafter(nearest.numpy(), np.float16(-np.inf))
    return torch.where(nearest > values, torch.from_numpy(below), nearest)
