"""Image-classification datasets as uint8 tensors: decoded once, memory-mapped, split reproducibly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_rws._ambient import unaffected
from hf_rws.data.decoding import decoded_pixels, find_image_column
from hf_rws.data.folders import ImageFolder, left_out, some_of
from hf_rws.data.labels import Labels, in_common, read_labels
from hf_rws.data.labels import label_column as find_label_column
from hf_rws.data.preprocessing import Preprocessing, resolve
from hf_rws.data.sets import ImageSet, Splits, parse_classes
from hf_rws.data.sources import check_disjoint, open_dataset, pick
from hf_rws.errors import FormatError, NotFoundError, OptionError, warn

if TYPE_CHECKING:
    import datasets

TRAIN_NAMES = ("train",)
TEST_NAMES = ("test", "validation", "valid", "val")  # in this order: some datasets publish no labelled test split


@unaffected
def load_splits(
    dataset: str | Path,
    *,
    classes: str | Sequence[int] | Sequence[str] | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    config: str | None = None,
    revision: str | None = None,
    image_size: int | None = None,
    preprocessing: Preprocessing | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    test_split: str | None = None,
    cache_dir: str | Path | None = None,
    limit: int | None = None,
    skip_broken: bool = False,
) -> Splits:
    """Load a dataset and draw a validation split from its training set. Its other splits are not fetched.

    Decoded images take 3 x H x W bytes each on the disk (150 kB at 224 px), and are kept. The same images drawn in
    another way (another `split_seed`, `validation`, `limit` or `classes`, or other preprocessing) are a file of their
    own: with ten values of `split_seed` a training set lies there ten times, and once more if it was ever read whole.
    No file is ever deleted by itself: all `*.npy` in `cache_dir`, with the `*.broken.json` beside them, may be whenever
    no program is using them; what is wanted again is decoded again.

    Args:
        dataset: Hub id ("uoft-cs/cifar10") or a folder of parquet files or of images sorted by class.
        classes: Classes to keep, as "0-49,60" or "cat,dog", or a sequence of numbers or names; labels are renumbered
            from 0 in this order.
        validation: Share of the training set that becomes the validation split, in (0, 1).
        split_seed: Seed of that draw; the same seed gives the same split everywhere.
        config: Name of the configuration, of a dataset that has several.
        revision: Revision of a Hub dataset.
        image_size: Resize the shorter side to this (bicubic) and crop the centre; needed where images differ in size.
        preprocessing: How to bring images to one size instead, e.g. as the model wants: `Preprocessing.of(model)`.
        image_column: Name of the image column where there are several.
        label_column: Name of the label column, of numbers or of text; by default the class label with the most classes.
        test_split: Name of the test split; by default the first of `TEST_NAMES` that there is. If it is the training
            split, as of datasets that have no other, as many images as for the validation split are drawn from it.
        cache_dir: Where decoded images are kept; by default `hf_rws` in the cache of `datasets` (HF_DATASETS_CACHE,
            else `~/.cache/huggingface/datasets`).
        limit: Keep only so many training images, drawn at random after the split (for trials); no others are decoded.
        skip_broken: Leave out images that cannot be decoded, with a warning that lists them, instead of failing.

    Returns:
        Train, validation and test images as uint8 tensors, of which no two share an image; they are decoded once, into
        files that are memory-mapped.

    Raises:
        NotFoundError: There is no such dataset, split or column.
        OptionError: An option makes no sense for this dataset.
        FormatError: An image or a label cannot be used; training and test split share a file.
    """
    if not 0 < validation < 1:
        raise OptionError(f"validation must be a share between 0 and 1, got {validation!r}")
    dataset = str(dataset)
    reading = _Reading(dataset, resolve(preprocessing, image_size), image_column, label_column, cache_dir, skip_broken)
    _check_limit(limit)
    splits = open_dataset(dataset, config=config, revision=revision)
    train_name = _choose(splits, TRAIN_NAMES, dataset, "training")
    test_name = _choose(splits, (test_split,) if test_split else TEST_NAMES, dataset, "test")
    train = reading.rows(splits, train_name)
    test = None
    if test_name != train_name:
        check_disjoint(splits, train_name, test_name, dataset)
        test = reading.rows(splits, test_name)
        labels = in_common(train.labels, test.labels)
        train, test = replace(train, labels=labels[0]), replace(test, labels=labels[1])
    if classes is not None:
        train, test = train.of(classes), test and test.of(classes)
    if test is not None and not len(test.numbers):
        raise OptionError(f"{dataset}: no test images are left of the classes {classes}")
    count = len(train.numbers)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(split_seed))
    held_out = max(1, round(count * validation))
    tested = held_out if test is None else 0
    if held_out + tested >= count:
        raise OptionError(f"{dataset} has {count} training images: too few for a validation split")
    parts = [order[held_out + tested :][:limit], order[:held_out], order[held_out : held_out + tested]]
    chosen = [part.sort().values for part in parts]
    found = reading.images(*(train.at(part) for part in chosen))
    return Splits(found[0], found[1], found[2] if test is None else reading.images(test)[0])


@unaffected
def load_split(
    dataset: str | Path,
    split: str = "test",
    *,
    classes: str | Sequence[int] | Sequence[str] | None = None,
    config: str | None = None,
    revision: str | None = None,
    image_size: int | None = None,
    preprocessing: Preprocessing | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    cache_dir: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    skip_broken: bool = False,
) -> ImageSet:
    """Load one split of a dataset; "test" stands for the first of `TEST_NAMES` that there is.

    The options, and the errors raised, are those of `load_splits`; but `split` is what errors call `test_split`, and
    `limit` takes so many images of the split, drawn at random by `seed`. They keep their order, and no others are
    decoded.
    """
    _check_limit(limit)
    dataset = str(dataset)
    reading = _Reading(dataset, resolve(preprocessing, image_size), image_column, label_column, cache_dir, skip_broken)
    splits = open_dataset(dataset, config=config, revision=revision)
    rows = reading.rows(splits, _choose(splits, TEST_NAMES if split == "test" else (split,), dataset, split))
    if classes is not None:
        rows = rows.of(classes)
        if not len(rows.numbers):
            raise OptionError(f"{dataset}: no images are left of the classes {classes}")
    if limit is None or limit >= len(rows.numbers):
        return reading.images(rows)[0]
    part = rows.at(drawn(len(rows.numbers), limit, seed))
    return replace(reading.images(part)[0], drawn_from=len(rows.numbers))


def drawn(count: int, limit: int, seed: int) -> Tensor:
    """`limit` of the numbers below `count`, drawn at random, ascending."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:limit].sort().values


