"""The folder of a copy: what it holds, what is not finished, and how it becomes a dataset."""

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_rws._files import COPY, COPY_RECORD, README_NAME, check_room, read_json, write_whole
from hf_rws.cards import updated
from hf_rws.cards.copies import copy_card
from hf_rws.errors import FormatError, IntegrityError, OptionError

if TYPE_CHECKING:
    import datasets

RECORD = COPY_RECORD
UNFINISHED = ".unfinished"
DATA = "data"


def is_finished(folder: Path, record: Mapping[str, Any], *, overwrite: bool = False) -> bool:
    """Whether the folder holds this very copy; an error if it holds something else, with `overwrite` than a copy."""
    check_room(folder, "the copy", COPY, overwrite=overwrite)
    if (folder / RECORD).exists():
        if overwrite and _differing(folder / RECORD, record):
            return False
        _check_same(folder, folder / RECORD, record)
        return (folder / DATA).exists()
    for name in (DATA, README_NAME):
        if (folder / name).exists() and not (overwrite and name == README_NAME):
            raise OptionError(f"{folder} already has {name} of something else: choose another folder")
    return False


def begin(
    folder: Path, record: Mapping[str, Any], *, overwrite: bool = False, may_differ: Collection[str] = ()
) -> None:
    """Make the hidden folder for what is not finished, or check the one that is there.

    One whose record says otherwise is removed with `overwrite`, or where it does so of what `may_differ` alone.
    """
    work = folder / UNFINISHED
    differing = _differing(work / RECORD, record) if (work / RECORD).exists() else {}
    if differing and (overwrite or differing.keys() <= set(may_differ)):
        shutil.rmtree(work)
    (work / DATA).mkdir(parents=True, exist_ok=True)
    for left in work.rglob("*.tmp"):
        left.unlink()
    if (work / RECORD).exists():
        _check_same(folder, work / RECORD, record)
    else:
        write_whole(work / RECORD, json.dumps(record, indent=2) + "\n")


def _differing(path: Path, record: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What a record says otherwise: then and now."""
    try:
        earlier = read_json(path, str(path))
    except FormatError as error:
        raise FormatError(f"{error}: choose another folder, or delete this one") from error
    return {key: (earlier.get(key), value) for key, value in record.items() if earlier.get(key) != value}


def _check_same(folder: Path, path: Path, record: Mapping[str, Any]) -> None:
    if differing := _differing(path, record):
        listed = "; ".join(f"{key}: {then!r} then, {now!r} now" for key, (then, now) in differing.items())
        raise OptionError(f"{folder} holds another copy ({listed}): choose another folder, or overwrite=True")


def finish(folder: Path, splits: Mapping[str, "datasets.Dataset"], *, on_hub: bool) -> None:
    """Write card and record, and give the data their place, in one step and as the last thing."""
    import datasets
    import pyarrow.parquet as pq

    work = folder / UNFINISHED
    info = datasets.DatasetInfo(features=next(iter(splits.values())).features, splits=datasets.SplitDict())
    for name, split in splits.items():
        files = [pq.read_metadata(path) for path in sorted((work / DATA).glob(f"{name}-*.parquet"))]
        nbytes = sum(file.row_group(group).total_byte_size for file in files for group in range(file.num_row_groups))
        if sum(file.num_rows for file in files) != len(split):
            raise IntegrityError(f"{work} does not hold {len(split)} images of {name}: delete it, and start again")
        info.splits.add(datasets.SplitInfo(name, num_bytes=nbytes, num_examples=len(split)))
    info.dataset_size = sum(split.num_bytes for split in info.splits.values())
    info.download_size = sum(path.stat().st_size for path in (work / DATA).iterdir())
    record = read_json(work / RECORD, str(work / RECORD))
    del record["source"]  # what this machine's cache calls it
    if (folder / DATA).exists():  # of another copy, which is to be replaced
        (folder / DATA).replace(work / "earlier")
    write_whole(folder / RECORD, json.dumps(record, indent=2) + "\n")
    card = copy_card(record, info, name=folder.resolve().name, on_hub=on_hub)
    write_whole(folder / README_NAME, updated(folder / README_NAME, card))
    (work / DATA).replace(folder / DATA)
    shutil.rmtree(work)
