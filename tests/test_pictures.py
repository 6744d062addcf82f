"""Pictures of every kind become RGB of 8 bits, and none is changed or lost without a word."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_rws.corruptions import corrupt
from hf_rws.data import as_images, load_split, load_splits, open_benchmark
from hf_rws.data.decoding import decoded_pixels
from hf_rws.data.pictures import as_array
from hf_rws.errors import FormatError, NotFoundError, OptionError, RWSWarning
from tests.helpers import datasets_cache, picture, pil, pixels, toy_dataset, write_parquet  # noqa: F401

pytestmark = pytest.mark.usefixtures("datasets_cache")

RAMP = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)  # up to 65,520
SCALED = np.round(RAMP / 257).astype(np.uint8)


def stored(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Image.open(io.BytesIO(stream.getvalue()))


# --- what becomes of them ---


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind):
    found = as_array(stored(Image.fromarray(RAMP), kind), None)
    assert np.array_equal(found, np.stack([SCALED] * 3))


def test_sixteen_bits_of_the_other_byte_order():
    image = Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes())
    assert np.array_equal(as_array(image, None)[0], SCALED)


def test_sixteen_bits_under_the_name_of_thirty_two():
    image = Image.fromarray(RAMP.astype(np.int32))
    image.format = "PNG"  # as older Pillows open them
    assert np.array_equal(as_array(image, None)[0], SCALED)


ROWS = {
    "I": np.arange(1024, dtype=np.int32).reshape(32, 32),
    "F": np.linspace(0, 9, 1024, dtype=np.float32).reshape(32, 32),
}


@pytest.mark.parametrize("mode", ROWS)
def test_numbers_of_no_known_range_are_refused_by_name(mode, tmp_path):
    folder = tmp_path / "scans"
    for name in ("ill", "well"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(ROWS[mode]).save(folder / name / "1.tiff")
    bench = tmp_path / "C/fog/5"
    bench.parent.mkdir(parents=True)
    folder.rename(bench)
    message = rf"mode {mode}\) may mean anything: save it with 8 or 16 bits"
    for read in (
        lambda: load_split(str(bench), "train"),
        lambda: as_images(bench, side=32),
        lambda: as_images([bench / "ill/1.tiff"], side=32),
        lambda: open_benchmark(tmp_path / "C").load("fog", 5),
    ):
        with pytest.raises(FormatError, match=rf"ill/1.tiff cannot be decoded: .*{message}"):
            read()
    with pytest.raises(FormatError, match=f"number 0 cannot be decoded: .*{message}"):
        as_images([Image.fromarray(ROWS[mode])], side=32)
    with pytest.raises(OptionError, match=f"8 bits a channel, not mode {mode}"):
        corrupt(Image.fromarray(ROWS[mode]), "fog")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = picture(0, 40, 32)
    path = tmp_path / "1.png"
    image.save(path, exif=exif)
    turned = np.asarray(image)
    if orientation >= 5:
        turned = turned.transpose(1, 0, 2)
    turned = turned[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]
    opened = Image.open(path)
    assert np.array_equal(as_array(opened, None), turned.transpose(2, 0, 1))
    content = {"image": [{"bytes": path.read_bytes(), "path": None}]}
    found = datasets.Dataset.from_dict(content, features=datasets.Features(image=datasets.Image()))
    assert np.array_equal(decoded_pixels(found, "", "one").pixels[0], turned.transpose(2, 0, 1))


def test_broken_exif_data_of_a_whole_picture(tmp_path):
    image = stored(picture(0), exif=b"Exif\0\0no tiff at all")
    assert np.array_equal(as_array(image, None), np.asarray(picture(0)).transpose(2, 0, 1))


@pytest.mark.parametrize(
    "image",
    [
        picture(0, mode="L"),
        picture(0, mode="RGBA"),
        picture(0, mode="L").convert("LA"),
        picture(0).convert("P"),
        picture(0).convert("1"),
        picture(0).convert("CMYK"),
        picture(0).convert("YCbCr"),
        picture(0).convert("HSV"),
    ],
    ids=lambda image: image.mode,
)
def test_modes_become_what_pillow_makes_of_them(image):
    assert np.array_equal(as_array(image, None), np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def test_premultiplied_and_partly_transparent_palettes():
    grey = picture(0, mode="L").convert("LA")
    assert np.array_equal(as_array(grey.convert("La"), None), as_array(grey, None))
    palette = picture(0).convert("P")
    palette.info["transparency"] = bytes(range(256))  # of which Pillow would warn
    assert np.array_equal(
        as_array(palette, None), np.asarray(picture(0).convert("P").convert("RGB")).transpose(2, 0, 1)
    )


def test_small_pictures_are_read_as_they_are(tmp_path):
    content = {"image": [picture(0, 28, 28)] * 2, "label": [0, 1]}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    folder = str(write_parquet(tmp_path / "digits", features, test=content))
    assert load_split(folder).images.shape == (2, 3, 28, 28)
    with pytest.raises(OptionError, match="at least 32 pixels on each side"):
        corrupt(load_split(folder).images, "fog")


# --- paths ---


def test_a_list_of_paths(tmp_path, datasets_cache):  # noqa: F811
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    expected = np.stack([np.asarray(picture(number)).transpose(2, 0, 1) for number in range(3)])
    for given in (paths, tuple(map(str, paths)), (path for path in paths)):
        assert np.array_equal(as_images(given, side=32), expected)
    assert len(list(datasets_cache.rglob("*.npy"))) == 1  # decoded once, memory-mapped
    assert len(as_images(paths, side=32, limit=2)) == 2
    with pytest.raises(NotFoundError, match=r"nowhere.png' is no file"):
        as_images([*paths, tmp_path / "nowhere.png"], side=32)
    with pytest.raises(OptionError, match="all must be paths, not int"):
        as_images([paths[0], 3], side=32)
    paths[1].write_bytes(b"")
    with pytest.raises(FormatError, match=r"/1\.png cannot be decoded: it is no image"):
        as_images(paths, side=32)


# --- broken ones ---


@pytest.fixture
def half_broken(tmp_path):
    """Ten images in two classes, of which the second and the last are broken."""
    folder = tmp_path / "pets"
    for number in range(10):
        path = folder / ("cat" if number < 5 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
        if number in (1, 9):
            path.write_bytes(path.read_bytes()[:200])
    return folder


def test_broken_ones_are_skipped_and_listed(half_broken):
    whole = [0, 2, 3, 4, 5, 6, 7, 8]
    expected = np.stack([np.asarray(picture(number)).transpose(2, 0, 1) for number in whole])
    with pytest.raises(FormatError, match=r"pets/cat/1\.png cannot be decoded"):
        load_split(str(half_broken), "train")
    message = r"2 of 10 images are left out: .*/pets/cat/1\.png cannot be decoded: .*/pets/dog/9\.png cannot be decoded"
    for _ in range(2):  # also when they come from the cache
        with pytest.warns(RWSWarning, match=message):
            found = load_split(str(half_broken), "train", skip_broken=True)
        assert np.array_equal(found.images, expected)
        assert found.labels.tolist() == [0] * 4 + [1] * 4
    with pytest.warns(RWSWarning, match=message):
        assert np.array_equal(as_images(half_broken, side=32, skip_broken=True), expected)
    with pytest.warns(RWSWarning, match="2 of 10 images"):
        splits = load_splits(str(half_broken), skip_broken=True, test_split="train", validation=0.2)
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 8


def test_where_all_are_broken(half_broken):
    for path in half_broken.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(FormatError, match=r"no images; .*/0\.png cannot be decoded"):
        load_split(str(half_broken), "train", skip_broken=True)


def _opened(path):
    return Image.open(io.BytesIO(path.read_bytes()))


class _Opened:
    """A dataset as of torch."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, number):
        return _opened(self.paths[number]).convert("RGB"), 0


