"""Codes <-> packed bytes, without a bit between them.

Codes of 1 to 7 bits form one bit stream, least significant bit first; ternary codes are five per byte, c0 + 3 c1 + 9 c2
+ 27 c3 + 81 c4. Only the last byte is padded, with zeros.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Bits: TypeAlias = int | Literal["ternary"]

TERNARY_BYTES = 3**5  # bytes above hold no five ternary codes

_TERNARY_DIGITS = (torch.arange(TERNARY_BYTES)[:, None] // 3 ** torch.arange(5) % 3).to(torch.uint8)


def num_bytes(count: int, bits: Bits) -> int:
    """How many bytes `count` codes take."""
    return -(-count // 5) if bits == "ternary" else -(-count * bits // 8)


def top_code(bits: Bits) -> int:
    """The largest code."""
    return 2 if bits == "ternary" else 2**bits - 1


def pack(codes: Tensor, bits: Bits) -> Tensor:
    """Packed bytes of uint8 codes, with up to `bits` - 1 bytes of padding at the end."""
    if bits == 8:
        return codes
    if bits == "ternary":
        digits = _grouped(codes, 5)
        packed = digits[:, 4].clone()
        for i in (3, 2, 1, 0):
            packed.mul_(3).add_(digits[:, i])
        return packed
    groups = _grouped(codes, 8)  # eight codes of `bits` bits are `bits` bytes
    words = torch.zeros(len(groups), dtype=torch.int64)
    for i in range(8):
        words |= groups[:, i].long() << (bits * i)
    return torch.stack([(words >> (8 * i)).to(torch.uint8) for i in range(bits)], dim=1).view(-1)


def unpack(packed: Tensor, bits: Bits, words: Tensor | None = None) -> Tensor:
    """Codes as uint8, one per element, with those of the padding at the end.

    Args:
        packed: uint8, one-dimensional.
        bits: 1 to 8 or "ternary".
        words: int64 memory to work in, two elements for every eight codes; the codes of 1 to 7 bits lie in it then.
    """
    if bits == 8:
        return packed
    if bits == "ternary":
        return _TERNARY_DIGITS.to(packed.device).index_select(0, packed.int()).view(-1)
    count = -(-len(packed) // bits)
    if words is None:
        words = torch.empty(2 * count, dtype=torch.int64, device=packed.device)
    codes, upper = words[:count].zero_(), words[count : 2 * count]
    whole = len(packed) // bits
    in_bytes = codes.view(torch.uint8).view(count, 8)
    in_bytes[:whole, :bits].copy_(packed[: whole * bits].view(whole, bits))
    if whole < count:
        in_bytes[whole, : len(packed) - whole * bits].copy_(packed[whole * bits :])
    for half in (4, 2, 1):  # eight codes in a row -> twice four, apart -> four times two -> eight single ones
        torch.bitwise_and(codes, _upper_halves(half, bits), out=upper)
        codes.add_(upper, alpha=2 ** (half * (8 - bits)) - 1)  # shifts them: the sum has no carries
    return codes.view(torch.uint8)


def _upper_halves(half: int, bits: int) -> int:
    """A mask of the upper `half` codes in every 2 * `half` bytes."""
    mask = (2 ** (half * bits) - 1) << (half * bits)
    return sum(mask << (16 * half * i) for i in range(4 // half))


def _grouped(units: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(units, (0, -len(units) % size)).view(-1, size)
