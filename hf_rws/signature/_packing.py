"""Codes <-> packed bytes, in planes.

Where p codes share a byte, n = ceil(count / p) bytes hold `count` of them: byte j has the codes j, j + n, j + 2n and so
on, plane by plane, with zeros where there are none left. So any stretch of codes is read from stretches of bytes, each
with the same few operations on all its bytes.

| bits       | p     | byte                                                                                           |
|------------|-------|------------------------------------------------------------------------------------------------|
| 1, 2, 4    | 8 / b | code k of a byte in its bits b * k to b * k + b - 1, counted from the least significant        |
| 8          | 1     | code - 127, modulo 256: the integer that it stands for (see `quantization`), two's complement  |
| "ternary"  | 5     | the fraction 0.c0 c1 c2 c3 c4 of base 3, in 256ths, rounded up: 3**k times it begins with c_k  |
| 3, 5, 6, 7 |       | the low 2 bits of all codes (of 3) or the low 4 (of 5, 6, 7), so packed, then those above them |
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from hf_rws.signature.bits import CODES_IN_A_BYTE, Bits, bit_fields, num_bytes

_ZERO = 127  # the code of 8 bits that stands for 0


def pack_codes(codes: Tensor, bits: Bits) -> Tensor:
    """Packed bytes of uint8 codes, both one-dimensional."""
    if bits == 8:
        return codes - _ZERO
    if bits == "ternary":
        number = torch.zeros(num_bytes(len(codes), bits), dtype=torch.int32)
        for digits in _planes(codes, bits):
            number.mul_(3).add_(digits)
        return (number * 256 + 242).floor_divide_(243).to(torch.uint8)
    packed = []
    for width in bit_fields(bits):
        planes = _planes(codes & (2**width - 1), width)
        shifts = width * torch.arange(len(planes), dtype=torch.uint8)
        packed.append((planes << shifts[:, None]).sum(0, dtype=torch.uint8))
        codes = codes >> width
    return torch.cat(packed)


def steps_to_unpack(
    packed: Tensor, count: int, bits: Bits, start: int, out: Tensor, spare: Tensor
) -> Iterator[Callable[[], object]]:
    """What to call, in order, to write codes to memory.

    Args:
        packed: uint8, one-dimensional: all codes of a tensor.
        count: How many those are.
        bits: 1 to 8 or "ternary".
        start: The first code to read.
        out: uint8, for as many codes as are to be read.
        spare: As much memory again to work in.
    """
    if bits == 8:
        yield partial(torch.add, packed[start : start + len(out)], _ZERO, out=out)
        return
    if bits == "ternary":
        yield from _ternary_digits(packed, start, out, spare)
        return
    shift = 0
    for width in bit_fields(bits):
        mine, packed = packed.tensor_split([num_bytes(count, width)])
        yield from _bits(mine, width, start, spare if shift else out)
        if shift:
            yield partial(out.add_, spare, alpha=2**shift)
        shift += width


def _planes(codes: Tensor, bits: Bits) -> Tensor:
    return torch.nn.functional.pad(codes, (0, -len(codes) % CODES_IN_A_BYTE[bits])).view(CODES_IN_A_BYTE[bits], -1)


def _bits(packed: Tensor, width: int, start: int, out: Tensor) -> Iterator[Callable[[], object]]:
    mask, last = 2**width - 1, CODES_IN_A_BYTE[width] - 1
    for plane, source, part in _stretches(packed, start, out):
        if plane == 0:
            yield partial(torch.bitwise_and, source, mask, out=part)
            continue
        yield partial(torch.bitwise_right_shift, source, width * plane, out=part)
        if plane < last:
            yield partial(part.bitwise_and_, mask)


def _ternary_digits(packed: Tensor, start: int, out: Tensor, spare: Tensor) -> Iterator[Callable[[], object]]:
    for plane, source, part in _stretches(packed, start, spare):
        yield partial(torch.mul, source, 3**plane, out=part)  # modulo 256: what comes before the point is dropped
    yield partial(torch.ge, spare, 171, out=out)  # two thirds
    yield partial(spare.ge_, 86)  # one third
    yield partial(out.add_, spare)


def _stretches(packed: Tensor, start: int, out: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The planes that codes from `start` on lie in: number, bytes, and where in `out` their codes go."""
    length, wanted, done = packed.numel(), out.numel(), 0
    while done < wanted:
        plane, first = divmod(start + done, length)
        size = min(length - first, wanted - done)
        yield plane, packed[first : first + size], out[done : done + size]
        done += size
