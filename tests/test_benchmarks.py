import numpy as np
import pytest
import torch
from PIL import Image

from hf_rws import evaluate
from hf_rws.data import benchmarks
from hf_rws.data.benchmarks import is_benchmark, open_benchmark
from hf_rws.errors import FormatError, NotFoundError, OptionError
from tests.helpers import datasets_cache, model, picture, pixels, toy_dataset  # noqa: F401

WNIDS = ("n01", "n02", "n10")


@pytest.fixture
def arrays(tmp_path):
    """CIFAR-10-C in small: two corruptions, 5 x 8 images, 4 classes."""
    return write_arrays(tmp_path / "CIFAR-10-C")


def write_arrays(folder, count=8):
    folder.mkdir()
    for seed, name in enumerate(("fog", "contrast")):
        np.save(folder / f"{name}.npy", pixels(5 * count, seed).permute(0, 2, 3, 1).numpy())
    np.save(folder / "labels.npy", np.tile(np.arange(count) % 4, 5).astype(np.uint8))
    return folder


def write_folders(folder, group="", corruptions=("fog", "contrast"), severities=(1, 5), per_class=2, size=(40, 36)):
    """ImageNet-C in small; the pictures are numbered through, and say so by their seed."""
    number = 0
    for corruption in corruptions:
        for severity in severities:
            for wnid in WNIDS:
                place = folder / group / corruption / str(severity) / wnid
                place.mkdir(parents=True)
                for index in range(per_class):
                    picture(number, *size).save(place / f"val_{index}.JPEG")
                    number += 1
    return folder


@pytest.fixture(params=["", "weather"])
def folders(tmp_path, request):
    return write_folders(tmp_path / "ImageNet-C", request.param)


# --- what is read ---


def test_arrays_are_five_severities_one_after_the_other(arrays):
    found = open_benchmark(arrays)
    assert (found.name, found.corruptions, found.classes) == ("CIFAR-10-C", ("fog", "contrast"), tuple("0123"))
    for seed, name in enumerate(found.corruptions):
        for severity in range(1, 6):
            images = found.load(name, severity)
            assert torch.equal(images.images, pixels(40, seed)[8 * severity - 8 : 8 * severity])
            assert images.labels.tolist() == [0, 1, 2, 3] * 2
            assert (images.labels.dtype, images.classes, images.name) == (torch.int64, found.classes, found.name)


def test_folders_are_classes_in_the_order_of_their_names(folders):
    found = open_benchmark(folders)
    assert (found.name, found.corruptions, found.classes) == ("ImageNet-C", ("fog", "contrast"), WNIDS)
    images = found.load("fog", 5)
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2]  # in turns, so that a limit meets all classes
    assert images.images.shape == (6, 3, 36, 40)
    for image, path in zip(
        images.images, (folders.rglob(f"fog/5/{n}/val_{i}.JPEG") for i in (0, 1) for n in WNIDS), strict=True
    ):
        assert np.array_equal(image.permute(1, 2, 0), np.asarray(Image.open(next(path))))


def test_classes_that_differ_in_size_are_all_read(folders):
    for path in folders.rglob("n02/val_1.JPEG"):
        path.unlink()
    found = open_benchmark(folders)
    assert found.load("fog", 1).labels.tolist() == [0, 1, 2, 0, 2]
    assert found.count("fog", 1) == 5


@pytest.mark.parametrize("layout", ["arrays", "folders"])
@pytest.mark.parametrize("batch_size", [1, 4, 500])
def test_batches_are_the_whole_in_parts(layout, batch_size, tmp_path):
    folder = (write_arrays if layout == "arrays" else write_folders)(tmp_path / "some-C")
    found = open_benchmark(folder, image_size=20)
    whole = found.load("contrast", 5)
    assert whole.images.shape[1:] == (3, 20, 20)
    for limit in (None, 1, 5):
        parts = list(found.batches("contrast", 5, batch_size=batch_size, limit=limit))
        assert all(len(part) == batch_size for part in parts[:-1])
        for name in ("images", "labels"):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(joined, getattr(whole, name)[:limit])


def test_arrays_are_not_read_whole(arrays, monkeypatch):
    """What is not asked for may even be missing from the disk: only the file's length is looked at."""
    opened = []
    real = benchmarks._map_array
    monkeypatch.setattr(benchmarks, "_map_array", lambda path: opened.append(real(path)) or opened[-1])
    next(open_benchmark(arrays).batches("fog", 3, batch_size=2))
    assert all(isinstance(array, np.memmap) for array in opened)
    assert len(opened) == 2  # labels and fog, not contrast


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_batch_is_what_the_network_is_asked_about_where_it_is(device, tmp_path, monkeypatch):
    decoded, original = [], benchmarks._decoded
    monkeypatch.setattr(benchmarks, "_decoded", lambda path, *args: decoded.append(path) or original(path, *args))
    monkeypatch.setattr(benchmarks, "by_area", lambda _, place: 2 if place.type == "cpu" else 4)
    found = open_benchmark(write_folders(tmp_path / "some-C"))
    parts = list(found.batches("fog", 5, device=torch.device(device)))
    assert [len(part) for part in parts] == ([2, 2, 2] if device == "cpu" else [4, 2])
    assert len(decoded) == len(set(decoded)) == 6


