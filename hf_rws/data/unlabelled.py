"""Images without labels, of any kind that users have them in, as one uint8 tensor."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hf_rws._ambient import unaffected
from hf_rws.corruptions.images import to_batch
from hf_rws.data.datasets import TRAIN_NAMES, open_dataset
from hf_rws.data.decoding import as_array, decoded_image, decoded_pixels, find_image_column, readable
from hf_rws.data.preprocessing import Preprocessing, resolve
from hf_rws.data.sets import ImageSet
from hf_rws.errors import OptionError


@unaffected
def as_images(
    images: Any,
    *,
    side: int | None = None,
    preprocessing: Preprocessing | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Read images; labels that come with them are not looked at.

    Args:
        images: An `ImageSet`; an array or tensor as `corrupt` takes it (uint8, or float in [0, 1]); the folder or Hub
            id of a dataset, whose training split is used if it has several, or a `datasets` dataset, also a streamed
            one; or an iterable, or anything with a length and items by number (a dataset of torch or torchvision), of
            batches of arrays or tensors, of PIL images, or of tuples that begin with one of these.
        side: Of the square images that are wanted. Images of folders and datasets, and PIL images, are resized (the
            shorter side to it) and cropped; others must have that size.
        preprocessing: How to bring them to the size that is wanted instead, e.g. `Preprocessing.of(model)`.
        limit: At most so many images, drawn at random.
        seed: Of that draw.

    Returns:
        uint8 tensor of shape (N, 3, H, W); may be memory-mapped, and strided.

    Raises:
        OptionError: Images of another kind or size; not one of `side` and `preprocessing` is given.
        NotFoundError: There is no such folder or dataset.
        FormatError: An image cannot be decoded.
    """
    wanted = resolve(preprocessing, side)
    if wanted is None:
        raise OptionError("say what size the images shall have: preprocessing or side")
    if isinstance(images, str | Path):
        splits = open_dataset(str(images))
        name = next((name for name in TRAIN_NAMES if name in splits), next(iter(splits)))
        split = splits[name]
        if limit is not None and limit < len(split):
            split = split.select(_drawn(len(split), limit, seed).tolist())  # before they are decoded
        found = decoded_pixels(split, name, str(images), preprocessing=wanted)
    else:
        found = _read(images, wanted)
        if limit is not None and limit < len(found):
            found = found[_drawn(len(found), limit, seed)]
    if found.shape[1:] != (3, *wanted.size):
        sizes = [" x ".join(map(str, shape)) for shape in ((3, *wanted.size), found.shape[1:])]
        raise OptionError(
            f"the base takes images of {sizes[0]}, these are {sizes[1]}: resize them, or give a folder or a dataset, "
            "whose images are resized"
        )
    return found


def _read(images: Any, wanted: Preprocessing) -> Tensor:
    if isinstance(images, ImageSet):
        return images.images
    if isinstance(images, Tensor | np.ndarray):
        return to_batch(images)[0]  # as it is: it may be a view of a file
    if hasattr(images, "features") and hasattr(images, "select_columns"):  # of the library datasets
        if hasattr(images, "__len__"):
            return decoded_pixels(images, str(images.split or ""), "the dataset", preprocessing=wanted)
        images = _streamed(images)
    elif hasattr(images, "__len__") and hasattr(images, "__getitem__") and not isinstance(images, Iterable | Mapping):
        images = map(images.__getitem__, range(len(images)))  # of torch or torchvision
    if isinstance(images, Iterable) and not isinstance(images, Mapping):
        parts = list(_read_parts(iter(images), wanted))
        if parts and len({part.shape[1:] for part in parts}) == 1:
            return torch.cat(parts)
        raise OptionError("images: there are none, or their sizes differ" if parts else "images: there are none")
    raise OptionError(
        f"images must be an array, a tensor, a dataset, a folder or an iterable of batches, not {type(images).__name__}"
    )


def _drawn(count: int, limit: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:limit].sort().values


def _streamed(images: Any) -> Iterator[Image.Image]:
    """The pictures of a `datasets.IterableDataset`."""
    import datasets

    if images.features is None:
        raise OptionError("images: the streamed dataset does not know its columns; cast_column says which are images")
    column = find_image_column(images, None, "the dataset")
    feature = images.features[column]
    rows = images.select_columns([column]).with_format(None).cast_column(column, datasets.Image(decode=False))
    return (decoded_image(row[column], feature, f"images: number {number}") for number, row in enumerate(rows))


def _read_parts(parts: Iterator[Any], wanted: Preprocessing) -> Iterator[Tensor]:
    for number in count():
        with readable(f"images: number {number}"):  # which may be decoded only now
            try:
                part = next(parts)
            except StopIteration:
                return
            batch = _read_part(part, wanted)
        yield batch


def _read_part(part: Any, wanted: Preprocessing) -> Tensor:
    """A batch, or one image."""
    if isinstance(part, tuple) or (isinstance(part, list) and part and not isinstance(part[0], Image.Image)):
        part = part[0] if part else part  # (images, labels)
    if isinstance(part, Image.Image):
        return torch.from_numpy(as_array(part, wanted).copy())[None]
    if isinstance(part, Tensor | np.ndarray):
        return to_batch(part)[0]
    raise OptionError(f"images: a batch must be an array, a tensor or a PIL image, not {type(part).__name__}")
