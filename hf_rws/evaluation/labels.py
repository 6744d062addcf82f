"""Which of a model's answers are right for a dataset's classes: matched by name, whatever the order or the subset."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, TypeAlias

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from hf_rws.data.sets import ImageSet
from hf_rws.errors import OptionError, warn
from hf_rws.layers import unwrap

ClassMap: TypeAlias = Mapping[str | int, str | int | Sequence[str | int]]

_SYNSET = re.compile(r"n\d{8}")
_EXACT = 3  # levels on which a name is looked for as it is written, before capital letters do not count
_MOST_NAMED = 5  # in a message


@dataclass(frozen=True)
class Answers:
    """The answers of a model that are right for each class of some images.

    Attributes:
        right: For each class of the images the numbers of the model's classes; None where the two are the same.
        note: What a table says of it; empty where there is nothing to say.
    """

    right: tuple[tuple[int, ...], ...] | None = None
    note: str = ""

    def correct(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Which predictions are right: bool of shape (N,), of numbers of the model's and of the images' classes."""
        predicted, labels = predicted.to(torch.int64), labels.to(torch.int64)
        if self.right is None:
            return predicted == labels
        pairs = torch.tensor([(label, answer) for label, answers in enumerate(self.right) for answer in answers])
        count = 1 + int(torch.cat([pairs[:, 1], predicted]).max())
        among = torch.isin(labels * count + predicted, pairs[:, 0] * count + pairs[:, 1])
        return torch.where(labels < len(self.right), among, predicted == labels)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """What an adversary makes large: -log of the probability that the answer is right, summed over images.

        Args:
            scores: Of the model's classes, of shape (N, classes), with gradients.
            labels: Of the images, of shape (N,), on the same device.
        """
        if self.right is None:
            pairs = labels.unsqueeze(1) == torch.arange(scores.shape[1], device=labels.device)
        else:
            known = torch.zeros(1 + len(self.right), scores.shape[1], dtype=torch.bool)
            for label, answers in enumerate(self.right):
                known[label, list(answers)] = True
            pairs = known.to(labels.device)[labels.clamp(max=len(self.right))]
        pairs = pairs | ~pairs.any(1, keepdim=True)  # where no answer is right there is nothing to lose, and no NaN
        return (scores.logsumexp(1) - scores.masked_fill(~pairs, -torch.inf).logsumexp(1)).sum()


def match_classes(
    model: nn.Module, classes: Sequence[str], *, class_map: ClassMap | None = None, name: str = ""
) -> Answers:
    """Match the classes of a dataset with those of a model, by name where both have names.

    A model's names are `label_names` (and `label_descriptions`) of its `pretrained_cfg`; without them those of ImageNet
    where it has as many classes as that, or as one of its subsets. Small and capital letters, spaces, `_` and `-` are
    the same; a synset id stands for its words, and one word of several for all of them.

    Where one side has no names, numbers are taken: the model's where they are what the classes are called, else the
    order. Classes that are called by numbers, from 0 on, have no names.

    Args:
        model: A timm model.
        classes: Names by label; empty where labels are the model's own numbers.
        class_map: For some or all classes, by name or number, the model's class: its name, its number, or several.
        name: What to call the dataset.

    Returns:
        What is right for each class. The model may answer with any of its classes, also with those that the dataset
        does not have.

    Raises:
        OptionError: A class is none of the model's; two are called like one of the model's; there are more classes than
            it knows, without names; `class_map` names a class that is not there.

    Example:
        >>> model = timm.create_model("resnet18")
        >>> match_classes(model, ["goldfish", "tench"]).right
        ((1,), (0,))
    """
    where, known = name or "the dataset", _Known.of(unwrap(model))
    given = _given(class_map, classes, known, where)
    if not classes:
        if not given:
            return Answers()
        classes = [str(number) for number in range(known.count or 1 + max(given))]
    found = given | known.match(classes, [label for label in range(len(classes)) if label not in given], where)
    listed = tuple(found[label] for label in range(len(classes)))
    right = None if listed == tuple((label,) for label in range(len(classes))) else listed
    if right is None and (known.count or 0) in (0, len(classes)):
        return Answers()
    how = "by class_map" if given else "by name" if _named(classes) and _named(known.names) else "by number"
    taken = len({answer for answers in found.values() for answer in answers})
    of_all = f": {taken:,} of the model's {known.count:,} classes; it chooses among all of them" if known.count else ""
    return Answers(right, f"classes matched {how}{of_all}")


def check_classes(model: nn.Module, images: ImageSet) -> None:
    """OptionError unless a model can be trained on images: it knows, if it says so, as many classes as they have."""
    _check_count(len(images.classes), getattr(model, "num_classes", None), images.name or "the dataset")
    check_labels(model, images)


