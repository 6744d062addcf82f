"""Images without labels, of any kind that users have them in, as one uint8 tensor."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import GeneratorType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hf_rws._ambient import unaffected
from hf_rws.corruptions.images import to_batch
from hf_rws.data.datasets import TRAIN_NAMES, drawn
from hf_rws.data.decoding import decoded_pixels, find_image_column
from hf_rws.data.folders import files_dataset
from hf_rws.data.pictures import as_array, decoded_image, open_picture, readable
from hf_rws.data.pixel_files import spooled
from hf_rws.data.preprocessing import Preprocessing, resolve
from hf_rws.data.sets import ImageSet
from hf_rws.data.sources import open_dataset
from hf_rws.errors import FormatError, NotFoundError, OptionError, warn

if TYPE_CHECKING:
    import datasets


@unaffected
def as_images(
    images: Any,
    *,
    side: int | None = None,
    preprocessing: Preprocessing | None = None,
    limit: int | None = None,
    seed: int = 0,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    skip_broken: bool = False,
) -> Tensor:
    """Read images; labels that come with them are not looked at.

    Args:
        images: An `ImageSet`; an array or tensor as `corrupt` takes it (uint8, or float in [0, 1]); the folder or Hub
            id of a dataset, whose training split is used if it has several, or a `datasets` dataset, also a streamed
            one; the paths of image files; or an iterable, or anything with a length and items by number (a dataset of
            torch or torchvision), of batches of arrays or tensors, of PIL images, or of tuples that begin with one of
            these.
        side: Of the square images that are wanted. Images of files and datasets, and PIL images, are resized (the
            shorter side to it) and cropped; others must have that size.
        preprocessing: How to bring them to the size that is wanted instead, e.g. `Preprocessing.of(model)`.
        limit: At most so many images, drawn at random; no others are decoded, but of what has no length, which is read
            to its end.
        seed: Of that draw.
        config: Name of the configuration, of a dataset that has several.
        revision: Revision of a Hub dataset.
        image_column: Name of the image column where a dataset has several.
        skip_broken: Leave out images that cannot be decoded, with a warning that lists them, instead of failing.

    Returns:
        uint8 tensor of shape (N, 3, H, W), in the order of the source; arrays and tensors as they are, all else
        memory-mapped, but for up to 256 MB of an iterable.

    Raises:
        OptionError: Images of another kind or size; not one of `side` and `preprocessing` is given.
        NotFoundError: There is no such folder, file or dataset.
        FormatError: An image cannot be decoded.
        AccessError: The cache cannot be written, of images that are not kept in memory.
    """
    wanted = resolve(preprocessing, side)
    if wanted is None:
        raise OptionError("say what size the images shall have: preprocessing or side")

    def decoded(split: "datasets.Dataset", name: str, dataset: str) -> Tensor:
        rows = drawn(len(split), limit, seed) if limit is not None and limit < len(split) else None
        options: dict[str, Any] = {"image_column": image_column, "skip_broken": skip_broken}
        return decoded_pixels(split, name, dataset, rows=rows, preprocessing=wanted, **options).pixels

    if isinstance(images, str | Path):
        splits = open_dataset(str(images), config=config, revision=revision)
        name = next((name for name in TRAIN_NAMES if name in splits), next(iter(splits)))
        found = decoded(splits[name], name, str(images))
    elif (files := _paths(images)) is not None:
        found = decoded(files_dataset(files), "", "images")
    elif hasattr(images, "features") and hasattr(images, "select_columns") and hasattr(images, "__len__"):
        found = decoded(images, str(images.split or ""), "the dataset")
    elif (array := _array(images)) is not None:
        found = array if limit is None or limit >= len(array) else array[drawn(len(array), limit, seed)]
    else:
        parts = _parts(images, wanted, image_column, limit, seed, skip_broken=skip_broken)
        found = spooled(parts, "images", limit=limit, seed=seed)
    if found.shape[1:] != (3, *wanted.size):
        sizes = [" x ".join(map(str, shape)) for shape in ((3, *wanted.size), found.shape[1:])]
        raise OptionError(
            f"the base takes images of {sizes[0]}, these are {sizes[1]}: resize them, or give a folder or a dataset, "
            "whose images are resized"
        )
    return found


def _paths(images: Any) -> list[str] | None:
    """The paths in a list or tuple of them; NotFoundError if one is no file."""
    if not isinstance(images, list | tuple) or not images or not isinstance(images[0], str | Path):
        return None
    for path in images:
        if not isinstance(path, str | Path):
            raise OptionError(f"images: of a list of paths all must be paths, not {type(path).__name__}")
        if not os.path.isfile(path):
            raise NotFoundError(f"images: {str(path)!r} is no file")
    return [os.path.abspath(path) for path in images]


def _array(images: Any) -> Tensor | None:
    """Images that are a tensor already, as they are: they may be a view of a file."""
    if isinstance(images, ImageSet):
        return images.images
    return to_batch(images)[0] if isinstance(images, Tensor | np.ndarray) else None


def _parts(
    images: Any, wanted: Preprocessing, image_column: str | None, limit: int | None, seed: int, *, skip_broken: bool
) -> Iterator[Tensor]:
    """Images that come one after the other, or in batches; of what has a length, no more of these than the limit."""
    files: Sequence[Any] = ()
    numbers: Iterable[int] = count()
    if isinstance(images, Mapping):
        raise _unknown(images)
    if hasattr(images, "features") and hasattr(images, "select_columns"):  # of the library datasets, streamed
        parts: Iterator[Any] = _streamed(images, image_column)
    elif isinstance(images, Sequence) or _has_items(images):
        files = getattr(images, "samples", ())  # of torchvision's folders: pairs of a path and a label
        numbers = range(len(images)) if limit is None else drawn(len(images), limit, seed).tolist()
        parts = map(images.__getitem__, numbers)
    elif isinstance(images, Iterable):
        parts = iter(images)
    else:
        raise _unknown(images)
    return _read_parts(parts, numbers, wanted, files, skip_broken=skip_broken)


def _has_items(images: Any) -> bool:
    """Whether it is what torch and torchvision call a dataset."""
    return hasattr(images, "__len__") and hasattr(images, "__getitem__") and not isinstance(images, Iterable)


def _unknown(images: Any) -> OptionError:
    return OptionError(
        f"images must be an array, a tensor, a dataset, a folder or an iterable of batches, not {type(images).__name__}"
    )


def _streamed(images: Any, image_column: str | None) -> Iterator[Image.Image]:
    """The pictures of a `datasets.IterableDataset`."""
    import datasets

    if images.features is None:
        raise OptionError("images: the streamed dataset does not know its columns; cast_column says which are images")
    column = find_image_column(images, image_column, "the dataset")
    feature = images.features[column]
    rows = images.select_columns([column]).with_format(None).cast_column(column, datasets.Image(decode=False))

    def decoded(numbered: tuple[int, Any]) -> Image.Image:
        number, row = numbered
        return decoded_image(row[column], feature, f"images: number {number}")

    return map(decoded, enumerate(rows))  # no generator, which would end with the first that is broken


def _read_parts(
    parts: Iterator[Any], numbers: Iterable[int], wanted: Preprocessing, files: Sequence[Any], *, skip_broken: bool
) -> Iterator[Tensor]:
    broken, read = [], 0
    for number in numbers:
        where, part = str(files[number][0]) if number < len(files) else f"images: number {number}", None
        try:
            with readable(where):  # which may be decoded only now
                try:
                    part = next(parts)
                except StopIteration:
                    break
                batch = _read_part(part, wanted, where)
        except FormatError as error:
            if not skip_broken or (part is None and isinstance(parts, GeneratorType)):  # which the error has ended
                raise
            broken.append(str(error))
        else:
            yield batch
        read += 1
    if broken:
        warn(f"{len(broken)} of {read} images are left out: {'; '.join(broken)}")


def _read_part(part: Any, wanted: Preprocessing, where: str) -> Tensor:
    """A batch, or one image."""
    if isinstance(part, tuple) or (isinstance(part, list) and part and not isinstance(part[0], Image.Image)):
        part = part[0] if part else part  # (images, labels)
    if isinstance(part, str | Path):
        part = open_picture(part, f"{where} ({part})")
    if isinstance(part, Image.Image):
        return torch.from_numpy(as_array(part, wanted).copy())[None]
    if isinstance(part, Tensor | np.ndarray):
        return to_batch(part)[0]
    raise OptionError(f"images: a batch must be an array, a tensor or a PIL image, not {type(part).__name__}")
