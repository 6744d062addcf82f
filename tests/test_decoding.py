"""Decoded images lie on the disk: once, in order, and without taking memory."""

import ctypes
import gc
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_rws.data import Preprocessing, as_images, decoding, load_split, load_splits, pixel_files
from hf_rws.data.decoding import _in_order, decoded_pixels
from hf_rws.data.pictures import as_array
from hf_rws.data.pixel_files import read_pixels
from hf_rws.errors import AccessError, FormatError, OptionError, RWSWarning
from tests.helpers import datasets_cache, picture, pil, pixels, toy_dataset  # noqa: F401

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.fixture
def decoded(monkeypatch):
    """What is decoded, by the names in errors; `decoded.before` is called with each first."""

    class Names(list):
        before = staticmethod(lambda name: None)

    names, original = Names(), decoding.decoded_array

    def recorded(value, feature, where, preprocessing):
        names.before(where)
        names.append(where)
        return original(value, feature, where, preprocessing)

    monkeypatch.setattr(decoding, "decoded_array", recorded)
    return names


@pytest.fixture
def to_the_disk(monkeypatch):
    """No images are few enough to stay in memory."""
    monkeypatch.setattr(pixel_files, "_MOST_IN_MEMORY", 0)


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.npy"))


# --- memory ---

LARGE = Preprocessing((512, 512), interpolation="nearest")
COUNT = 40
NBYTES = COUNT * 3 * 512 * 512


class Photos:
    """A dataset as of torch."""

    def __len__(self):
        return COUNT

    def __getitem__(self, number):
        return picture(number % 4), 0


def streamed():
    table = datasets.Dataset.from_dict({"image": [picture(number % 4) for number in range(COUNT)]})
    return table.cast_column("image", datasets.Image()).to_iterable_dataset()


WAYS = {
    "parts": lambda folder: load_splits(folder, preprocessing=LARGE, test_split="train").train,
    "some of a split": lambda folder: [
        load_split(folder, "train", preprocessing=LARGE, limit=limit) for limit in (None, COUNT - 4)
    ],
    "a generator": lambda _: as_images((torch.full((8, 3, 512, 512), 9, dtype=torch.uint8) for _ in range(COUNT // 8)),
                                       preprocessing=LARGE),
    "a dataset of torch": lambda _: as_images(Photos(), preprocessing=LARGE),
    "some of a stream": lambda _: as_images(streamed(), preprocessing=LARGE, limit=COUNT - 4),
}  # fmt: skip


def own_memory():
    """Of this process, in bytes: what is no copy of a file, and in use."""
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("way", WAYS)
def test_images_take_no_memory(way, tmp_path, to_the_disk):
    grown = []
    for attempt in range(2):  # what else lives in this process may grow once
        folder = str(toy_dataset(tmp_path / f"toy-{attempt}", train=COUNT, test_images=4))
        load_split(folder, preprocessing=LARGE)  # what is imported and started stays
        before = own_memory()
        found = WAYS[way](folder)
        grown.append(own_memory() - before)
        if grown[-1] < NBYTES / 4:
            break
    assert min(grown) < NBYTES / 4
    assert found is not None


def overcommits():
    """Whether Linux maps more than its memory could hold: it may be told never to."""
    setting = Path("/proc/sys/vm/overcommit_memory")
    return setting.is_file() and setting.read_text().strip() != "2"


@pytest.mark.skipif(not overcommits(), reason="the system may refuse")
def test_a_file_larger_than_the_memory_is_mapped(tmp_path):
    count = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (3 * 224 * 224)
    path = tmp_path / "large.npy"
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, 224, 224)}
        np.lib.format.write_array_header_1_0(file, header)
        try:
            file.truncate(file.tell() + count * 3 * 224 * 224)  # holes
        except OSError:
            pytest.skip("the file system has no room for it")
    images = read_pixels(path)[0]
    assert len(images) == count
    assert not images[-1].any()