def check_labels(model: nn.Module, images: ImageSet) -> None:
    """OptionError if labels are none of the images' classes or, where those have no names, of the model's."""
    known: int | None = len(images.classes) or getattr(model, "num_classes", None)
    if len(images):
        first, last = int(images.labels.min()), int(images.labels.max())
        if first < 0 or (known and last >= known):
            who = f"{images.name or 'the dataset'} has" if images.classes else "the model knows"
            most = f"to {known - 1}, as {who} {known} classes" if known else "or more"
            raise OptionError(f"labels must be 0 {most}; there are labels from {first} to {last}")


def _check_count(count: int, known: int | None, where: str) -> None:
    """OptionError if there are more classes than a model knows, where that is known."""
    if known and known < count:
        raise OptionError(
            f"{where} has {count} classes, the model knows {known}: choose those that it knows by classes=..."
        )


# --- what a model calls its classes ---


@dataclass(frozen=True)
class _Known:
    """The classes of a model.

    Attributes:
        count: How many; None where the model does not say.
        names: By number; empty where there are none.
        descriptions: By name.
        guessed: The names are ImageNet's because the number of classes is.
    """

    count: int | None
    names: tuple[str, ...] = ()
    descriptions: Mapping[str, str] | None = None
    guessed: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> "_Known":
        config: Any = getattr(model, "pretrained_cfg", None) or {}
        count: Any = getattr(model, "num_classes", None) or None
        names = config.get("label_names")
        if isinstance(names, Mapping):  # {"0": "tench", ...}: timm's form for numbers with gaps
            by_number = {str(number): str(name) for number, name in names.items()}
            names = [by_number.get(str(number), "") for number in range(count or len(by_number))]
        if isinstance(names, list | tuple) and names and count in (None, len(names)):
            descriptions = config.get("label_descriptions")
            return cls(len(names), tuple(map(str, names)), descriptions if isinstance(descriptions, Mapping) else None)
        subset = infer_imagenet_subset({"num_classes": count})
        if subset is None:
            return cls(count)
        return cls(count, tuple(_imagenet(subset).label_names()), guessed=True)

    def match(self, classes: Sequence[str], wanted: Sequence[int], where: str) -> dict[int, tuple[int, ...]]:
        """The model's numbers of the wanted ones of `classes`."""
        if not wanted:
            return {}
        if not (_named(self.names) and _named(classes)):
            return {label: (number,) for label, number in self._by_number(classes, wanted, where).items()}
        found = {label: self._candidates(classes[label]) for label in wanted}
        if len(classes) == self.count:  # of several that are called so, the one in the same place
            found = {
                label: [label] if label in self._candidates(classes[label], all_levels=True) else numbers
                for label, numbers in found.items()
            }
        unclear = [label for label in wanted if len(found[label]) != 1]
        in_place = all(numbers in ([label], []) for label, numbers in found.items())
        if unclear and len(classes) == self.count and in_place:
            if len(unclear) < len(wanted) or not self.guessed:
                pairs = [f"{classes[label]!r} is taken for the model's {self.names[label]!r}" for label in unclear]
                warn(
                    f"{where}: class names do not agree with the model's, so the order counts: "
                    f"{_some(pairs)}; class_map says what is meant"
                )
            return {label: (label,) for label in wanted}
        if unclear:
            raise OptionError(self._unclear(where, [classes[label] for label in unclear], len(classes)))
        first: dict[int, int] = {}  # which class of the images is called like one of the model's
        for label, (number, *_) in found.items():
            if (other := first.setdefault(number, label)) != label:
                raise OptionError(
                    f"{where}: its classes {classes[other]!r} and {classes[label]!r} are both called like the model's "
                    f"{self.names[number]!r}; class_map says what is meant"
                )
        return {label: (numbers[0],) for label, numbers in found.items()}

    def number_of(self, name: str | int) -> tuple[int, ...]:
        """The numbers of the classes that are meant by a name or a number; empty if there are none."""
        if isinstance(name, str) and _named(self.names) and (found := self._candidates(name)):
            return tuple(found)
        number = int(name) if str(name).isdecimal() else -1
        return (number,) if number >= 0 and (self.count is None or number < self.count) else ()

    def _by_number(self, classes: Sequence[str], wanted: Sequence[int], where: str) -> dict[int, int]:
        _check_count(len(classes), self.count, where)
        numbers = {label: int(classes[label]) for label in wanted} if not _named(classes) else {}
        own = [int(name) for name in self.names] if self.names and not _named(self.names) else None
        if numbers and own is not None and set(numbers.values()) <= set(own):
            return {label: own.index(number) for label, number in numbers.items()}
        in_order = {label: label for label in wanted}
        if self.count in (None, len(classes)):
            if numbers and numbers != in_order and self.count and max(numbers.values()) < self.count:
                label = next(label for label in wanted if numbers[label] != label)
                warn(
                    f"{where}: its classes are called by numbers, but not in their order: {classes[label]!r} is taken "
                    f"for the model's class {label}; class_map says what is meant"
                )
            return in_order
        if numbers and max(numbers.values()) < (self.count or 0):
            return numbers
        nameless = "the model's" if _named(classes) else "its"
        warn(
            f"{where} has {len(classes)} classes, the model {self.count:,}, and {nameless} have no names, so they are "
            "taken by their order; class_map says what is meant"
        )
        return in_order

    def _candidates(self, name: str, *, all_levels: bool = False) -> list[int]:
        """The model's classes that are called so: at the first level at which there are any, or at all levels."""
        found: set[int] = set()
        exact, small = self._levels()[:_EXACT], self._levels()[_EXACT:]
        forms = _forms(name)
        for level, form in [*product(exact, forms), *product(small, ([key.casefold() for key in f] for f in forms))]:
            found |= {number for key in form for number in level.get(key, ())}
            if found and not all_levels:
                break
        return sorted(found)

    def _levels(self) -> list[dict[str, list[int]]]:
        return _levels(self.names, tuple((self.descriptions or {}).items()))

    def _unclear(self, where: str, names: Sequence[str], count: int) -> str:
        several = [name for name in names if len(self._candidates(name)) > 1]
        if several:
            numbers = self._candidates(several[0])
            listed = ", ".join(f"{self.names[number]} ({number})" for number in numbers[:_MOST_NAMED])
            return f"{where}: {several[0]!r} may be several of the model's classes: {listed}; name one by class_map"
        own = "ImageNet's, as it has as many" if self.guessed else _some([repr(name) for name in self.names])
        return (
            f"{where}: {len(names)} of its {count} classes are none of the model's {self.count:,}: "
            f"{_some([repr(name) for name in names])}; the model's are {own}. Leave them out by classes=..., or say "
            "which of the model's they are by class_map"
        )


