"""Packed codes -> values, by rows and without new memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from hf_rws.errors import FormatError
from hf_rws.packing import TERNARY_BYTES, Bits, num_bytes, top_code, unpack

_BYTE_BOUNDARY = 40  # values of any width that fill whole bytes

# For these widths a table gives the integers of all codes in a byte at once, where it can as one number.
_CODES_PER_BYTE: dict[Bits, int] = {1: 8, 2: 4, 4: 2, "ternary": 5}
_ELEMENTS: dict[Bits, torch.dtype] = {1: torch.int64, 2: torch.complex128, 4: torch.float64}


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
    """Memory for `decoder`, enough for `count` values."""
    return torch.empty(count // 4 + 4, dtype=torch.int64, device=device)


class Codes:
    """Packed codes, whose integers (see `centred`) can be written to memory.

    Args:
        packed: uint8, one-dimensional.
        count: How many codes.
        bits: 1 to 8 or "ternary".
    """

    def __init__(self, packed: Tensor, count: int, bits: Bits) -> None:
        self.packed, self._count, self._bits = packed, count, bits

    def __getitem__(self, values: slice) -> "Codes":
        """Some of them, from the beginning of a byte on."""
        first, last = (num_bytes(index, self._bits) for index in (values.start, values.stop))
        return Codes(self.packed[first:last], values.stop - values.start, self._bits)

    def joined(self, other: "Codes") -> "Codes | None":
        """These and others as one, if they lie one after another in memory without padding between them."""
        mine, theirs = self.packed, other.packed
        full = num_bytes(8 * self._count, self._bits) == 8 * len(mine)  # the last byte, too
        adjacent = mine.data_ptr() + len(mine) == theirs.data_ptr()
        same_memory = mine.untyped_storage().data_ptr() == theirs.untyped_storage().data_ptr()
        if self._bits != other._bits or not (full and adjacent and same_memory):
            return None
        return Codes(mine.as_strided((len(mine) + len(theirs),), (1,)), self._count + other._count, self._bits)

    def as_numbers(self, work: Tensor) -> Tensor:
        """The codes as int32, with memory from `workspace`."""
        return unpack(self.packed, self._bits, work)[: self._count].int()

    def writer(self, out: Tensor, work: Tensor) -> Callable[[], object]:
        """A function that writes the integers to `out`, float32, flat, with memory from `workspace`."""
        if self._bits == 1:
            return self._by_words(out, work)
        return (self._by_table if self._bits in _CODES_PER_BYTE else self._by_arithmetic)(out, work)

    def _by_arithmetic(self, out: Tensor, work: Tensor, start: int = 0) -> Callable[[], object]:
        packed, bits, top = self.packed[start:], self._bits, top_code(self._bits)
        if bits == 8:
            return lambda: centred(out.copy_(packed), top)
        return lambda: out.copy_(centred(unpack(packed, bits, work)[: len(out)].view(torch.int8), top))

    def _by_words(self, out: Tensor, work: Tensor) -> Callable[[], object]:
        packed, table, count = self.packed, _table(1, out.device), len(self.packed)
        words, index = work[:count], work.view(torch.int32)[2 * count : 3 * count]
        integers = words.view(torch.int8)[: len(out)]

        def write() -> None:
            torch.index_select(table, 0, index.copy_(packed), out=words)
            out.copy_(integers)

        return write

    def _by_table(self, out: Tensor, work: Tensor) -> Callable[[], object]:
        per_byte, table = _CODES_PER_BYTE[self._bits], _table(self._bits, out.device)
        whole = len(out) // per_byte
        packed, index = self.packed[:whole], work.view(torch.int32)[:whole]
        found = out[: whole * per_byte].view(table.dtype).view(whole, *table.shape[1:])
        last = self._by_arithmetic(out[whole * per_byte :], work, whole) if len(out) % per_byte else None

        def write() -> None:
            torch.index_select(table, 0, index.copy_(packed), out=found)
            if last is not None:
                last()

        return write


class Coded:
    """A quantized tensor, or some of its rows.

    Args:
        codes: One per value.
        scales: float32; for "symmetric" the steps, of shape (rows, 1), for the other codecs the values of all codes.
        width: Values per row.
        codec: "symmetric", "linear" or "log".
    """

    def __init__(self, codes: Codes, scales: Tensor, width: int, codec: str) -> None:
        self.codes, self.scales, self.width = codes, scales, width
        self.is_scaled = codec == "symmetric"  # the values are integers times steps
        self._codec = codec

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor, shape: Sequence[int], bits: Bits, codec: str) -> "Coded":
        """A whole tensor from what `encode` returns."""
        wide, top = scales.float(), top_code(bits)
        if codec == "symmetric":
            wide = steps(wide, top)[:, None]
        else:
            wide = linear_table(wide, top) if codec == "linear" else log_table(wide, top // 2)
        return cls(Codes(codes, math.prod(shape), bits), wide, math.prod(shape[1:]), codec)

    def __getitem__(self, rows: slice) -> "Coded":
        """Some rows: a range of `row_ranges`."""
        codes = self.codes[rows.start * self.width : rows.stop * self.width]
        return Coded(codes, self.scales[rows] if self.is_scaled else self.scales, self.width, self._codec)


def decoder(parts: Sequence[tuple[slice, Coded]], out: Tensor, work: Tensor) -> Callable[[], object]:
    """A function that decodes tensors into float32 memory; codes that lie in one piece are read at once.

    Args:
        parts: Where in `out` each goes, and what, in the order of their places.
        out: Flat.
        work: Memory from `workspace`, enough for all of them.
    """
    filled = [(where, coded) for where, coded in parts if where.stop > where.start]
    scaled = [(where, coded) for where, coded in filled if coded.is_scaled]
    looked_up = [(out[where], coded) for where, coded in filled if not coded.is_scaled]
    runs: list[tuple[slice, Codes]] = []
    for where, coded in scaled:
        before, codes = runs[-1] if runs else (slice(-1), coded.codes)
        joined = codes.joined(coded.codes) if before.stop == where.start else None
        if joined is None:
            runs.append((where, coded.codes))
        else:
            runs[-1] = slice(before.start, where.stop), joined
    writers = [codes.writer(out[where], work) for where, codes in runs]
    rows = [out[where].view(-1, coded.width) for where, coded in scaled]
    scales = [coded.scales for _, coded in scaled]

    def decode() -> None:
        for write in writers:
            write()
        if rows:
            torch._foreach_mul_(rows, scales)
        for values, coded in looked_up:
            torch.index_select(coded.scales, 0, coded.codes.as_numbers(work), out=values)

    return decode


def steps(scales: Tensor, top: int) -> Tensor:
    """What the integers of each channel count, from float32 scales."""
    return scales / _number(top, scales.dtype, scales.device)


def centred(codes: Tensor, top: int) -> Tensor:
    """Overwrites codes with the integers of the format, 2 * code - top: as many below as above zero.

    In int8, too, up to 7 bits: 2 * code may overflow, the difference does not.
    """
    return torch.add(_number(-top, codes.dtype, codes.device), codes, alpha=2, out=codes)


@cache
def _number(value: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(value, dtype=dtype, device=device)  # a tensor: CUDA turns division by a number into a product


@cache
def _table(bits: Bits, device: torch.device) -> Tensor:
    """The integers of the codes in every byte: of shape (bytes, codes), or one number per byte that holds them.

    They are float32, for 1 bit int8.
    """
    every_byte = torch.arange(TERNARY_BYTES if bits == "ternary" else 256, device=device).to(torch.uint8)
    integers = centred(unpack(every_byte, bits).float(), top_code(bits))
    if bits == 1:
        integers = integers.to(torch.int8)
    return integers.view(_ELEMENTS[bits]) if bits in _ELEMENTS else integers.view(-1, _CODES_PER_BYTE[bits])


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