def test_threads_are_only_a_few_images_ahead():
    read = []
    numbers = (read.append(number) or number for number in range(1000))
    found = _in_order(lambda number: number * 2, numbers)
    assert next(found) == 0
    assert len(read) <= 2 * decoding._MOST_THREADS + 1
    assert list(found) == list(range(2, 2000, 2))


@pytest.mark.parametrize("side", [None, 64])
def test_a_thread_makes_few_large_images_of_small_pictures_at_a_time(side, monkeypatch):
    counts, original = [], decoding._Source._decoded
    monkeypatch.setattr(
        decoding._Source, "_decoded", lambda self, task: counts.append(len(task)) or original(self, task)
    )
    monkeypatch.setattr(decoding, "_DECODED_OF_A_TASK", 5 * 3 * 64 * 64)
    split = stored([picture(0, 64, 64)] * 100)
    found = decoded_pixels(split, "", "toy", preprocessing=side and Preprocessing((side, side)))
    assert (len(found.pixels), sum(counts), max(counts)) == (100, 100, 5)


# --- the disk ---


def test_parts_of_a_split_are_views_of_one_file(tmp_path):
    folder, cache = str(toy_dataset(tmp_path / "toy", train=40)), tmp_path / "cache"
    found = load_splits(folder, cache_dir=cache, test_split="train")
    parts = found.train, found.validation, found.test
    assert len({part.images.untyped_storage().data_ptr() for part in parts}) == 1
    assert [len(part) for part in parts] == [32, 4, 4]
    assert size_of(cache) < 1.1 * 40 * 3 * 32 * 32


def test_what_is_decoded_is_not_decoded_again(tmp_path, decoded):
    folder, cache = str(toy_dataset(tmp_path / "toy", train=40)), tmp_path / "cache"
    load_splits(folder, cache_dir=cache)
    count = len(decoded)
    assert torch.equal(load_split(folder, "train", cache_dir=cache).images, pixels(40))
    other = load_splits(folder, cache_dir=cache, split_seed=1)
    some = load_split(folder, "train", cache_dir=cache, limit=7)
    numbers = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(other.validation.images, pixels(40)[numbers[:4].sort().values])
    assert (some.images[:, None] == pixels(40)[None]).flatten(2).all(2).any(1).all()
    assert len(decoded) == count


def test_images_that_lie_together_are_stored_once(tmp_path, decoded):
    split = datasets.Dataset.from_dict({"image": [pil(image) for image in pixels(12)]})
    split = split.cast_column("image", datasets.Image())
    options = {"cache_dir": tmp_path / "cache"}
    decoded_pixels(split, "", "toy", **options)
    before = size_of(tmp_path / "cache")
    run = decoded_pixels(split, "", "toy", rows=torch.arange(3, 9), **options)
    assert (torch.equal(run.pixels, pixels(12)[3:9]), run.rows.tolist()) == (True, [3, 4, 5, 6, 7, 8])
    whole = decoded_pixels(split, "", "toy", skip_broken=True, **options)
    assert torch.equal(whole.pixels, pixels(12))
    assert size_of(tmp_path / "cache") == before
    rows = torch.tensor([7, 0, 11])
    for _ in range(2):
        assert torch.equal(decoded_pixels(split, "", "toy", rows=rows, **options).pixels, pixels(12)[rows])
    assert len(decoded) == 12


def test_broken_ones_are_known_in_copies(tmp_path, decoded):
    folder = tmp_path / "pets"
    for number in range(10):
        (folder / "cat").mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / "cat" / f"{number}.png")
    (folder / "cat/3.png").write_bytes(b"")
    for seed in (0, 1):
        with pytest.warns(RWSWarning, match=r"^1 of 10 images are left out: .*cat/3\.png cannot be decoded") as given:
            found = load_splits(folder, split_seed=seed, test_split="train", validation=0.2, skip_broken=True)
        assert (len(given), sum(map(len, (found.train, found.validation, found.test)))) == (1, 9)
    assert len(decoded) == 10
    with pytest.raises(FormatError, match=r"cat/3\.png cannot be decoded"):
        load_split(folder, "train")


