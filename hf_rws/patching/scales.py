"""Scales: in which ways they may be given, which they are where none are given, and whose they are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

from hf_rws.errors import OptionError
from hf_rws.signature.signature import Signature


@dataclass(frozen=True)
class Scale:
    """How strongly a signature is on.

    Attributes:
        value: A finite number; 0 is off.
        rule: Where nobody chose it: the rule that it is from. Else None.
    """

    value: float
    rule: str | None = None

    def __str__(self) -> str:
        return f"{self.value:.4g}" + (f" (default: {self.rule})" if self.rule else "")


ScalesLike: TypeAlias = float | Sequence[float | Scale] | Mapping[str, float]

OFF = Scale(0.0)
ADDED = Scale(1.0, "1")  # what one more signature has


def _default_scale(count: int) -> Scale:
    """What each of `count` signatures has that are put on together: 1 if it is one, 1/n of n.

    The sum of several extracted signatures falls below the clean model, their mean does not. Of two distilled ones
    1/sqrt(n) keeps a little more, of three and more it keeps less than 1/n (scripts/results).
    """
    return Scale(1 / count, "1/n" if count > 1 else "1")


def as_scales(given: ScalesLike | None, signatures: Mapping[str, Signature]) -> list[Scale]:
    """The scale of each of these signatures, in order.

    Args:
        given: One for all, one for each, or by name or id (what is not named has 0); None is `_default_scale`.
        signatures: Those that are put on, by name.

    Raises:
        OptionError: It is none of these, of the wrong length, not finite, or names something else.
    """
    count = len(signatures)
    if given is None:
        return [_default_scale(count) for _ in signatures]
    if isinstance(given, Mapping):
        return list(by_name(given, signatures).values())
    if isinstance(given, Sequence) and not isinstance(given, str):
        if len(given) == count:
            return [_checked(scale) for scale in given]
    elif isinstance(given, Real) and not isinstance(given, bool):
        return [_checked(given)] * count
    raise OptionError(
        f"scales must be a number for all, a list with one number per signature ({count}), or a mapping of names to "
        f"numbers, got {given!r:.200}"
    )


def by_name(scales: Mapping[str, float], signatures: Mapping[str, Signature]) -> dict[str, Scale]:
    """The scale of every signature, 0 where it is not named; OptionError for a name that none has, or one twice."""
    found = {}
    for key, value in scales.items():
        name = find(key, signatures)
        if name in found:
            raise OptionError(f"scales name {name!r} twice: by its name and by its id")
        found[name] = _checked(value)
    return {name: found.get(name, OFF) for name in signatures}


def find(key: str, signatures: Mapping[str, Signature]) -> str:
    """The name of the attached signature that is called `key`, or that was loaded from there: an id or a folder.

    Raises:
        OptionError: There is none, or there are several from there.
    """
    if key in signatures:
        return key
    found = [name for name, signature in signatures.items() if _is_from(signature, key)]
    if len(found) == 1:
        return found[0]
    if found:
        raise OptionError(f"{key!r} is attached as {', '.join(map(repr, found))}: say which of them, by its name")
    raise OptionError(
        f"no signature called {key!r} is attached; attached: {', '.join(map(repr, signatures)) or 'none'}"
    )


def _checked(scale: float | Scale) -> Scale:
    """A scale that somebody chose; OptionError if it is no finite number."""
    if isinstance(scale, Scale):
        return scale
    try:
        value = float(scale) if isinstance(scale, Real) and not isinstance(scale, bool) else math.nan
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise OptionError(f"a scale must be a finite number, got {scale!r}")
    return Scale(value)


def _is_from(signature: Signature, key: str) -> bool:
    origin = signature.origin
    if origin is None or not isinstance(key, str):
        return False
    return key.removeprefix("hf-hub:") in (origin.id, str(origin))
