"""`write_corrupted_copy`: from the options to a plan, and from there to the folder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import PIL
import torch

from hf_rws._files import writing
from hf_rws._progress import bar
from hf_rws._version import __version__
from hf_rws.copies.folder import (
    DATA,
    UNFINISHED,
    begin,
    finish,
    is_finished,
)
from hf_rws.copies.shards import BATCH, Shard, write_all
from hf_rws.copies.treatment import Treatment, read_images
from hf_rws.data.datasets import dataset_name
from hf_rws.data.decoding import find_image_column
from hf_rws.data.sources import open_dataset
from hf_rws.errors import FormatError, NotFoundError, OptionError, warn

if TYPE_CHECKING:
    import datasets

_SHARD_BYTES = 2**28  # of pixels: 10,000 images of 32 px, 1,700 of 224 px
_SHARD_IMAGES = 10_000  # at most
_LEFT_OUT = ("splits", "source")  # what a record says otherwise where images are left out
_LISTED = 20  # images that are left out, by name


def write_corrupted_copy(
    dataset: str,
    output_dir: str | Path,
    corruption: str,
    *,
    severity: int = 5,
    seed: int = 0,
    parameters: str = "auto",
    splits: Sequence[str] | None = None,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    jpeg_quality: int | None = None,
    images_per_shard: int | None = None,
    skip_broken: bool = False,
    overwrite: bool = False,
    num_proc: int = 1,
    progress: bool = False,
) -> Path:
    """Write a dataset with its images corrupted and everything else as it is.

    A call that was interrupted is repeated: finished shards are kept. Grey images stay grey where the corruption has a
    meaning for them; 16 bits are scaled to 8, transparency is dropped. The draws of image i are the same in all splits.

    Args:
        dataset: Hub id or folder, as for `load_splits`.
        output_dir: Folder for the copy: `data/<split>-00000-of-00005.parquet`, README.md and corruption.json.
        corruption: One of `CORRUPTIONS` or `hf_rws.corruptions.BAR`.
        severity: 1 to 5.
        seed: Seed of the draws.
        parameters: Whose severity constants; by default by the size of each image (see `corrupt`).
        splits: Names of the splits to copy; all by default.
        config: Name of the configuration, of a dataset that has several.
        revision: Revision of a Hub dataset.
        image_column: Name of the image column where there are several.
        jpeg_quality: Save JPEG of this quality, as the published ImageNet-C (85), instead of lossless PNG.
        images_per_shard: Images in a file; by default files hold at most 256 MB of pixels and 10,000 images.
        skip_broken: Leave out the rows of images that cannot be used, with a warning that lists them. All images are
            read once more, to find them; image i is then the i-th of those that are left.
        overwrite: Replace another copy in the folder, when this one is finished.
        num_proc: Processes; in a script, above 1, the call has to stand below `if __name__ == "__main__":`.
        progress: Show a bar.

    Returns:
        The folder.

    Raises:
        OptionError: An option makes no sense, or the folder holds something else, e.g. a copy made with other options.
        NotFoundError: There is no such dataset, split or column.
        FormatError: An image cannot be used: missing, broken, smaller than 32 pixels, of 32 bits or floating point.
        AccessError: The folder cannot be written to, or the disk is full.
        MissingExtraError: Frost, and its pictures are not installed.
    """
    for label, number in (("num_proc", num_proc), ("images_per_shard", images_per_shard)):
        if number is not None and number < 1:
            raise OptionError(f"{label} must be at least 1, got {number!r}")
    treatment = Treatment(corruption, severity, seed, parameters, jpeg_quality)
    chosen = _chosen_splits(open_dataset(dataset, config=config, revision=revision), splits, dataset)
    column = find_image_column(next(iter(chosen.values())), image_column, dataset)
    if skip_broken:
        chosen = {name: _usable(split, column, f"{dataset} {name}") for name, split in chosen.items()}
    if images_per_shard is None:
        images_per_shard = _images_per_shard(chosen, column, dataset)
    record = {
        "dataset": dataset_name(dataset),
        "dataset_config": config,
        "dataset_revision": revision,
        "image_column": image_column,
        "splits": {name: len(split) for name, split in chosen.items()},
        "images_per_shard": images_per_shard,
        **asdict(treatment),
    }
    record_of_this_run = {
        **record,
        "versions": {"hf_rws": __version__, "torch": torch.__version__, "Pillow": PIL.__version__},
        "source": {name: split._fingerprint for name, split in chosen.items()},
    }
    folder = Path(output_dir)
    with writing(f"write the copy in {folder}", "What is finished is kept: the same call goes on from there"):
        if is_finished(folder, record, overwrite=overwrite):
            return folder
        may_differ = _LEFT_OUT if skip_broken else ()  # of a run that met a broken image
        begin(folder, record_of_this_run, overwrite=overwrite, may_differ=may_differ)
        shards = [
            Shard(rows, first, column, treatment, folder / UNFINISHED / DATA / file, f"{dataset} {name}")
            for name, split in chosen.items()
            for rows, first, file in _parts(split, name, images_per_shard)
        ]
        todo = [shard for shard in shards if not shard.path.exists()]
        counts = [sum(len(shard.rows) for shard in some) for some in (shards, todo)]
        with bar(
            total=counts[0],
            shown=progress,
            initial=counts[0] - counts[1],
            desc=f"{corruption}-{severity}",
            unit="img",
        ) as counter:
            write_all(todo, num_proc, counter.update)
        finish(folder, chosen, on_hub=not Path(dataset).is_dir())
    return folder


def _chosen_splits(
    loaded: Mapping[str, "datasets.Dataset"], names: Sequence[str] | None, dataset: str
) -> dict[str, "datasets.Dataset"]:
    unknown = [name for name in names or () if name not in loaded]
    if unknown:
        raise NotFoundError(f"dataset {dataset!r} has no split {', '.join(unknown)}; it has: {', '.join(loaded)}")
    return {name: loaded[name] for name in names or loaded}


def _usable(split: "datasets.Dataset", column: str, title: str) -> "datasets.Dataset":
    """The rows whose images can be used; a warning lists the others."""
    good: list[int] = []
    broken: list[str] = []
    for first, table in zip(range(0, len(split), BATCH), split.with_format("arrow").iter(BATCH), strict=True):
        for row in range(len(table)):
            try:
                read_images(table.slice(row, 1), split.features[column], column, first + row, title)
                good.append(first + row)
            except FormatError as error:
                broken.append(str(error))
    if not good:
        raise FormatError(f"{title}: no image can be used; {broken[0] if broken else 'there are none'}")
    if broken:
        listed = "; ".join(broken[:_LISTED]) + ("; ..." if len(broken) > _LISTED else "")
        warn(f"{len(broken)} of {len(split):,} images are left out: {listed}")
    return split.select(good)


def _images_per_shard(splits: Mapping[str, "datasets.Dataset"], column: str, dataset: str) -> int:
    """As many images of the first one's size as have `_SHARD_BYTES` of pixels."""
    name, split = next(iter(splits.items()))
    table = split.with_format("arrow")[:1]
    (image,) = read_images(table, split.features[column], column, 0, f"{dataset} {name}")
    return max(BATCH, min(_SHARD_IMAGES, _SHARD_BYTES // (3 * image.width * image.height)))


def _parts(split: "datasets.Dataset", name: str, size: int) -> Iterator[tuple["datasets.Dataset", int, str]]:
    """Rows, number of the first row, and file name of each shard of a split."""
    count = -(-len(split) // size)
    for number in range(count):
        first = number * size
        rows = split.select(range(first, min(first + size, len(split))))
        yield rows, first, f"{name}-{number:05}-of-{count:05}.parquet"