# --- classes of the model ---


@pytest.mark.parametrize(
    ("classes", "names", "labels"),
    [
        ("2,0", ("n10", "n01"), [1, 0, 1, 0]),
        ([1], ("n02",), [0, 0]),
        (["n10", "n01"], ("n10", "n01"), [1, 0, 1, 0]),
        ("n10, n01", ("n10", "n01"), [1, 0, 1, 0]),
        (("n00", "n02", "n01", "n10", "n11"), ("n00", "n02", "n01", "n10", "n11"), [2, 1, 3, 2, 1, 3]),
    ],
)
def test_labels_are_positions_among_the_models_classes(folders, classes, names, labels):
    images = open_benchmark(folders, classes=classes).load("fog", 1)
    assert (images.classes, images.labels.tolist()) == (names, labels)
    every = open_benchmark(folders).load("fog", 1)
    kept = [i for i, label in enumerate(every.labels) if WNIDS[label] in names]
    assert torch.equal(images.images, every.images[kept])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", "dog"], r"ImageNet-C has none of the classes cat, dog; it has: n01, n02, n10"),
        ("0-3", r"go beyond the 3 classes"),
        (["n01", "n01"], "name each class once"),
        ([], "at least one"),
    ],
)
def test_classes_that_make_no_sense(folders, classes, message):
    with pytest.raises(OptionError, match=message):
        open_benchmark(folders, classes=classes)


def test_names_of_classes_that_hold_commas(folders):
    for place in list(folders.rglob("n01")):
        place.rename(place.with_name("crane, bird"))
    benchmark = open_benchmark(folders, classes="crane, bird,n10,another")
    assert benchmark.classes == ("crane, bird", "n10", "another")


# --- what is refused ---


def test_what_is_a_benchmark(arrays, folders, tmp_path):
    assert is_benchmark(arrays)
    assert is_benchmark(str(folders))
    (arrays / "labels.npy").unlink()
    assert is_benchmark(arrays)  # so that opening it says what is missing
    pets = tmp_path / "pets" / "train" / "1"
    pets.mkdir(parents=True)
    picture(0).save(pets / "0.png")
    for other in (tmp_path / "pets", tmp_path / "nothing", pets / "0.png", "user/fog"):
        assert not is_benchmark(other)


def test_folders_that_hold_no_benchmark(tmp_path):
    with pytest.raises(NotFoundError, match="there is no folder"):
        open_benchmark(tmp_path / "nothing")
    with pytest.raises(NotFoundError, match=r"neither <corruption>.npy nor <corruption>/<severity>/<class>/"):
        open_benchmark(tmp_path)
    with pytest.raises(OptionError, match="image_size must be at least 1, got 0"):
        open_benchmark(tmp_path, image_size=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(40, dtype=np.float32), "must hold integers of shape"),
        (np.zeros((40, 1), dtype=np.uint8), "must hold integers of shape"),
        (np.zeros(41, dtype=np.uint8), "class number for each image of 5 severities; it holds 41 numbers"),
        (np.full(40, -1), "from -1 on"),
        (np.full(40, 2**40), "labels.npy holds the number 1099511627776; more than 1,000,000 classes"),
        (np.zeros(0, dtype=np.uint8), "must hold integers of shape"),
        (b"", "labels.npy cannot be read"),
        (None, "labels.npy is missing: unpack the whole benchmark"),
    ],
)
def test_broken_labels(arrays, labels, message):
    path = arrays / "labels.npy"
    path.unlink()
    if isinstance(labels, bytes):
        path.write_bytes(labels)
    elif labels is not None:
        np.save(path, labels)
    with pytest.raises((FormatError, NotFoundError), match=message):
        open_benchmark(arrays)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((40, 32, 32, 3), dtype=np.float32), r"must be uint8 of shape \(N, H, W, 3\), not float32"),
        (
            np.zeros((40, 3, 32, 32), dtype=np.uint8),
            r"must be uint8 of shape \(N, H, W, 3\), not uint8 \(40, 3, 32, 32",
        ),
        (np.zeros((8, 32, 32, 3), dtype=np.uint8), "fog.npy holds 8 images, labels.npy 40 labels"),
        (np.array([{}] * 40, dtype=object), "fog.npy cannot be read"),
        (b"not an array", "fog.npy cannot be read"),
        (None, "fog.npy cannot be read, it may be cut off"),
    ],
)
def test_broken_arrays(arrays, content, message):
    path = arrays / "fog.npy"
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    found = open_benchmark(arrays)
    with pytest.raises(FormatError, match=message):
        found.count("fog", 5)
    assert found.count("contrast", 5) == 8


