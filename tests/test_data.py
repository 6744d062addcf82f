import resource

import datasets
import numpy as np
import pytest
import torch

from hf_rws.data.datasets import load_split, load_splits
from hf_rws.data.sets import ImageSet, Splits, parse_classes
from hf_rws.errors import AccessError, FormatError, NotFoundError, OptionError
from tests.helpers import (
    CLASSES,
    datasets_cache,  # noqa: F401
    image_set,
    picture,
    pixels,
    toy_dataset,
    write_parquet,
)

pytestmark = pytest.mark.usefixtures("datasets_cache")

IMAGE = datasets.Image()


def _names(count):
    return datasets.ClassLabel(names=[f"class{number}" for number in range(count)])


def _rows(images: ImageSet) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images.images)


def _tiny(folder, label=None, images=None, labels=(0, 1, 0, 1), **splits):
    """A dataset of four small images in the splits train and test, with whatever is odd about it."""
    features = datasets.Features({"image": IMAGE, "label": label or _names(2)})
    images = images or [picture(seed) for seed in range(4)]
    content = {"image": images, "label": list(labels)}
    return str(write_parquet(folder, features, **{"train": content, "test": content, **splits}))


# --- what is loaded ---


def test_parquet_folder(tmp_path):
    folder = toy_dataset(tmp_path / "toy", train=40, test_images=12)
    found = load_splits(str(folder))
    assert [len(part) for part in (found.train, found.validation, found.test)] == [36, 4, 12]
    assert torch.equal(found.test.images, pixels(12, seed=1))
    assert torch.equal(found.test.labels, torch.arange(12) % 4)
    everything = found.train.images.tolist() + found.validation.images.tolist()
    assert sorted(everything) == sorted(pixels(40, seed=0).tolist())
    for part in (found.train, found.validation, found.test):
        assert part.images.dtype == torch.uint8
        assert (part.labels.dtype, part.classes, part.name) == (torch.int64, CLASSES, "toy")