def test_a_damaged_file_is_not_copied_from(tmp_path):
    folder, cache = str(toy_dataset(tmp_path / "toy")), tmp_path / "cache"
    load_split(folder, cache_dir=cache)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    assert len(load_split(folder, cache_dir=cache, limit=5)) == 5


def test_too_little_room_is_said_before_the_disk_is_full(tmp_path, monkeypatch, decoded):
    folder = str(toy_dataset(tmp_path / "toy", train=200))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(500_000))
    monkeypatch.setattr(decoding, "_threads", lambda: 2)  # more of them are further ahead
    with pytest.raises(AccessError, match=r"toy train need 0\.0 GB, .* has 0\.0 GB left.*HF_DATASETS_CACHE"):
        load_split(folder, "train", image_size=64)
    assert len(decoded) < 200


@pytest.mark.usefixtures("to_the_disk")
def test_a_spooled_file_has_no_name(datasets_cache):  # noqa: F811
    found = as_images((pixels(8) for _ in range(3)), side=32)
    assert torch.equal(found, pixels(8).repeat(3, 1, 1, 1))
    found.zero_()
    assert not list((datasets_cache / "hf_rws").iterdir())
    with pytest.raises(OptionError, match="their sizes differ"):
        as_images([pixels(2), pixels(2, size=40)], side=32)


def test_few_images_need_no_disk(datasets_cache):  # noqa: F811
    datasets_cache.write_bytes(b"")  # where no folder can be
    assert torch.equal(as_images([pixels(8), pixels(8)], side=32), pixels(8).repeat(2, 1, 1, 1))


def numbered(count):
    """A stream of images that show their numbers."""
    return (torch.full((1, 3, 32, 32), number, dtype=torch.uint8) for number in range(count))


@pytest.mark.parametrize("most_in_memory", [2**28, 10 * 3 * 32 * 32, 0])
def test_a_limit_of_a_stream_keeps_no_more(most_in_memory, monkeypatch):
    monkeypatch.setattr(pixel_files, "_MOST_IN_MEMORY", most_in_memory)
    places, original = [], pixel_files._Spool.put
    monkeypatch.setattr(pixel_files._Spool, "put", lambda self, *args: places.append(args[0]) or original(self, *args))
    some = [as_images(numbered(200), side=32, limit=12, seed=seed)[:, 0, 0, 0].tolist() for seed in (0, 1, 0)]
    assert (len(some[0]), max(places)) == (12, 11)
    assert some[0] == sorted(set(some[0])) == some[2] != some[1]
    assert torch.equal(as_images(numbered(12), side=32, limit=12), torch.cat(list(numbered(12))))


def test_every_image_of_a_stream_is_as_likely():
    counts = torch.zeros(10)
    for seed in range(200):
        counts[as_images(numbered(10), side=32, limit=4, seed=seed)[:, 0, 0, 0].long()] += 1
    assert (counts - 80).abs().max() < 4.5 * (200 * 0.4 * 0.6) ** 0.5


@pytest.mark.usefixtures("to_the_disk")
def test_a_full_disk_ends_a_spooled_file():
    size = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, size[1]))
        with pytest.raises(
            AccessError, match=r"cannot keep the decoded images of images in .*: [A-Z].*HF_DATASETS_CACHE"
        ):
            as_images((pixels(8) for _ in range(3)), side=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, size)


# --- order, errors, Ctrl-C ---


def stored(images):
    content = [{"bytes": image, "path": None} if isinstance(image, bytes) else image for image in images]
    return datasets.Dataset.from_dict({"image": content}, features=datasets.Features(image=datasets.Image()))


