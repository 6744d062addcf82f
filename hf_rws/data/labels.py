"""The labels of a split: class numbers, and what the classes are called."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_rws.data.decoding import existing_column
from hf_rws.data.sets import numbered_classes
from hf_rws.errors import FormatError, OptionError

if TYPE_CHECKING:
    import datasets

_UNLABELLED = -1


@dataclass(frozen=True)
class Labels:
    """Labels of the rows of a split.

    Attributes:
        values: Class numbers, int64 of shape (N,); -1 where there is none.
        classes: Class names by number.
        named: Whether they have names; else `classes` holds their numbers as text.
    """

    values: Tensor
    classes: tuple[str, ...]
    named: bool

    @property
    def missing(self) -> int:
        """How many rows have no label."""
        return int((self.values < 0).sum())


def label_column(split: "datasets.Dataset", named: str | None, dataset: str) -> str:
    """The label column: the one named, that of the most classes, or one called "label"; OptionError if there is none.

    Raises:
        NotFoundError: There is no column of that name.
        OptionError: None is named, and none is found.
    """
    import datasets

    if named is not None:
        return existing_column(split, named, dataset)
    labels = {name: f.num_classes for name, f in split.features.items() if isinstance(f, datasets.ClassLabel)}
    if labels:
        return max(labels, key=labels.__getitem__)
    if "label" in split.features:
        return "label"
    raise OptionError(
        f"dataset {dataset!r} has no class label among {', '.join(split.features)}; name one by label_column"
    )


def read_labels(split: "datasets.Dataset", column: str, where: str) -> Labels:
    """The labels in a column of class numbers, text or truth values; FormatError if it holds others."""
    import datasets

    feature = split.features[column]
    kind = getattr(feature, "dtype", "")
    values = split.with_format(None).select_columns([column])[column][:] if isinstance(kind, str) else []
    if isinstance(feature, datasets.ClassLabel):
        return Labels(_numbers(values), tuple(feature.names), True)
    if "int" in kind:
        classes = numbered_classes(max((value for value in values if value is not None), default=-1) + 1, where)
        return Labels(_numbers(values), classes, False)
    if kind in ("string", "large_string", "bool"):
        texts = ["" if value is None else str(value) for value in values]
        classes = tuple(sorted(set(texts) - {""}))
        number = {name: label for label, name in enumerate(classes)}
        return Labels(torch.tensor([number.get(text, _UNLABELLED) for text in texts]), classes, True)
    raise FormatError(
        f"{where} does not hold class numbers, or names of classes, but {feature}; name another label_column"
    )


def _numbers(values: Sequence[int | None]) -> Tensor:
    numbers = [_UNLABELLED if value is None or value < 0 else value for value in values]
    return torch.tensor(numbers, dtype=torch.int64)


def in_common(one: Labels, other: Labels) -> tuple[Labels, Labels]:
    """Both, numbered alike: a split may lack classes, and order them in its own way.

    Where both have names, those of `one` come first; numbers stay as they are.
    """
    if one.classes == other.classes:
        return one, other
    if not (one.named and other.named):
        classes = max(one.classes, other.classes, key=len)
        return replace(one, classes=classes), replace(other, classes=classes)
    classes = (*one.classes, *(name for name in other.classes if name not in one.classes))
    number = {name: label for label, name in enumerate(classes)}
    renumbered = torch.tensor([*(number[name] for name in other.classes), _UNLABELLED])  # the last stands for -1
    return replace(one, classes=classes), Labels(renumbered[other.values], classes, True)