def test_image_folder(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                picture(100 * number + index).save(folder / f"{index}.png")
    found = load_splits(str(tmp_path / "pets"), validation=0.25)
    assert found.train.classes == ("cat", "dog")
    assert [len(part) for part in (found.train, found.validation, found.test)] == [6, 2, 4]
    for image, label in zip(found.test.images, found.test.labels, strict=True):
        sources = [np.asarray(picture(100 * int(label) + index)).transpose(2, 0, 1) for index in range(2)]
        assert any(np.array_equal(image, source) for source in sources)


@pytest.mark.parametrize("name", ["test", "validation", "valid", "val"])
def test_what_stands_for_the_test_split(name, tmp_path):
    folder = str(toy_dataset(tmp_path / "toy", test=name, train=8))
    assert torch.equal(load_splits(folder, validation=0.5).test.images, pixels(12, seed=1))
    assert torch.equal(load_split(folder).images, pixels(12, seed=1))
    assert torch.equal(load_split(folder, "train").images, pixels(8, seed=0))


def test_the_test_split_can_be_named(tmp_path):
    folder = toy_dataset(tmp_path / "toy", train=8)
    toy_dataset(folder, test="validation", train=8, test_images=5)
    assert len(load_splits(str(folder)).test) == 12
    assert len(load_splits(str(folder), test_split="validation").test) == 5


def test_one_of_several_configurations(tmp_path):
    folder = tmp_path / "two"
    readme = "---\nconfigs:\n"
    for name, count in (("small", 4), ("large", 8)):
        toy_dataset(folder / name, train=8, test_images=count)
        files = "".join(f"  - {{split: {split}, path: {name}/{split}-*}}\n" for split in ("train", "test"))
        readme += f"- config_name: {name}\n  data_files:\n{files}"
    (folder / "README.md").write_text(readme + "---\n")
    assert [len(load_split(str(folder), config=name)) for name in ("small", "large")] == [4, 8]
    assert len(load_splits(str(folder), config="large", validation=0.5).test) == 8
    for config in (None, "medium"):
        with pytest.raises(OptionError, match=r"choose a configuration by config= .*'large'"):
            load_split(str(folder), config=config)


def test_columns_are_found_by_their_features(tmp_path):
    """CIFAR-100's columns: of two labels the finer one is taken."""
    features = datasets.Features({"coarse_label": _names(2), "img": IMAGE, "fine_label": _names(4)})
    content = {"img": [picture(seed) for seed in range(4)], "fine_label": [0, 1, 2, 3], "coarse_label": [0, 0, 1, 1]}
    folder = str(write_parquet(tmp_path / "two", features, train=content, test=content))
    assert load_split(folder).labels.tolist() == [0, 1, 2, 3]
    coarse = load_split(folder, label_column="coarse_label")
    assert (coarse.labels.tolist(), len(coarse.classes)) == ([0, 0, 1, 1], 2)


def test_image_column_can_be_named(tmp_path):
    features = datasets.Features({"image": IMAGE, "mask": IMAGE, "label": _names(2)})
    content = {"image": [picture(0)], "mask": [picture(9)], "label": [1]}
    folder = str(write_parquet(tmp_path / "two", features, test=content))
    with pytest.raises(OptionError, match="several image columns: image, mask; choose by image_column"):
        load_split(folder)
    assert np.array_equal(load_split(folder, image_column="mask").images[0], np.asarray(picture(9)).transpose(2, 0, 1))


def test_plain_numbers_as_labels(tmp_path):
    """Classes without names are counted over both splits."""
    rest = {"image": [picture(9)] * 2, "label": [0, 1]}
    folder = _tiny(tmp_path / "numbers", datasets.Value("int32"), labels=(0, 1, 2, 2), test=rest)
    found = load_splits(folder, validation=0.25)
    assert found.test.classes == found.train.classes == ("0", "1", "2")


def test_grey_and_transparent_images_become_rgb(tmp_path):
    images = [picture(0, mode="L"), picture(1, mode="RGBA"), picture(2).convert("P"), picture(3)]
    found = load_split(_tiny(tmp_path / "modes", images=images)).images
    assert found.shape == (4, 3, 32, 32)
    for image, source in zip(found, images, strict=True):
        assert np.array_equal(image, np.asarray(source.convert("RGB")).transpose(2, 0, 1))


def test_image_size_crops_the_centre_of_the_shorter_side(tmp_path):
    images = [picture(0, 64, 48), picture(1, 40, 60), picture(2, 32, 32), picture(3, 20, 90)]
    folder = _tiny(tmp_path / "sizes", images=images)
    with pytest.raises(FormatError, match=r"image 1 is 40x60, the first is 64x48; give an image_size"):
        load_split(folder)
    found = load_split(folder, image_size=32).images
    assert found.shape == (4, 3, 32, 32)
    assert np.array_equal(found[2], np.asarray(images[2]).transpose(2, 0, 1))  # nothing to do, nothing done
    expected = np.asarray(images[1].resize((32, 48), 3).crop((0, 8, 32, 40))).transpose(2, 0, 1)
    assert np.array_equal(found[1], expected)


# --- the validation split ---


@pytest.mark.parametrize("validation", [0.1, 0.5])
def test_validation_is_drawn_from_the_training_split_by_its_seed(validation, tmp_path):
    folder = str(toy_dataset(tmp_path / "toy", train=40))
    one, again, other = (load_splits(folder, validation=validation, split_seed=seed) for seed in (0, 0, 1))
    assert len(one.validation) == 40 * validation
    assert not set(_rows(one.train)) & set(_rows(one.validation))
    assert sorted(_rows(one.train) + _rows(one.validation)) == _rows(load_split(folder, "train"))
    assert torch.equal(one.validation.images, again.validation.images)
    assert torch.equal(one.train.images, again.train.images)
    assert _rows(one.validation) != _rows(other.validation)
    assert torch.equal(one.test.images, other.test.images)


def test_limit_changes_the_training_images_only(tmp_path):
    folder = str(toy_dataset(tmp_path / "toy", train=40))
    whole, limited = (load_splits(folder, limit=limit) for limit in (None, 7))
    kept = (limited.train.images[:, None] == whole.train.images[None]).flatten(2).all(2)
    assert len(limited.train) == 7
    assert kept.any(1).all()  # some of the whole, in its order
    assert kept.int().argmax(1).diff().gt(0).all()
    assert torch.equal(limited.validation.images, whole.validation.images)
    assert len(limited.test) == 12


def test_classes_are_kept_and_renumbered(tmp_path):
    folder = str(toy_dataset(tmp_path / "toy", train=40))
    found = load_splits(folder, classes="3,0-1")
    assert found.train.classes == ("door", "apple", "bird")
    assert found.test.labels.tolist() == [1, 2, 0] * 3
    assert torch.equal(found.test.images, pixels(12, seed=1)[torch.arange(12) % 4 != 2])
    assert len(found.train) + len(found.validation) == 30
    assert load_split(folder, classes=[3, 0, 1]).labels.tolist() == [1, 2, 0] * 3


@pytest.mark.parametrize(
    ("text", "expected"), [("0-49,60", (*range(50), 60)), (" 3 , 1 ", (3, 1)), ([2, 0], (2, 0)), ("7", (7,))]
)
def test_parse_classes(text, expected):
    assert parse_classes(text, [f"class{number}" for number in range(100)]) == expected


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("a-b", "must look like '0-49,60'"),
        ("", "must look like"),
        ("-1", "must look like"),
        ("3-1", "at least one"),
        ("1,1", "each class once"),
        ([], "at least one"),
        ("0-4", r"beyond the 4 classes \(0 to 3\)"),
        ([-1], "beyond the 4 classes"),
        ("0-9999999999", "beyond the 4 classes"),
        ("9-99999999999", "beyond the 4 classes"),
        (f"0-{'9' * 5000}", "must look like"),
        (3, "a list of numbers or names, got 3"),
        ([0.5], "a list of numbers"),
        (["a"], "no class 'a'; there are: w, x, y, z"),
    ],
)
def test_parse_classes_refuses(classes, message):
    with pytest.raises(OptionError, match=message):
        parse_classes(classes, "wxyz")