def dataset_name(dataset: str) -> str:
    """What a dataset is called in tables and cards: its id, or the name of its folder, never a path."""
    return Path(dataset).resolve().name if Path(dataset).is_dir() else dataset


# --- rows, chosen by their labels before anything is decoded ---


@dataclass(frozen=True)
class _Rows:
    """Some rows of a split.

    Attributes:
        split: All rows.
        split_name: What they are called.
        numbers: Of the rows, ascending, int64 of shape (N,).
        labels: Of these rows.
    """

    split: "datasets.Dataset"
    split_name: str
    numbers: Tensor
    labels: Labels

    def at(self, positions: Tensor) -> "_Rows":
        labels = replace(self.labels, values=self.labels.values[positions])
        return replace(self, numbers=self.numbers[positions], labels=labels)

    def of(self, classes: str | Sequence[int] | Sequence[str]) -> "_Rows":
        """The rows of some classes, which are renumbered in that order."""
        kept = parse_classes(classes, self.labels.classes)
        renumbered = torch.full((len(self.labels.classes),), -1)
        renumbered[list(kept)] = torch.arange(len(kept))
        values = renumbered[self.labels.values]
        names = tuple(self.labels.classes[number] for number in kept)
        return replace(self, labels=replace(self.labels, values=values, classes=names)).at(
            (values >= 0).nonzero().flatten()
        )


@dataclass(frozen=True)
class _Reading:
    """How a dataset is read; see `load_splits`."""

    dataset: str
    preprocessing: Preprocessing | None
    image_column: str | None
    label_column: str | None
    cache_dir: str | Path | None
    skip_broken: bool

    def rows(self, splits: Mapping[str, "datasets.Dataset"], name: str) -> _Rows:
        """All rows with a label; FormatError if a dataset leaves some without one."""
        split, dataset = splits[name], self.dataset
        find_image_column(split, self.image_column, dataset)
        column = find_label_column(split, self.label_column, dataset)
        where = f"dataset {dataset!r}: column {column!r} of split {name!r}"
        labels = read_labels(split, column, where)
        rows = _Rows(split, name, torch.arange(len(split)), labels)
        if not labels.missing:
            return rows
        labelled = labels.values >= 0
        if not isinstance(splits, ImageFolder) or not labelled.any():
            raise FormatError(f"{where} leaves images without a label; choose another split by test_split")
        files = [splits.files(name)[number] for number in (~labelled).nonzero().flatten().tolist()]
        warn(f"{dataset}: {left_out(len(files), 'image', ' in no class folder')}: {some_of(files)}")
        return rows.at(labelled.nonzero().flatten())

    def images(self, *parts: _Rows) -> list[ImageSet]:
        """The images of several parts of a split, which share no row; those that are broken are missing.

        They are decoded into one file, part by part: the images of each lie together, and are a view of it.
        """
        first = parts[0]
        decoded = decoded_pixels(
            first.split,
            first.split_name,
            self.dataset,
            rows=torch.cat([part.numbers for part in parts]),
            preprocessing=self.preprocessing,
            image_column=self.image_column,
            skip_broken=self.skip_broken,
            cache_dir=self.cache_dir,
        )
        there = [torch.isin(part.numbers, decoded.rows) for part in parts]
        pixels = decoded.pixels.split([int(whole.sum()) for whole in there])
        return [
            ImageSet(images, part.labels.values[whole], part.labels.classes, dataset_name(self.dataset))
            for part, whole, images in zip(parts, there, pixels, strict=True)
        ]


def _choose(splits: Mapping[str, "datasets.Dataset"], names: Sequence[str], dataset: str, role: str) -> str:
    for name in names:
        if (found := pick(splits, name)) is not None:
            return found
    advice = "" if role == "training" else f"; choose one by test_split, e.g. {next(iter(splits))}"
    raise NotFoundError(f"dataset {dataset!r} has no {role} split; it has: {', '.join(splits)}{advice}")


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise OptionError(f"limit must be at least 1, got {limit!r}")
