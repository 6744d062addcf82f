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
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Bits: TypeAlias = int | Literal["ternary"]

_ZERO = 127  # the code of 8 bits that stands for 0
_FIELDS: dict[Bits, tuple[Bits, ...]] = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
_PLANES: dict[Bits, int] = {1: 8, 2: 4, 4: 2, 8: 1, "ternary": 5}


def num_bytes(count: int, bits: Bits) -> int:
    """How many bytes `count` codes take."""
    return sum(-(-count // _PLANES[field]) for field in _fields(bits))


def top_code(bits: Bits) -> int:
    """The largest code of the codec "symmetric": even where one stands for zero."""
    return {"ternary": 2, 8: 254}.get(bits) or 2 ** int(bits) - 1


def pack(codes: Tensor, bits: Bits) -> Tensor:
    """Packed bytes of uint8 codes, both one-dimensional."""
    packed, shift = [], 0
    for field in _fields(bits):
        planes = _PLANES[field]
        digits = torch.nn.functional.pad(codes >> shift, (0, -len(codes) % planes)).view(planes, -1)
        if field == "ternary":
            number = torch.zeros_like(digits[0], dtype=torch.int32)
            for digit in digits:
                number.mul_(3).add_(digit)
            packed.append((number * 256 + 242).floor_divide_(243).to(torch.uint8))
        elif field == 8:
            packed.append(digits[0] - _ZERO)
        else:
            width = int(field)
            packed.append(sum((digit & (2**width - 1)) << (width * k) for k, digit in enumerate(digits)))
            shift += width
    return torch.cat(packed)


def unpacking(
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
    shift = 0
    for field in _fields(bits):
        length = num_bytes(count, field)
        mine, packed = packed[:length], packed[length:]
        if field == "ternary":
            yield from _ternary_digits(mine, start, out, spare)
        elif shift == 0:
            yield from _bits(mine, int(field), start, out)
        else:
            yield from _bits(mine, int(field), start, spare)
            yield partial(out.add_, spare, alpha=2**shift)
        shift += 0 if field == "ternary" else int(field)


def _fields(bits: Bits) -> tuple[Bits, ...]:
    return _FIELDS.get(bits, (bits,))


def _bits(packed: Tensor, width: int, start: int, out: Tensor) -> Iterator[Callable[[], object]]:
    if width == 8:
        yield partial(torch.add, packed[start : start + len(out)], _ZERO, out=out)
        return
    mask, last = 2**width - 1, _PLANES[width] - 1
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