# --- the cache of decoded images ---


def test_decoded_once(tmp_path, monkeypatch):
    folder = str(toy_dataset(tmp_path / "toy"))
    first = load_splits(folder, cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    monkeypatch.setattr("hf_rws.data.decoding.decoded_array", None)
    second = load_splits(folder, cache_dir=tmp_path / "cache", split_seed=0)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.images, second.test.images)
    with pytest.raises(TypeError):  # another size is another file
        load_splits(folder, cache_dir=tmp_path / "cache", image_size=40)


def test_the_cache_is_never_written_through(tmp_path):
    folder = str(toy_dataset(tmp_path / "toy"))
    found = load_split(folder, cache_dir=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    before = file.read_bytes()
    found.images.zero_()
    assert file.read_bytes() == before
    assert torch.equal(load_split(folder, cache_dir=tmp_path / "cache").images, pixels(12, seed=1))


def test_a_failed_decoding_leaves_nothing(tmp_path):
    folder = _tiny(tmp_path / "sizes", images=[picture(0), picture(1, 40, 40)] * 2)
    with pytest.raises(FormatError):
        load_split(folder, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"validation": 0}, OptionError, "share between 0 and 1, got 0"),
        ({"validation": 1.5}, OptionError, "share between 0 and 1, got 1.5"),
        ({"limit": 0}, OptionError, "limit must be at least 1, got 0"),
        ({"image_size": 0}, OptionError, "image_size must be at least 1, got 0"),
        ({"test_split": "extra"}, NotFoundError, "has no test split; it has: train, test"),
        ({"image_column": "photo"}, NotFoundError, "no column 'photo'; it has: img, label"),
        ({"label_column": "kind"}, NotFoundError, "no column 'kind'; it has: img, label"),
        ({"classes": "0-9"}, OptionError, "beyond the 4 classes"),
        ({"validation": 0.99}, OptionError, "8 training images: too few for a validation split"),
    ],
)
def test_options_that_make_no_sense(options, error, message, tmp_path):
    folder = str(toy_dataset(tmp_path / "toy", train=8, test_images=4))
    with pytest.raises(error, match=message):
        load_splits(folder, **options)


