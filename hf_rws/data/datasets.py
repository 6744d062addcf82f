"""Image-classification datasets as uint8 tensors: decoded once, memory-mapped, split reproducibly."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_rws._ambient import unaffected
from hf_rws._progress import bars_as_ours
from hf_rws.data.decoding import decoded_pixels, existing_column, find_image_column
from hf_rws.data.preprocessing import Preprocessing, resolve
from hf_rws.data.sets import ImageSet, Splits, keep_classes, numbered_classes, parse_classes
from hf_rws.errors import FormatError, NotFoundError, OptionError

if TYPE_CHECKING:
    import datasets

TRAIN_NAMES = ("train",)
TEST_NAMES = ("test", "validation", "valid", "val")  # in this order: some datasets publish no labelled test split


@unaffected
def load_splits(
    dataset: str,
    *,
    classes: str | Sequence[int] | None = None,
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
) -> Splits:
    """Load a dataset and draw a validation split from its training set.

    Args:
        dataset: Hub id ("uoft-cs/cifar10") or a folder of parquet files or of images sorted by class.
        classes: Classes to keep, as "0-49,60" or a sequence of numbers; labels are renumbered from 0.
        validation: Share of the training set that becomes the validation split, in (0, 1).
        split_seed: Seed of that draw; the same seed gives the same split everywhere.
        config: Name of the configuration, of a dataset that has several.
        revision: Revision of a Hub dataset.
        image_size: Resize the shorter side to this (bicubic) and crop the centre; needed where images differ in size.
        preprocessing: How to bring images to one size instead, e.g. as the model wants: `Preprocessing.of(model)`.
        image_column: Name of the image column where the features leave a choice.
        label_column: Name of the label column; by default the class label with the most classes.
        test_split: Name of the test split; by default the first of `TEST_NAMES` that there is.
        cache_dir: Where decoded images are kept; by default beside the other caches of `datasets`.
        limit: Keep only so many training images, drawn at random after the split (for trials).

    Returns:
        Train, validation and test images as uint8 tensors; they are decoded once, into files that are memory-mapped.

    Raises:
        NotFoundError: There is no such dataset, split or column.
        OptionError: An option makes no sense for this dataset.
        FormatError: An image or a label cannot be used.
    """
    if not 0 < validation < 1:
        raise OptionError(f"validation must be a share between 0 and 1, got {validation!r}")
    if limit is not None and limit < 1:
        raise OptionError(f"limit must be at least 1, got {limit!r}")
    options: dict[str, Any] = {
        "preprocessing": resolve(preprocessing, image_size),
        "image_column": image_column,
        "label_column": label_column,
        "cache_dir": cache_dir,
    }
    loaded = open_dataset(dataset, config=config, revision=revision)
    train_split = _pick(loaded, TRAIN_NAMES, dataset, "training")
    chosen_test = _pick(loaded, (test_split,) if test_split else TEST_NAMES, dataset, "test")
    train, test = (_decoded(loaded[split], split, dataset, **options) for split in (train_split, chosen_test))
    if len(train.classes) != len(test.classes):  # classes without names are counted, and a split may miss the last
        names = max(train.classes, test.classes, key=len)
        train, test = replace(train, classes=names), replace(test, classes=names)
    if classes is not None:
        kept = parse_classes(classes, len(train.classes))
        train, test = keep_classes(train, kept), keep_classes(test, kept)
    if not len(test):
        raise OptionError(f"{dataset}: no test images are left of the classes {classes}")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(split_seed))
    held_out = max(1, round(len(train) * validation))
    if held_out >= len(train):
        raise OptionError(f"{dataset} has {len(train)} training images: too few for a validation split")
    train_indices, validation_indices = order[held_out:][:limit].sort().values, order[:held_out].sort().values
    return Splits(train.subset(train_indices), train.subset(validation_indices), test)


@unaffected
def load_split(
    dataset: str,
    split: str = "test",
    *,
    classes: str | Sequence[int] | None = None,
    config: str | None = None,
    revision: str | None = None,
    image_size: int | None = None,
    preprocessing: Preprocessing | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    cache_dir: str | Path | None = None,
) -> ImageSet:
    """Load one split of a dataset; "test" stands for the first of `TEST_NAMES` that there is.

    The options, and the errors raised, are those of `load_splits`.
    """
    loaded = open_dataset(dataset, config=config, revision=revision)
    chosen = _pick(loaded, TEST_NAMES if split == "test" else (split,), dataset, split)
    images = _decoded(
        loaded[chosen],
        chosen,
        dataset,
        preprocessing=resolve(preprocessing, image_size),
        image_column=image_column,
        label_column=label_column,
        cache_dir=cache_dir,
    )
    return images if classes is None else keep_classes(images, parse_classes(classes, len(images.classes)))


@bars_as_ours("datasets")
def open_dataset(dataset: str, *, config: str | None = None, revision: str | None = None) -> "datasets.DatasetDict":
    """All splits of a Hub dataset or a folder, as `datasets` reads them.

    Args:
        dataset: Hub id or folder.
        config: Name of the configuration, of a dataset that has several.
        revision: Revision of a Hub dataset.

    Raises:
        NotFoundError: There is no such dataset.
        OptionError: It has several configurations and none is named, or no such one.
        FormatError: It cannot be read.
    """
    import datasets  # slow to import; only needed when a dataset is read

    local = Path(dataset).is_dir()
    if not local and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset):
        raise NotFoundError(f"dataset {dataset!r}: there is no such folder, and it is no Hub id (user/name)")
    try:
        loaded = datasets.load_dataset(str(dataset), config, revision=None if local else revision)
    except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        where = "the folder" if local else "the Hub (or the cache, when offline)"
        raise NotFoundError(f"dataset {dataset!r} could not be loaded from {where}: {error}") from error
    except (ValueError, RuntimeError, datasets.exceptions.DatasetGenerationError) as error:
        if str(error).startswith(("Config name is missing", "BuilderConfig")):
            what = " ".join(str(error).splitlines()[:2])
            raise OptionError(f"dataset {dataset!r}: choose a configuration by config: {what}") from error
        raise FormatError(f"dataset {dataset!r} could not be read: {error}") from error
    return loaded


def _pick(loaded: "datasets.DatasetDict", names: Sequence[str], dataset: str, role: str) -> str:
    for name in names:
        if name in loaded:
            return name
    raise NotFoundError(f"dataset {dataset!r} has no {role} split; it has: {', '.join(loaded)}")


def _decoded(
    split: "datasets.Dataset",
    split_name: str,
    dataset: str,
    *,
    preprocessing: Preprocessing | None,
    image_column: str | None,
    label_column: str | None,
    cache_dir: str | Path | None,
) -> ImageSet:
    image_column = find_image_column(split, image_column, dataset)
    label_column = label_column or _label_column(split, dataset)
    labels, classes, named = _labels(split, label_column, split_name, dataset)  # first: decoding may take minutes
    pixels = decoded_pixels(
        split, split_name, dataset, preprocessing=preprocessing, image_column=image_column, cache_dir=cache_dir
    )
    return ImageSet(pixels, labels, classes, dataset_name(dataset), named)


def dataset_name(dataset: str) -> str:
    """What a dataset is called in tables and cards: its id, or the name of its folder, never a path."""
    return Path(dataset).resolve().name if Path(dataset).is_dir() else dataset


def _label_column(split: "datasets.Dataset", dataset: str) -> str:
    import datasets

    labels = {name: f.num_classes for name, f in split.features.items() if isinstance(f, datasets.ClassLabel)}
    if labels:
        return max(labels, key=labels.__getitem__)
    if "label" in split.features:
        return "label"
    raise OptionError(
        f"dataset {dataset!r} has no class label among {', '.join(split.features)}; name one by label_column"
    )


def _labels(
    split: "datasets.Dataset", column: str, split_name: str, dataset: str
) -> tuple[Tensor, tuple[str, ...], bool]:
    """The labels, int64 of shape (N,), the names of the classes, and whether they have any; FormatError if the column holds no labels."""
    existing_column(split, column, dataset)
    where = f"dataset {dataset!r}: column {column!r} of split {split_name!r}"
    if "int" not in getattr(split.features[column], "dtype", ""):
        raise FormatError(
            f"{where} does not hold class numbers but {split.features[column]}; name another label_column"
        )
    values = split.with_format(None)[column][:]
    if any(value is None or value < 0 for value in values):
        raise FormatError(f"{where} leaves images without a label; choose another split by test_split")
    feature = split.features[column]
    named = hasattr(feature, "names")
    classes = tuple(feature.names) if named else numbered_classes(max(values, default=-1) + 1, where)
    return torch.tensor(values, dtype=torch.int64), classes, named
