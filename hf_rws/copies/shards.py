"""The files of a copy: written by one process or several, each complete when it gets its name."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from hf_rws._at_once import by_area
from hf_rws.copies.treatment import Treatment, read_images
from hf_rws.errors import OptionError, RWSError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

BATCH = 100  # rows in memory, and in a row group
_STOP = -(2**62)


@dataclass(frozen=True)
class Shard:
    """Rows of a split that become one file."""

    rows: "datasets.Dataset"
    first: int  # number of the first row in the split
    column: str
    treatment: Treatment
    path: Path
    title: str


def write_all(shards: Sequence[Shard], num_proc: int, report: Callable[[int], Any]) -> None:
    """Write the shards, in this process or in several; `report` is told how many images are done."""
    if min(num_proc, len(shards)) <= 1:
        for shard in shards:
            _write_shard(shard, report)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in whatever state
    counter, begun = context.Value("q", 0), context.Value("b", False)
    try:
        with ProcessPoolExecutor(min(num_proc, len(shards)), context, _begin_worker, (counter, begun)) as pool:
            try:
                pending, seen = {pool.submit(_write_counted, shard) for shard in shards}, 0
                while pending:
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                    now = counter.value
                    report(now - seen)
                    seen = now
                    for future in done:
                        future.result()
            except BaseException:
                counter.value = _STOP
                pool.shutdown(cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        if not begun.value:
            raise OptionError(
                "no process could begin: each imports the script that was started, so with num_proc above 1 a script "
                'must call this below `if __name__ == "__main__":`; or use num_proc=1'
            ) from error
        raise RWSError(
            "a process was killed (out of memory?). What is finished is kept: the same call goes on from there"
        ) from error


_counter: Any = None  # in a worker: images done by all of them; negative when they shall stop


def _begin_worker(counter: Any, begun: Any) -> None:
    global _counter
    _counter = counter
    begun.value = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    torch.set_num_threads(1)


def _write_counted(shard: Shard) -> None:
    _write_shard(shard, _count)


def _count(images: int) -> None:
    with _counter.get_lock():
        _counter.value += images
        if _counter.value < 0:
            raise InterruptedError("stopped")


def _write_shard(shard: Shard, report: Callable[[int], Any]) -> None:
    """Write the file under another name, and give it its own when it is complete and on the disk."""
    import pyarrow.parquet as pq

    temporary = shard.path.with_name(f"{shard.path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            with pq.ParquetWriter(file, shard.rows.features.arrow_schema) as writer:
                first = shard.first
                for table in shard.rows.with_format("arrow").iter(BATCH):
                    writer.write_table(_treated(table, first, shard))
                    report(len(table))
                    first += len(table)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(shard.path)
    finally:
        temporary.unlink(missing_ok=True)


def _encoded(table: "pa.Table", first: int, shard: Shard) -> list[bytes]:
    """The images of some rows, treated; of large ones never more are in memory than a network would be asked about."""
    encoded: list[bytes] = []
    held: list[Image.Image] = []
    most = BATCH
    feature = shard.rows.features[shard.column]
    for number in range(len(table)):
        (image,) = read_images(table.slice(number, 1), feature, shard.column, first + number, shard.title)
        held.append(image)
        most = min(most, by_area((image.height, image.width), torch.device("cpu")))  # of the largest of them
        if len(held) >= most:
            encoded += shard.treatment.apply(held, first + len(encoded))
            held, most = [], BATCH
    return encoded + shard.treatment.apply(held, first + len(encoded))


def _treated(table: "pa.Table", first: int, shard: Shard) -> "pa.Table":
    """The same rows with other images; files that they point to are taken in."""
    import pyarrow as pa
    from datasets.table import embed_table_storage

    encoded = _encoded(table, first, shard)
    ending = ".png" if shard.treatment.jpeg_quality is None else ".jpg"
    paths = [value["path"] and Path(value["path"]).stem + ending for value in table[shard.column].to_pylist()]
    values = [{"bytes": content, "path": path} for content, path in zip(encoded, paths, strict=True)]
    place = table.schema.get_field_index(shard.column)
    field = table.schema.field(place)
    return embed_table_storage(table.set_column(place, field, pa.array(values, field.type)))
