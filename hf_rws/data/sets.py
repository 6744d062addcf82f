"""Labelled images of one size as tensors, and choosing classes of them."""

import re
from collections.abc import Iterable, Sequence
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
        classes: Class names by label.
        name: What the images are called in tables and cards, e.g. "uoft-cs/cifar10".
        named: Whether the classes have names; else `classes` holds their numbers as text.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = ""
    named: bool = True

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

    @property
    def has_names(self) -> bool:
        """Whether `classes` says more than the labels do: names that are not just "0", "1", ... in this order."""
        return self.named and self.classes != tuple(map(str, range(len(self.classes))))

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


def parse_classes(classes: str | Sequence[int], count: int) -> tuple[int, ...]:
    """Turn "0-49,60" into class numbers below `count`; OptionError says what is wrong.

    Example:
        >>> parse_classes("0-2,5", 10)
        (0, 1, 2, 5)
    """
    if isinstance(classes, str):
        numbers: list[int] = []
        for part in classes.split(","):
            match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
            if match is None:
                raise OptionError(f"classes must look like '0-49,60', got {classes!r}")
            first, last = int(match[1]), int(match[2] or match[1])
            numbers.extend(range(first, last + 1) if last < count else [last])  # a range may be of any length
    elif isinstance(classes, Iterable) and all(isinstance(number, Integral) for number in classes):
        numbers = list(classes)
    else:
        raise OptionError(f"classes must be text like '0-49,60' or a list of numbers, got {classes!r}")
    if not numbers or len(set(numbers)) != len(numbers):
        raise OptionError(f"classes must name each class once and at least one, got {classes!r}")
    if max(numbers) >= count or min(numbers) < 0:
        raise OptionError(f"classes {classes!r} go beyond the {count} classes (0 to {count - 1}) of the dataset")
    return tuple(numbers)


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


def keep_classes(images: ImageSet, classes: Sequence[int]) -> ImageSet:
    """Only the images of `classes`, renumbered in that order."""
    renumbered = torch.full((len(images.classes),), -1)
    renumbered[list(classes)] = torch.arange(len(classes))
    labels = renumbered[images.labels]
    kept = labels >= 0
    names = tuple(images.classes[number] for number in classes)
    return replace(images, images=images.images[kept], labels=labels[kept], classes=names)
