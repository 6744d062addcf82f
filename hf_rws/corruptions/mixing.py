"""One of several corruptions for each image."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor

from hf_rws.corruptions.batch import check_severity, corrupt
from hf_rws.corruptions.registry import find, spelled_out
from hf_rws.errors import OptionError

CorruptionLike: TypeAlias = str | Callable[[Tensor], Tensor]


def equal_shares(count: int, parts: int, generator: Generator) -> tuple[Tensor, ...]:
    """The numbers 0 to `count` - 1 drawn into groups as equal in size as can be, on the generator's device."""
    return torch.randperm(count, generator=generator, device=generator.device).tensor_split(parts)


def change_groups(images: Tensor, groups: Iterable[tuple[Tensor, Callable[[Tensor], Tensor]]]) -> Tensor:
    """A copy of images of shape (N, C, H, W) with each group of rows changed in its own way.

    Args:
        images: Any dtype, any device.
        groups: Row numbers, and what makes the new images from those rows. Rows in no group stay as they are.
    """
    result = images.clone()
    for rows, change in groups:
        if len(rows):
            result[rows] = change(images[rows])
    return result


class Mixture:
    """Gives each image one of several corruptions, in equal shares.

    Attributes:
        names: What they are called.
        severity: 1 to 5; None if a callable is among them.

    Args:
        corruption: A name of `CORRUPTIONS` or `BAR`, "all", "bar", a callable on uint8 batches (N, 3, H, W), or a list
            of names and callables.
        severity: Of the named ones, 1 to 5.

    Raises:
        OptionError: No corruption, one twice, an unknown name or severity.
    """

    def __init__(self, corruption: CorruptionLike | Sequence[CorruptionLike], severity: int = 5):
        corruption = spelled_out(corruption)
        if not isinstance(corruption, Iterable) and not callable(corruption):
            raise OptionError(
                f"corruption must be a name, a callable on images, or a list of these, got {corruption!r}"
            )
        parts = [corruption] if isinstance(corruption, str) or callable(corruption) else list(corruption)
        self.names = _names(parts)
        if not parts or len(set(self.names)) != len(self.names):
            raise OptionError(f"corruption must name at least one, each once, got {', '.join(self.names) or 'none'}")
        self._parts, self._severity = tuple(parts), check_severity(severity)
        self.severity = self._severity if all(isinstance(part, str) for part in parts) else None

    def __call__(self, images: Tensor, rows: Tensor, generator: Generator) -> Tensor:
        """Corrupt uint8 images of shape (N, 3, H, W); draws come from `generator`, which is on their device."""
        if len(self._parts) == 1:
            return self._one(0, images, generator)
        shares = equal_shares(len(images), len(self._parts), generator)
        changes = (partial(self._one, number, generator=generator) for number in range(len(self._parts)))
        return change_groups(images, zip(shares, changes, strict=True))

    def _one(self, number: int, images: Tensor, generator: Generator) -> Tensor:
        part = self._parts[number]
        if isinstance(part, str):
            return corrupt(images, part, self._severity, generator=generator)
        given = images.clone()  # a callable may write into what it is given
        found: Any = part(given)
        if not isinstance(found, Tensor) or found.dtype != torch.uint8 or found.shape != images.shape:
            got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise OptionError(
                f"the corruption {self.names[number]} must give back uint8 images of the shape {tuple(images.shape)} "
                f"that it was given, it gave {got}"
            )
        return found.to(images.device)


def _names(parts: Sequence[CorruptionLike]) -> tuple[str, ...]:
    """What they are called; those that have no name of their own are numbered: custom, custom2, ..."""
    names: list[str] = []
    counts: dict[str, int] = {}
    for number, part in enumerate(parts):
        if isinstance(part, str):
            names.append(find(part).name)
            continue
        if not callable(part):
            raise OptionError(f"a corruption is a name or a callable on images, not {part!r}")
        name = getattr(part, "name", None) or getattr(part, "__name__", None)
        if name and name != "<lambda>":
            names.append(str(name))
            continue
        first = next((i for i in range(number) if parts[i] is part), None)
        if first is not None:  # the same one again
            names.append(names[first])
            continue
        kind = "custom" if name else type(part).__name__
        counts[kind] = counts.get(kind, 0) + 1
        names.append(kind if counts[kind] == 1 else f"{kind}{counts[kind]}")
    return tuple(names)
