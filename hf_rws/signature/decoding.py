"""Packed codes of the codec "symmetric" -> values, by rows and without new memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from hf_rws.signature._packing import steps_to_unpack
from hf_rws.signature.bits import Bits, top_code


def row_ranges(shape: Sequence[int], size: int = 2**16) -> Iterator[slice]:
    """Ranges of rows (indices along dimension 0), about as large as each other, with about `size` values at most."""
    rows, count = shape[0], math.prod(shape)
    if count == 0:
        return
    step = -(-rows // -(-count // size))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def workspace(count: int, device: torch.device) -> Tensor:
    """Memory for `decoder`, enough for `count` values."""
    return torch.empty((2, count), dtype=torch.uint8, device=device)


class Coded:
    """A quantized tensor, or some of its rows: integers times scales.

    Args:
        packed: uint8 of shape (bytes,): the codes of all rows.
        shape: Rows, and values per row.
        bits: 1 to 8 or "ternary".
        scales: float32 of shape (rows, 1): what the integers of each row count.
        rows: Which of the rows; `scales` has just those.
    """

    def __init__(
        self, packed: Tensor, shape: tuple[int, int], bits: Bits, scales: Tensor, rows: slice | None = None
    ) -> None:
        self._packed, self._shape, self.bits, self.scales = packed, shape, bits, scales
        self._rows = rows or slice(0, shape[0])
        self.width = shape[1]
        self.is_signed = bits == 8  # the bytes are the integers

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor, shape: Sequence[int], bits: Bits) -> "Coded":
        """A whole tensor from what `encode` returns: uint8 of shape (bytes,), float16 of shape (rows,)."""
        counted = scales.float()[:, None] * unit(bits) * (2 if bits == 8 else 1)
        return cls(codes, (shape[0], math.prod(shape[1:])), bits, counted)

    def __getitem__(self, rows: slice) -> "Coded":
        """Some rows of a whole tensor."""
        return Coded(self._packed, self._shape, self.bits, self.scales[rows], rows)

    def signed(self) -> Tensor:
        """The integers as int8 of shape (values,), where they are stored so."""
        return self._packed[self._rows.start * self.width : self._rows.stop * self.width].view(torch.int8)

    def steps_to_unpack(self, out: Tensor, spare: Tensor) -> Iterator[Callable[[], object]]:
        """What to call to write the codes to memory, uint8 of shape (values,); `spare` is as much again."""
        return steps_to_unpack(
            self._packed, math.prod(self._shape), self.bits, self._rows.start * self.width, out, spare
        )


def decoder(
    parts: Sequence[tuple[slice, Coded]], out: Tensor, work: Tensor, *, scaled: bool = True
) -> Callable[[], None]:
    """A function that decodes tensors into memory.

    Args:
        parts: Where in `out` each goes, and what, in the order of their places.
        out: float32 of shape (values,).
        work: uint8 of shape (2, values), from `workspace`.
        scaled: False: just the integers.
    """
    filled = [(where, coded) for where, coded in parts if where.stop > where.start]
    signed = [(where, coded) for where, coded in filled if coded.is_signed]
    unsigned = [(where, coded) for where, coded in filled if not coded.is_signed]
    calls: list[Callable[[], object]] = []
    if signed:
        sources = [coded.signed() for _, coded in signed]
        calls.append(partial(torch._foreach_copy_, [out[where] for where, _ in signed], sources))
    for where, coded in unsigned:
        calls += coded.steps_to_unpack(work[0, where], work[1, where])
    for where, bits in _runs([(where, coded.bits) for where, coded in unsigned]):
        integers = work[0, where].view(torch.int8)
        calls += [partial(centred, integers, top_code(bits)), partial(out[where].copy_, integers)]
    if scaled and filled:
        rows = [out[where].view(-1, coded.width) for where, coded in filled]
        calls.append(partial(torch._foreach_mul_, rows, [coded.scales for _, coded in filled]))

    def decode() -> None:
        for call in calls:
            call()

    return decode


def _runs(parts: Sequence[tuple[slice, Bits]]) -> list[tuple[slice, Bits]]:
    """Neighbours with the same bits as one, so that small tensors share operations."""
    runs: list[tuple[slice, Bits]] = []
    for where, bits in parts:
        if runs and runs[-1][1] == bits and runs[-1][0].stop == where.start:
            where = slice(runs.pop()[0].start, where.stop)
        runs.append((where, bits))
    return runs


def unit(bits: Bits) -> float:
    """What the integers of the codec "symmetric" count, as a share of the scale: a power of two."""
    return 2.0 ** (1 - (2 if bits == "ternary" else bits))


def centred(codes: Tensor, top: int) -> Tensor:
    """Overwrites codes with the integers of the format, 2 * code - top: as many below as above zero.

    In int8, too, up to 7 bits: 2 * code may overflow, the difference does not.
    """
    return torch.add(_number(-top, codes.dtype, codes.device), codes, alpha=2, out=codes)


@cache
def _number(value: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(value, dtype=dtype, device=device)
