"""A picture that cannot be used, among those that can, is named: by every way in."""

import io

import datasets
import numpy as np
import pytest
import torchvision
from PIL import Image

from hf_rws.copies import write_corrupted_copy
from hf_rws.data import as_images, load_split, open_benchmark
from hf_rws.errors import FormatError
from tests.helpers import datasets_cache, picture  # noqa: F401

pytestmark = pytest.mark.usefixtures("datasets_cache")


def jpeg(seed):
    stream = io.BytesIO()
    picture(seed, 64, 64).save(stream, "JPEG")
    return stream.getvalue()


def bomb(monkeypatch):
    """A picture of more pixels than Pillow decodes: lowered here, for speed."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)  # it warns above, and refuses above twice as many
    stream = io.BytesIO()
    Image.new("1", (1000, 1000)).save(stream, "JPEG")
    return stream.getvalue()


BROKEN = {
    "cut off": lambda _: jpeg(9)[:1500],
    "no picture": lambda _: b"<html>404</html>",
    "empty": lambda _: b"",
    "a bomb": bomb,
}
MESSAGE = r"(image|images: number) 3( \(3\.jpg\))? cannot be decoded|3\.jpg cannot be decoded"


@pytest.fixture(params=BROKEN)
def files(request, monkeypatch):
    """Six files, the fourth of which is broken."""
    contents = [jpeg(seed) for seed in range(6)]
    contents[3] = BROKEN[request.param](monkeypatch)
    return contents


@pytest.fixture
def folder(files, tmp_path):
    """Those files as a dataset, and as a benchmark."""
    for place in ("photos/test/sky", "photos/test/sea", "C/fog/5/sky"):
        (tmp_path / place).mkdir(parents=True)
    for number, content in enumerate(files):
        (tmp_path / "photos/test/sea" / f"{number}.jpg").write_bytes(content)
        (tmp_path / "C/fog/5/sky" / f"{number}.jpg").write_bytes(content)
    (tmp_path / "photos/test/sky/0.jpg").write_bytes(files[0])
    return tmp_path


FOLDERS = {
    "load_split": lambda path: load_split(str(path / "photos"), image_size=32),
    "as_images": lambda path: as_images(path / "photos", side=32),
    "a copy": lambda path: write_corrupted_copy(str(path / "photos"), path / "out", "contrast"),
    "a benchmark": lambda path: open_benchmark(path / "C", image_size=32).load("fog", 5),
    "torchvision": lambda path: as_images(torchvision.datasets.ImageFolder(str(path / "photos/test")), side=32),
}


@pytest.mark.filterwarnings("ignore:Exception ignored in.*_io.FileIO")  # `datasets` leaves the file to be closed
@pytest.mark.parametrize("way", FOLDERS)
def test_in_a_folder(way, folder):
    with pytest.raises(FormatError, match=MESSAGE):
        FOLDERS[way](folder)


FEATURES = datasets.Features(image=datasets.Image())
IN_MEMORY = {
    "a dataset": lambda dataset: dataset,
    "undecoded": lambda dataset: dataset.cast_column("image", datasets.Image(decode=False)),
    "formatted": lambda dataset: dataset.with_format("torch"),
    "streamed": lambda dataset: dataset.to_iterable_dataset(),
    "streamed and formatted": lambda dataset: dataset.to_iterable_dataset().with_format("numpy"),
}


def in_memory(files):
    return datasets.Dataset.from_dict({"image": [{"bytes": data, "path": None} for data in files]}, features=FEATURES)


@pytest.mark.parametrize("way", IN_MEMORY)
def test_in_memory(way, files):
    with pytest.raises(FormatError, match=MESSAGE):
        as_images(IN_MEMORY[way](in_memory(files)), side=32)


@pytest.mark.parametrize("way", IN_MEMORY)
def test_whole_ones_are_read_in_whatever_form(way):
    whole = [jpeg(seed) for seed in range(6)]
    found = as_images(IN_MEMORY[way](in_memory(whole)), side=64)
    wanted = np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in whole])
    assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), wanted)


def test_pictures_of_pillow():
    with pytest.raises(FormatError, match="images: number 1 cannot be decoded"):
        as_images([Image.open(io.BytesIO(jpeg(0))), Image.open(io.BytesIO(jpeg(0)[:1500]))], side=32)