def test_no_test_images_of_the_classes(tmp_path):
    folder = str(toy_dataset(tmp_path / "toy", train=8, test_images=2))
    with pytest.raises(OptionError, match="no test images are left of the classes 3"):
        load_splits(folder, classes="3")


def test_a_dataset_that_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"empty'.* could not be loaded from the folder"):
        load_splits(str(tmp_path / "empty"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotFoundError, match="there is no such folder, and it is no Hub id"):
        load_splits(str(tmp_path / "gone"))
    with pytest.raises(NotFoundError, match=r"nobody/nothing'.* could not be loaded from the Hub"):
        load_splits("nobody/nothing")


def test_no_training_split(tmp_path):
    features = datasets.Features({"image": IMAGE, "label": _names(2)})
    folder = write_parquet(tmp_path / "half", features, test={"image": [picture(0)], "label": [0]})
    with pytest.raises(NotFoundError, match="has no training split; it has: test"):
        load_splits(str(folder))


def test_no_images_and_no_labels(tmp_path):
    texts = write_parquet(
        tmp_path / "texts", datasets.Features({"text": datasets.Value("string")}), test={"text": ["a"]}
    )
    with pytest.raises(OptionError, match="no image column; its columns are: text"):
        load_split(str(texts))
    unlabelled = write_parquet(tmp_path / "bare", datasets.Features({"image": IMAGE}), test={"image": [picture(0)]})
    with pytest.raises(OptionError, match="no class label among image; name one by label_column"):
        load_split(str(unlabelled))


@pytest.mark.parametrize(
    ("label", "labels", "message"),
    [
        (None, (0, -1, 1, 0), "leaves images without a label; choose another split by test_split"),
        (None, (0, None, 1, 0), "leaves images without a label"),
        (datasets.Value("float32"), (0.0, 0.5, 1.0, 0.0), "does not hold class numbers"),
        (datasets.Value("int64"), (0, 2**40, 1, 0), "'test' holds the number 1099511627776; more than 1,000,000"),
    ],
)
def test_labels_that_are_none(label, labels, message, tmp_path):
    folder = _tiny(tmp_path / "labels", label, labels=labels)
    with pytest.raises(FormatError, match=message):
        load_split(folder)


def test_images_that_cannot_be_decoded(tmp_path):
    broken = {"bytes": b"not an image", "path": None}
    with pytest.raises(
        FormatError, match=r"broken test: image 1 cannot be decoded: .*; leave such images out by skip_broken=True"
    ):
        load_split(_tiny(tmp_path / "broken", images=[picture(0), broken, picture(1), picture(2)]))
    with pytest.raises(FormatError, match=r"missing test: image 1 is missing"):
        load_split(_tiny(tmp_path / "missing", images=[picture(0), None, picture(1), picture(2)]))


@pytest.mark.parametrize("place", ["a file", "below a file", "a full disk"])
def test_a_place_that_cannot_keep_decoded_images(place, tmp_path):
    folder = toy_dataset(tmp_path / "toy")
    where = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "x", "a full disk": tmp_path / "cache"}
    (tmp_path / "file").touch()
    size = resource.getrlimit(resource.RLIMIT_FSIZE)
    load_split(str(folder), cache_dir=tmp_path / "room")  # what datasets writes is written
    try:
        if place == "a full disk":  # to a process, a limit on the size of files looks much the same
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, size[1]))
        with pytest.raises(
            AccessError, match=r"cannot keep the decoded images of .*toy test in .*: [A-Z].*HF_DATASETS_CACHE"
        ):
            load_split(str(folder), cache_dir=where[place])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, size)
    assert not list(tmp_path.glob("cache/*"))