def test_broken_folders(tmp_path):
    folder = write_folders(tmp_path / "some-C")
    found = open_benchmark(folder)
    with pytest.raises(NotFoundError, match=r"fog.3 is missing; of fog there are the severities 1, 5"):
        found.count("fog", 3)
    with pytest.raises(OptionError, match=r"some-C has no corruption 'snow'; it has: fog, contrast"):
        found.count("snow", 5)
    with pytest.raises(OptionError, match="severity must be one of"):
        found.count("fog", 6)
    (folder / "fog" / "5" / "n02" / "val_1.JPEG").write_bytes(b"not an image")
    with pytest.raises(FormatError, match=r"fog.5.n02.val_1.JPEG cannot be decoded"):
        found.load("fog", 5)
    picture(0, 50, 36).save(folder / "fog" / "5" / "n02" / "val_1.JPEG")
    with pytest.raises(FormatError, match=r"of fog, severity 5, differ in size \(40x36, 50x36\); give an image_size"):
        found.load("fog", 5)
    for path in (folder / "contrast" / "5" / "n02").iterdir():
        path.unlink()
    with pytest.raises(FormatError, match=r"n02 holds no images"):
        found.count("contrast", 5)
    (folder / "contrast" / "5" / "n02").rmdir()
    with pytest.raises(FormatError, match=r"contrast.5 does not have the class folders of the others: n02"):
        found.count("contrast", 5)


def test_sizes_are_compared_across_batches(tmp_path):
    folder = write_folders(tmp_path / "some-C")
    picture(0, 50, 36).save(folder / "fog" / "5" / "n10" / "val_1.JPEG")
    with pytest.raises(FormatError, match="differ in size"):
        list(open_benchmark(folder).batches("fog", 5, batch_size=1))


def test_the_same_corruption_in_two_groups(tmp_path):
    for group in ("weather", "extra"):
        write_folders(tmp_path / "some-C", group, ["fog"])
    with pytest.raises(FormatError, match="fog is there twice"):
        open_benchmark(tmp_path / "some-C")


# --- evaluation ---


def test_evaluate_takes_a_benchmark(arrays):
    created = model()
    found = evaluate(created, arrays, severities=[1, 5], batch_size=3)
    assert [(row.corruption, row.severity, row.n) for row in found.rows] == [
        ("fog", 1, 8), ("fog", 5, 8), ("contrast", 1, 8), ("contrast", 5, 8),
    ]  # fmt: skip
    benchmark = open_benchmark(arrays)
    for row in found.rows:
        (alone,) = evaluate(created, benchmark.load(row.corruption, row.severity), [], clean=True).rows
        assert row.accuracy == alone.accuracy
    part = evaluate(created, benchmark, "fog", limit=5)
    assert (part.rows[0].n, part.notes) == (5, ("the first 5 images",))
    assert evaluate(created, benchmark, "fog", limit=8).notes == found.notes == ()
    assert evaluate(created, str(arrays), ["contrast"], severities=[1, 5]).rows == found.rows[2:]


def test_a_benchmark_is_checked_before_the_first_forward_pass(tmp_path):
    folder = write_folders(tmp_path / "some-C")
    (folder / "contrast" / "5" / "n02" / "val_0.JPEG").rename(folder / "moved")
    (folder / "contrast" / "5" / "n02" / "val_1.JPEG").unlink()

    def forward(images):
        raise AssertionError("too early")

    created = model()
    created.forward = forward
    with pytest.raises(FormatError, match="n02 holds no images"):
        evaluate(created, folder)
    with pytest.raises(NotFoundError, match="of fog there are the severities 1, 5"):
        evaluate(created, folder, severities=[2])
    created.num_classes = 2
    with pytest.raises(OptionError, match="has 4 classes, the model knows 2"):
        evaluate(created, write_arrays(tmp_path / "arrays-C"))


def test_c_bar_is_a_benchmark_too(arrays):
    network = model()
    with pytest.raises(OptionError, match="blue_noise_sample"):  # which it is the first to lack
        evaluate(network, arrays, "bar", severities=[1])
    (arrays / "contrast.npy").rename(arrays / "ripple.npy")
    assert [row.corruption for row in evaluate(network, arrays, "bar", severities=[1]).rows] == ["ripple"]
    assert [row.corruption for row in evaluate(network, arrays, severities=[1]).rows] == ["fog", "ripple"]
    (arrays / "fog.npy").unlink()
    assert is_benchmark(arrays)
