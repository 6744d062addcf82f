"""Labelled images of one size as tensors, and choosing classes of them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import torch
from torch import Tensor

from hf_rws._ambient import unaffected
from hf_rws.errors import FormatError, OptionError

_MOST_CLASSES = 1_000_000  # without names; ImageNet-21k has 21,843


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one size.

    Attributes:
        images: uint8 tensor of shape (N, 3, H, W), on any device; may be memory-mapped.
        labels: int64 tensor of shape (N,), values 0 .. len(classes) - 1, on the CPU.
        classes: Class names by label; numbers as text where they have no names.
        name: What the images are called in tables and cards, e.g. "uoft-cs/cifar10".
        drawn_from: How many there were, where a `limit` drew these from them at random.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = ""
    drawn_from: int | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise OptionError(
                f"images must be uint8 of shape (N, 3, H, W), got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise OptionError(f"{len(self.images)} images but labels of shape {tuple(self.labels.shape)}")
        kind = self.labels.dtype
        if (kind.is_floating_point or kind.is_complex or kind == torch.bool) and len(self.labels):
            raise OptionError(f"labels must be class numbers, integers, got {kind}")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor | slice) -> "ImageSet":
        """The images at `indices`, in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    @unaffected
    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over all pixels, on the [0, 1] scale."""
        total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for chunk in self.images.split(1000):
            values = chunk.to(torch.float32).div(255)
            total += values.mean((2, 3), dtype=torch.float64).sum(0).cpu()
            squares += values.square().mean((2, 3), dtype=torch.float64).sum(0).cpu()
        mean = total / len(self)
        std = (squares / len(self) - mean**2).clamp(min=0).sqrt()
        return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


@dataclass(frozen=True)
class Splits:
    """The three disjoint parts of a study; models are chosen on `validation`, and `test` is used once, at the end."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet


def parse_classes(classes: str | Sequence[int] | Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Turn "0-49,60", "cat,dog" or a sequence of numbers or names into class numbers.

    Args:
        classes: What is wanted. Names with commas in them are known, too. Where all names are numbers, as of folders
            that are called 1 to 102, a number is a name.
        names: The names of all classes by number.

    Raises:
        OptionError: There is no such class, one is named twice, or none.

    Example:
        >>> parse_classes("0-2,5", "abcdefghij")
        (0, 1, 2, 5)
        >>> parse_classes("dog, cat", ["bird", "cat", "dog"])
        (2, 1)
    """
    position = {name: number for number, name in reversed(list(enumerate(names)))}
    if all(name.isdecimal() for name in names) and len(position) == len(names):
        known = {int(name): number for name, number in position.items()}
    else:
        known = {number: number for number in range(len(names))}
    if isinstance(classes, str):
        wanted = list(_parts(classes, names, known))
    elif isinstance(classes, Iterable):
        wanted = list(classes)
    else:
        raise OptionError(f"classes must be text like '0-49,60' or a list of numbers or names, got {classes!r}")
    numbers: list[int] = []
    for part in wanted:
        if isinstance(part, str) and part in position:
            numbers.append(position[part])
        elif isinstance(part, str):
            raise OptionError(f"there is no class {part!r}; there are: {some_names(names)}")
        elif not isinstance(part, Integral):
            raise OptionError(f"classes must be text like '0-49,60' or a list of numbers or names, got {classes!r}")
        elif int(part) not in known:
            raise OptionError(f"classes {classes!r} go beyond the {len(names)} classes ({_span(known)}) of the dataset")
        else:
            numbers.append(known[int(part)])
    if not numbers or len(set(numbers)) != len(numbers):
        raise OptionError(f"classes must name each class once and at least one, got {classes!r}")
    return tuple(numbers)


def _parts(text: str, names: Sequence[str], known: Mapping[int, int]) -> Iterator[int | str]:
    """The names and numbers in a list with commas."""
    there = set(names)
    for part in split_names(text, names):
        if part in there:
            yield part
            continue
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part)
        if match is None:
            raise OptionError(
                f"classes must look like '0-49,60' or 'cat,dog', got {text!r}: there is no class {part!r}; there are: "
                f"{some_names(names)}"
            )
        low, high = int(match[1]), int(match[2] or match[1])
        yield from range(low, high + 1) if high in known else [high]  # a range may be of any length


def split_names(text: str, names: Sequence[str]) -> list[str]:
    """What stands between commas; of `names` that hold commas, the longest that fits."""
    found = []
    parts = text.split(",")
    there, longest = set(names), 1 + max((name.count(",") for name in names), default=0)
    first = 0
    while first < len(parts):
        for last in range(min(first + longest, len(parts)), first, -1):
            name = ",".join(parts[first:last]).strip()
            if name in there:
                break
        else:
            last, name = first + 1, parts[first].strip()
        found.append(name)
        first = last
    return found


def some_names(names: Sequence[str], most: int = 10) -> str:
    """The first few names, and how many there are."""
    return ", ".join(names[:most]) + (f" ... ({len(names)})" if len(names) > most else "")


def _span(known: Mapping[int, int]) -> str:
    return f"{min(known)} to {max(known)}" if known else "none"


def numbered_classes(count: int, where: str) -> tuple[str, ...]:
    """Names of classes that have none but their numbers, 0 to `count` - 1.

    Raises:
        FormatError: There are more than a million: the numbers in the file, which `where` names, are no labels.
    """
    if count > _MOST_CLASSES:
        raise FormatError(
            f"{where} holds the number {count - 1}; more than {_MOST_CLASSES:,} classes are not read: are these labels?"
        )
    return tuple(map(str, range(count)))