def test_the_first_broken_one_is_named(decoded, monkeypatch):
    monkeypatch.setattr(decoding, "_MOST_OF_A_TASK", 1)
    decoded.before = lambda name: time.sleep(0.2 if name.endswith(" 3") else 0)  # others are found out earlier
    images = [picture(number) for number in range(8)]
    images[3] = images[4] = images[7] = b"no picture"
    with pytest.raises(FormatError, match="the dataset: image 3 cannot be decoded"):
        as_images(stored(images), side=32)


def test_an_interrupt_ends_at_once_and_leaves_nothing(decoded, monkeypatch, datasets_cache):  # noqa: F811
    monkeypatch.setattr(decoding, "_MOST_OF_A_TASK", 1)

    def interrupted(name):
        time.sleep(0.01)
        if name.endswith(" 20"):
            signal.raise_signal(signal.SIGINT)  # which Python's first thread sees

    decoded.before = interrupted
    with pytest.raises(KeyboardInterrupt):
        as_images(stored([picture(0)] * 500), side=32)
    assert len(decoded) < 100
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hf-rws-decode")]
    assert not list((datasets_cache / "hf_rws").iterdir())


# --- what users have ---


def test_a_limit_takes_no_more_of_what_has_a_length():
    read = []

    class Counted(Photos):
        def __getitem__(self, number):
            read.append(number)
            return super().__getitem__(number)

    some = as_images(Counted(), side=32, limit=5, seed=3)
    assert (len(read), sorted(read)) == (5, read)
    everything = as_images(Photos(), side=32)
    assert torch.equal(some, as_images(everything, side=32, limit=5, seed=3))
    assert torch.equal(some, as_images([image for image, _ in map(Photos().__getitem__, range(COUNT))], side=32,
                                       limit=5, seed=3))  # fmt: skip
    assert len(as_images((pixels(8) for _ in range(3)), side=32, limit=5)) == 5


def test_a_limit_of_thousands_of_files_decodes_so_many(tmp_path, decoded):
    picture(0).save(tmp_path / "0.png")
    (tmp_path / "photos").mkdir()
    for number in range(2000):
        os.link(tmp_path / "0.png", tmp_path / "photos" / f"{number}.png")
    assert len(as_images(tmp_path / "photos", side=32, limit=4)) == 4
    assert len(decoded) == 4


NOT_SQUARE = Preprocessing((192, 256), 0.9)
KINDS = {
    "a/RGB.jpg": lambda: picture(0, 300, 200),
    "a/b/CMYK.JPEG": lambda: picture(1, 90, 400).convert("CMYK"),
    "a/b/c/grey.jpeg": lambda: picture(2, 260, 200, "L"),
    "a/ünï/RGBA.png": lambda: picture(3, 64, 40, "RGBA"),
    "猫/palette.png": lambda: picture(4, 256, 192).convert("P"),
    "猫/16 bit.png": lambda: Image.fromarray(np.arange(256 * 192, dtype=np.uint16).reshape(192, 256)),
    "猫/RGBA.webp": lambda: picture(5, 500, 300, "RGBA"),
    "🐈.webp": lambda: picture(6, 33, 34),
    "turned.jpg": lambda: picture(7, 200, 320),
}


def test_a_folder_of_every_kind_of_file_for_an_input_that_is_not_square(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, made in KINDS.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        made().save(path, **({"exif": exif} if name.startswith("turned") else {}))
    names = sorted(KINDS)
    found = as_images(tmp_path / "photos", preprocessing=NOT_SQUARE)
    assert found.shape == (len(KINDS), 3, 192, 256)
    for name, image in zip(names, found, strict=True):
        wanted = as_array(Image.open(tmp_path / "photos" / name), NOT_SQUARE)
        assert np.array_equal(image, wanted), name
    assert torch.equal(as_images([tmp_path / "photos" / name for name in names], preprocessing=NOT_SQUARE), found)