def test_a_damaged_file_of_decoded_images(tmp_path):
    folder = str(toy_dataset(tmp_path / "toy"))
    load_split(folder, cache_dir=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(FormatError, match=rf"{kept.name} are damaged .*delete that file"):
        load_split(folder, cache_dir=tmp_path / "cache")


# --- ImageSet ---


def test_image_sets_check_their_parts():
    with pytest.raises(OptionError, match=r"must be uint8 of shape \(N, 3, H, W\), got torch.float32"):
        ImageSet(pixels(2).float(), torch.zeros(2), CLASSES)
    with pytest.raises(OptionError, match="2 images but labels of shape"):
        ImageSet(pixels(2), torch.zeros(3), CLASSES)
    with pytest.raises(OptionError, match="labels must be class numbers, integers"):
        ImageSet(pixels(2), torch.zeros(2), CLASSES)


def test_subsets_and_classes():
    images = image_set(8)
    assert images.subset(slice(2, 4)).labels.tolist() == [2, 3]
    assert torch.equal(images.subset(torch.tensor([5, 0])).images, images.images[[5, 0]])
    assert len(Splits(images, images, images).test) == 8


def test_mean_and_deviation_of_the_channels():
    images = image_set(1200)  # more than are taken at a time
    values = images.images.double() / 255
    mean, std = images.mean_std()
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert std == pytest.approx(values.std((0, 2, 3), unbiased=False).tolist(), abs=1e-4)


# --- labels and classes by name ---


def test_text_as_labels(tmp_path):
    rest = {"image": [picture(seed) for seed in range(3)], "label": ["dog", "emu", "dog"]}
    folder = _tiny(tmp_path / "texts", datasets.Value("string"), labels=("cat", "dog", "ant", "cat"), test=rest)
    found = load_splits(folder, validation=0.25)
    assert found.train.classes == found.test.classes == ("ant", "cat", "dog", "emu")
    assert found.test.labels.tolist() == [2, 3, 2]
    with pytest.raises(FormatError, match="leaves images without a label"):
        load_split(_tiny(tmp_path / "gaps", datasets.Value("string"), labels=("cat", None, "", "dog")))


def test_truth_values_as_labels(tmp_path):
    folder = _tiny(tmp_path / "truths", datasets.Value("bool"), labels=(True, False, True, True))
    assert load_split(folder).classes == ("False", "True")
    assert load_split(folder).labels.tolist() == [1, 0, 1, 1]


def test_splits_that_order_their_classes_in_their_own_way(tmp_path):
    other = datasets.Features({"image": IMAGE, "label": datasets.ClassLabel(names=["dog", "cat"])})
    content = {"image": [picture(seed) for seed in range(4)], "label": [0, 1, 1, 0]}
    folder = _tiny(tmp_path / "two", datasets.ClassLabel(names=["cat", "dog", "emu"]), labels=(0, 1, 2, 0))
    write_parquet(tmp_path / "two", other, test=content)
    found = load_splits(folder, validation=0.25)
    assert found.train.classes == found.test.classes == ("cat", "dog", "emu")
    assert found.test.labels.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("classes", ["bird,car", ["bird", "car"], "1,2", "1-2", [1, "car"]])
def test_classes_by_name(classes, tmp_path):
    folder = str(toy_dataset(tmp_path / "toy", train=40))
    for found in (load_split(folder, classes=classes), load_splits(folder, classes=classes).test):
        assert found.classes == ("bird", "car")
        assert found.labels.tolist() == [0, 1] * 3


NAMES = ["tench, Tinca tinca", "tench", "crane", "3", "0-1", "Tinca tinca"]


@pytest.mark.parametrize(
    ("classes", "names", "expected"),
    [
        ("tench, Tinca tinca,crane", NAMES, (0, 2)),
        ("tench,crane", NAMES, (1, 2)),
        ("Tinca tinca", NAMES, (5,)),
        ("3,0-1,0", NAMES, (3, 4, 0)),
        ("10,2", ["1", "10", "2"], (1, 2)),  # where all names are numbers, numbers are names
        ("1-2", ["1", "10", "2"], (0, 2)),
        ([2], ["1", "10", "2"], (2,)),
    ],
)
def test_names_with_commas_and_names_that_are_numbers(classes, names, expected):
    assert parse_classes(classes, names) == expected


def test_a_class_that_is_not_there_is_named(tmp_path):
    folder = str(toy_dataset(tmp_path / "toy", train=8, test_images=2))
    for classes in ("bird,cot", ["bird", "cot"]):
        with pytest.raises(OptionError, match=r"no class 'cot'; there are: apple, bird, car, door"):
            load_split(folder, classes=classes)
    with pytest.raises(OptionError, match="no images are left of the classes door"):
        load_split(folder, classes="door")
