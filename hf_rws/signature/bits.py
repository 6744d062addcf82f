"""How many bits the weights of each layer get, and how many bytes they take then: counted, without any tensor."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from hf_rws.errors import OptionError

Bits: TypeAlias = int | Literal["ternary"]

# How users give bits: one width for all layers, a preset, None for float32, or one of these for each layer.
BitsLike: TypeAlias = Bits | str | Sequence[Bits | None] | None

CODECS = ("symmetric", "linear", "log")

# (relative depth, bits): layer i of n, at depth i / n, takes the last row that it has reached. Measured by
# scripts/bits_table.py: the first layers carry most of the effect and few of the bytes.
PRESETS: dict[str, tuple[tuple[float, Bits], ...]] = {
    "default": ((0, 4),),
    "small": ((0, 8), (2 / 7, 4), (4 / 7, 3), (5 / 7, "ternary")),
    "tiny": ((0, 8), (1 / 7, 4), (2 / 7, 3), (3 / 7, 2), (4 / 7, 1)),
}

CODES_IN_A_BYTE: dict[Bits, int] = {1: 8, 2: 4, 4: 2, 8: 1, "ternary": 5}
_FIELDS = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}


def resolve_bits(bits: BitsLike, num_layers: int) -> tuple[Bits | None, ...]:
    """One bit width per layer, in depth order.

    Args:
        bits: 1 to 8, "ternary", None (float32), the name of a preset, or a list or tuple of `num_layers` entries, each
            1 to 8, "ternary" or None.
        num_layers: how many layers the signature has.

    Raises:
        OptionError: `bits` is none of these, or a list of another length.

    Example:
        >>> resolve_bits("small", 7)
        (8, 8, 4, 4, 3, 'ternary', 'ternary')
    """
    if isinstance(bits, str) and bits in PRESETS:
        depths = (i / num_layers for i in range(num_layers))
        return tuple([width for start, width in PRESETS[bits] if start <= depth][-1] for depth in depths)
    if isinstance(bits, (list, tuple)):
        if len(bits) != num_layers:
            raise OptionError(f"bits={bits!r} has {len(bits)} entries for {num_layers} layers: give one per layer")
        return tuple(_checked_bits(entry, f"bits[{i}]={entry!r}") for i, entry in enumerate(bits))
    presets = ", ".join(f'"{name}"' for name in PRESETS)
    hint = f", a preset ({presets}) or a list with one entry per layer"
    return (_checked_bits(bits, f"bits={bits!r}", hint),) * num_layers


def packed_sizes(shape: Sequence[int], bits: Bits, *, codec: str = "symmetric") -> tuple[int, int]:
    """Lengths of what `encode` returns for a tensor of this shape: (bytes of codes, number of scales).

    Raises:
        OptionError: bits or codec are unknown or do not go together, or the shape has no dimensions or negative ones.
    """
    _check_setting(bits, codec)
    if len(shape) == 0 or min(shape) < 0:
        raise OptionError(f"shape={tuple(shape)} has no channels to quantize: use bits=None")
    count = math.prod(shape)
    return num_bytes(count, bits), shape[0] if codec == "symmetric" else 2


def _checked_bits(bits: object, given: str, hint: str = "") -> Bits | None:
    if bits is None or bits == "ternary" or (isinstance(bits, int) and not isinstance(bits, bool) and 1 <= bits <= 8):
        return bits
    raise OptionError(f'{given} is not a bit width: give 1 to 8, "ternary", None (float32){hint}')


def _check_setting(bits: object, codec: str) -> None:
    if codec not in CODECS:
        raise OptionError(f"codec={codec!r} is unknown: give one of {', '.join(CODECS)}")
    if _checked_bits(bits, f"bits={bits!r}") is None:
        raise OptionError('bits=None means float32, which has no codes: give 1 to 8 or "ternary"')
    if bits == "ternary" and codec != "symmetric":
        raise OptionError(f'bits="ternary" goes with codec="symmetric" only, not with {codec!r}: give 1 to 8')
    if bits == 1 and codec == "log":
        raise OptionError('bits=1 is too few for codec="log", which spends one on the sign: give 2 to 8')


def num_bytes(count: int, bits: Bits) -> int:
    """How many bytes `count` codes take."""
    return sum(-(-count // CODES_IN_A_BYTE[field]) for field in ((bits,) if bits == "ternary" else bit_fields(bits)))


def top_code(bits: Bits) -> int:
    """The largest code of the codec "symmetric": even where one stands for zero."""
    return {"ternary": 2, 8: 254}.get(bits) or 2 ** int(bits) - 1


def bit_fields(bits: int) -> tuple[int, ...]:
    """The bits of a code that are packed together, from the lowest."""
    return _FIELDS.get(bits, (bits,))