def _named(classes: Sequence[str]) -> bool:
    """Whether classes are called by more than numbers."""
    return not all(name.isdecimal() for name in classes)


def _given(class_map: ClassMap | None, classes: Sequence[str], known: _Known, where: str) -> dict[int, tuple[int, ...]]:
    """What `class_map` says, by label."""
    if class_map is None:
        return {}
    if not isinstance(class_map, Mapping) or not class_map:
        raise OptionError(f"class_map must map names of classes to the model's, got {class_map!r:.80}")
    label_of = {name: label for label, name in enumerate(classes)}
    found = {}
    for name, answers in class_map.items():
        label = label_of.get(str(name))
        if label is None and str(name).isdecimal() and int(name) < (len(classes) or 1 << 31):
            label = int(name)
        if label is None:
            raise OptionError(f"class_map names {name!r}, which {where} does not have; it has: {_some(classes)}")
        several = [answers] if isinstance(answers, str | int) else answers
        if not isinstance(several, list | tuple) or not all(isinstance(answer, str | int) for answer in several):
            raise OptionError(f"class_map must give names or numbers of the model's classes for {name!r}")
        if not several:
            raise OptionError(f"class_map names no class of the model's for {name!r}")
        numbers = [known.number_of(answer) for answer in several]
        if missing := [answer for answer, some in zip(several, numbers, strict=True) if len(some) != 1]:
            how = "several" if known.number_of(missing[0]) else "none"
            raise OptionError(f"class_map: {missing[0]!r}, for {name!r}, may be {how} of the model's classes")
        found[label] = tuple(sorted(number for some in numbers for number in some))
    return found


# --- names ---


@lru_cache(maxsize=1)
def _imagenet(subset: str) -> ImageNetInfo:
    return ImageNetInfo(subset)


def _key(name: str) -> str:
    """A name whichever way its words are joined."""
    return re.sub(r"[\s_-]+", " ", name).strip()


def _words(description: str) -> list[str]:
    return [key for part in description.split(",") if (key := _key(part))]


def _description(synset: str) -> str:
    """ImageNet's words for a synset, of whatever subset; the name itself if it is none."""
    if not _SYNSET.fullmatch(synset):
        return synset
    try:
        return str(_imagenet("imagenet-1k").label_name_to_description(synset))
    except KeyError:
        return synset


def _forms(name: str) -> list[list[str]]:
    """What a class of this name may be called, the name itself first."""
    described = _description(name)
    return [[_key(name)], [_key(described)], _words(described)]


@lru_cache(maxsize=4)
def _levels(names: tuple[str, ...], descriptions: tuple[tuple[str, str], ...]) -> list[dict[str, list[int]]]:
    """The numbers of classes by what they are called.

    By their names, their whole descriptions, and each word of these, as they are written ("Cardigan" is a dog,
    "cardigan" is none); then in small letters, where a description and a word count the same.
    """
    described = dict(descriptions)
    levels: list[dict[str, list[int]]] = [{}, {}, {}, {}, {}]
    for number, name in enumerate(names):
        description = str(described.get(name) or _description(name))
        exact = [[_key(name)], [_key(description)], _words(description)]
        small = [[key.casefold() for key in keys] for keys in (exact[0], exact[1] + exact[2])]
        for level, keys in zip(levels, exact + small, strict=True):
            for key in dict.fromkeys(keys):
                if key:
                    level.setdefault(key, []).append(number)
    return levels


def _some(names: Sequence[str]) -> str:
    more = f" ... ({len(names):,})" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
