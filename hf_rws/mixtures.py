"""What a signature is distilled against: a corruption, several, or anything else that changes images."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor

from hf_rws.corruptions import corrupt
from hf_rws.corruptions.batch import check_severity
from hf_rws.corruptions.registry import all_names, find
from hf_rws.errors import OptionError

CorruptionLike: TypeAlias = str | Callable[[Tensor], Tensor]


class Mixture:
    """Gives each image one of several corruptions, in equal shares.

    Attributes:
        names: What they are called.
        severity: 1 to 5; None if a callable is among them.

    Args:
        corruption: A name of `CORRUPTIONS`, "all", a callable on uint8 batches (N, 3, H, W), or a list of these.
        severity: Of the named ones, 1 to 5.

    Raises:
        OptionError: No corruption, one twice, an unknown name or severity.
    """

    def __init__(self, corruption: CorruptionLike | Sequence[CorruptionLike], severity: int = 5):
        if corruption == "all":
            corruption = all_names()
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
        result = torch.empty_like(images)
        order = torch.randperm(len(images), generator=generator, device=images.device)
        for number, chosen in enumerate(order.tensor_split(len(self._parts))):
            if len(chosen):
                result[chosen] = self._one(number, images[chosen], generator)
        return result

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


class Pairs:
    """Corrupted images that were taken together with the clean ones; it has the attributes of a `Mixture`.

    Args:
        corrupted: uint8 (N, 3, H, W), the i-th belongs to the i-th clean image.
        name: What to call the corruption.
    """

    def __init__(self, corrupted: Tensor, name: str):
        self.names: tuple[str, ...] = (name,)
        self.severity: int | None = None
        self._corrupted = corrupted

    def __len__(self) -> int:
        return len(self._corrupted)

    def __call__(self, images: Tensor, rows: Tensor, generator: Generator) -> Tensor:
        """The partners of the images of `rows`."""
        return self._corrupted[rows].to(images.device)


Shown: TypeAlias = Mixture | Pairs


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
