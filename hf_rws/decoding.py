"""Packed codes -> values, by rows and without new memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from hf_rws.errors import FormatError
from hf_rws.packing import TERNARY_BYTES, Bits, num_bytes, top_code, unpack

_BYTE_BOUNDARY = 40  # values of any width that fill whole bytes

# For these widths a table gives the levels of all codes in a byte at once, where it can as one number.
_CODES_PER_BYTE: dict[Bits, int] = {1: 8, 2: 4, 4: 2, "ternary": 5}
_ELEMENTS = {2: torch.float64, 4: torch.complex128}


def row_ranges(shape: Sequence[int], size: int = 2**16) -> Iterator[slice]:
    """Ranges of rows (indices along dimension 0) with about `size` values, each from the beginning of a byte on."""
    width = math.prod(shape[1:])
    if width == 0:
        return
    step = _BYTE_BOUNDARY // math.gcd(_BYTE_BOUNDARY, width)
    step *= max(1, size // (width * step))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def workspace(count: int, device: torch.device) -> Tensor:
    """Memory for `Coded.decoder`, enough for `count` values."""
    return torch.empty(count // 4 + 4, dtype=torch.int64, device=device)


class Coded:
    """A quantized tensor, or some of its rows, ready to be decoded.

    Args:
        codes: Packed uint8.
        scales: float32; for "symmetric" of shape (rows, 1), for the other codecs the values of all codes.
        width: Values per row.
        bits: 1 to 8 or "ternary".
        codec: "symmetric", "linear" or "log".
    """

    def __init__(self, codes: Tensor, scales: Tensor, width: int, bits: Bits, codec: str) -> None:
        self.width = width
        self._codes, self._scales, self._bits, self._codec = codes, scales, bits, codec

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor, shape: Sequence[int], bits: Bits, codec: str) -> "Coded":
        """A whole tensor from what `encode` returns."""
        wide, top = scales.float(), top_code(bits)
        if codec == "symmetric":
            wide = wide[:, None]
        else:
            wide = linear_table(wide, top) if codec == "linear" else log_table(wide, top // 2)
        return cls(codes, wide, math.prod(shape[1:]), bits, codec)

    def __getitem__(self, rows: slice) -> "Coded":
        """Some rows: a range of `row_ranges`."""
        first, last = (num_bytes(row * self.width, self._bits) for row in (rows.start, rows.stop))
        scales = self._scales[rows] if self._codec == "symmetric" else self._scales
        return Coded(self._codes[first:last], scales, self.width, self._bits, self._codec)

    @property
    def reach(self) -> float:
        """No value is larger in magnitude."""
        return float(self._scales.abs().max()) if self._scales.numel() else 0.0

    def decoder(self, out: Tensor, work: Tensor) -> Callable[[], object]:
        """A function that decodes into `out`, float32 of shape (rows * width), with memory from `workspace`."""
        if self._codec != "symmetric":
            return lambda: self._look_up(out, work)
        levels_into = self._by_table if self._bits in _CODES_PER_BYTE else self._by_arithmetic
        write_levels, rows, scales = levels_into(out, work), out.view(-1, max(1, self.width)), self._scales

        def decode() -> None:
            write_levels()
            rows.mul_(scales)

        return decode if len(out) else lambda: None

    def _look_up(self, out: Tensor, work: Tensor) -> None:
        codes = unpack(self._codes, self._bits, work)[: len(out)]
        torch.index_select(self._scales, 0, codes.int(), out=out)

    def _by_arithmetic(self, out: Tensor, work: Tensor, start: int = 0) -> Callable[[], object]:
        packed, bits, half = self._codes[start:], self._bits, _half(top_code(self._bits), out.device)
        if bits == 8:
            return lambda: out.copy_(packed).sub_(half).div_(half)
        return lambda: out.copy_(unpack(packed, bits, work)[: len(out)]).sub_(half).div_(half)

    def _by_table(self, out: Tensor, work: Tensor) -> Callable[[], object]:
        per_byte, table = _CODES_PER_BYTE[self._bits], _level_table(self._bits, out.device)
        whole = len(out) // per_byte
        packed, index = self._codes[:whole], work.view(torch.int32)[:whole]
        found = out[: whole * per_byte].view(table.dtype).view(whole, *table.shape[1:])
        last = self._by_arithmetic(out[whole * per_byte :], work, whole) if len(out) % per_byte else None

        def write_levels() -> None:
            torch.index_select(table, 0, index.copy_(packed), out=found)
            if last is not None:
                last()

        return write_levels


def levels(codes: Tensor, top: int) -> Tensor:
    """Overwrites float `codes` with their levels, in [-1, 1].

    (code - top / 2) / (top / 2) is the quotient of the format, (2 * code - top) / top: both differences are exact.
    """
    half = _half(top, codes.device)
    return codes.sub_(half).div_(half)


@cache
def _half(top: int, device: torch.device) -> Tensor:
    return torch.tensor(top / 2, device=device)  # a tensor: CUDA turns division by a number into a product


@cache
def _level_table(bits: Bits, device: torch.device) -> Tensor:
    """The levels of the codes in every byte: float32 of shape (bytes, codes), or one number per byte."""
    every_byte = torch.arange(TERNARY_BYTES if bits == "ternary" else 256, device=device).to(torch.uint8)
    table = levels(unpack(every_byte, bits).float(), top_code(bits)).view(-1, _CODES_PER_BYTE[bits])
    element = _ELEMENTS.get(_CODES_PER_BYTE[bits])
    return table if element is None else table.view(element).view(-1)


def linear_table(ends: Tensor, top: int) -> Tensor:
    """The values of the codes 0 to `top` of the codec "linear"."""
    low, high = ends.double()
    return (low + (high - low) * torch.arange(top + 1, device=ends.device) / top).float()


def log_table(ends: Tensor, top: int) -> Tensor:
    """The values of the codes 0 to 2 * `top` + 1 of the codec "log"."""
    low, high = ends.double()
    magnitudes = torch.exp2(low + (high - low) * torch.arange(top + 1, device=ends.device) / top).float()
    if not magnitudes.isfinite().all():
        raise FormatError(f"scales {ends.tolist()} of codec 'log' give values beyond float32: the file is broken")
    return torch.cat([magnitudes, -magnitudes])