def test_broken_ones_of_other_sources(half_broken):
    paths = sorted(half_broken.rglob("*.png"))
    content = {"image": [{"bytes": path.read_bytes(), "path": None} for path in paths]}
    table = datasets.Dataset.from_dict(content, features=datasets.Features(image=datasets.Image()))
    for given in (table, table.to_iterable_dataset(), _Opened(paths), map(_opened, paths)):
        with pytest.warns(RWSWarning, match=r"2 of 10 images are left out: .*(image|number) 1 .*(image|number) 9 "):
            assert len(as_images(given, side=32, skip_broken=True)) == 8
    with pytest.raises(FormatError, match="number 1 "):  # a generator ends with its first error
        as_images((_Opened(paths)[number] for number in range(10)), side=32, skip_broken=True)


def test_rows_keep_their_numbers_and_split(tmp_path):
    broken = {"bytes": b"", "path": None}
    content = {"image": [*(pil(x) for x in pixels(7)), broken], "label": [0] * 7 + [1]}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    folder = str(write_parquet(tmp_path / "toy", features, train=content, test=content))
    with pytest.raises(FormatError, match=r"toy test: image 7 cannot be decoded"):
        load_split(folder, classes="b")
    assert len(load_split(folder, classes="a")) == 7  # what is not wanted is not decoded


# --- only what is wanted ---


def test_a_limit_decodes_so_many(tmp_path, monkeypatch):
    from hf_rws.data import decoding

    seen = []
    original = decoding.decoded_array
    monkeypatch.setattr(decoding, "decoded_array", lambda *rest: seen.append(rest[2]) or original(*rest))
    folder = str(toy_dataset(tmp_path / "toy", train=40))
    some = load_split(folder, limit=5)
    assert (len(some), len(seen)) == (5, 5)
    assert len(as_images(folder, side=32, limit=7)) == 7
    assert len(seen) == 12
    splits = load_splits(folder, limit=3)
    assert len(seen) == 12 + 3 + 4 + 12  # training, validation and test
    whole = load_split(folder)
    rows = [next(row for row in range(12) if torch.equal(whole.images[row], image)) for image in some.images]
    assert rows == sorted(rows)
    assert whole.labels[rows].tolist() == some.labels.tolist()
    count = len(seen)
    assert torch.equal(load_split(folder, limit=5).images, some.images)
    assert not torch.equal(load_split(folder, limit=5, seed=1).images, some.images)  # from what is decoded already
    assert len(seen) == count
    assert torch.equal(splits.test.images, whole.images)
