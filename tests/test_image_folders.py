"""A folder of images is listed by us: all files, whatever they are called, in disjoint splits; what is left is said."""

import errno
import json
import os

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_rws.copies import write_corrupted_copy
from hf_rws.data import as_images, load_split, load_splits
from hf_rws.data.folders import _link_target, _splits, list_files
from hf_rws.data.sources import check_disjoint, open_dataset
from hf_rws.errors import AccessError, FormatError, NotFoundError, RWSError, RWSWarning
from tests.helpers import datasets_cache, picture, toy_dataset, write_parquet  # noqa: F401

pytestmark = pytest.mark.usefixtures("datasets_cache")


def fill(folder, *paths):
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / path, "PNG")
    return folder


def layout(*paths):
    return {name: list(zip(split.files, split.labels, strict=True)) for name, split in _splits(sorted(paths)).items()}


# --- what is a split, and what a class ---


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["a.png", "train-1.png", "test.png"], {"train": {None: 3}}),
        (["cat/train.png", "dog/test-1.png"], {"train": {"cat": 1, "dog": 1}}),
        (["train/cat/1.png", "test/cat/1.png", "test/dog/1.png"], {"train": {"cat": 1}, "test": {"cat": 1, "dog": 1}}),
        (["train/1.png", "test/2.png"], {"train": {None: 1}, "test": {None: 1}}),
        (["Training/cat/1.png", "VAL/cat/2.png"], {"train": {"cat": 1}, "validation": {"cat": 1}}),
        (["val/cat/1.png", "valid/cat/2.png"], {"val": {"cat": 1}, "valid": {"cat": 1}}),
        (["bus/1.png", "car/2.png", "train/3.png"], {"train": {"bus": 1, "car": 1, "train": 1}}),
        (["train/1.png", "photo.png"], {"train": {"train": 1, None: 1}}),
        (["train/cat/1.png", "extra/cat/2.png"], {"train": {"cat": 1}, "extra": {"cat": 1}}),
        (["data/train/cat/1.png", "data/test/cat/2.png"], {"train": {"cat": 1}, "test": {"cat": 1}}),
        (["photos/cat/1.png", "photos/dog/2.png"], {"train": {"cat": 1, "dog": 1}}),
        (["train/animals/cat/1.png", "test/animals/dog/1.png"], {"train": {"cat": 1}, "test": {"dog": 1}}),
        (["train/cat/1.png", "train/2.png"], {"train": {"cat": 1, None: 1}}),
        (["train.png/test.png"], {"train": {"train.png": 1}}),
    ],
)
def test_splits_and_classes(paths, splits):
    found = layout(*paths)
    counted = {
        name: {label: [one for _, one in pairs].count(label) for _, label in pairs} for name, pairs in found.items()
    }
    assert counted == splits
    listed = [path for pairs in found.values() for path, _ in pairs]
    assert sorted(listed) == sorted(paths)  # each once


FOLDERS = st.lists(st.sampled_from(["train", "test", "Val", "cat", "dog", "data"]), max_size=4)


@given(st.lists(st.tuples(FOLDERS, st.sampled_from(["1.png", "train.png"])), min_size=1, unique_by=str))
def test_every_image_is_in_one_split_or_beside_the_folders_of_splits(places):
    paths = ["/".join([*folders, name]) for folders, name in places]
    found = layout(*paths)
    listed = [path for pairs in found.values() for path, _ in pairs]
    assert len(listed) == len(set(listed))
    beside = set(paths) - set(listed)
    top = min(path.count("/") for path in paths)
    assert all(path.count("/") == top for path in beside)


NAMES = (
    "photos [2024]",
    "a*b",
    "test_set",
    "train",
    "a::b",
    "a#b",
    "what?",
    ".hidden",
    "{a,b}",
    "C++ (1)",
    "ünï",
    "a%2 b",
)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_folder_is_called(name, tmp_path):
    folder = fill(tmp_path / name / name.lstrip("."), *(f"{name.lstrip('.')}-{number}.PNG" for number in range(3)))
    for place in (folder, folder.parent):
        assert len(as_images(place, side=32)) == 3
    table = tmp_path / "tables" / name
    table.parent.mkdir()
    toy_dataset(tmp_path / "toy", train=8).rename(table)  # `datasets` cannot write to such a place
    assert [len(load_split(str(table), split)) for split in ("train", "test")] == [8, 12]
    assert len(load_splits(str(table), validation=0.25).train) == 6


def test_a_split_that_lacks_a_class_numbers_the_others_as_the_rest_does(tmp_path):
    folder = fill(tmp_path / "pets", "train/ant/1.png", "train/cat/1.png", "train/dog/1.png", "test/dog/1.png")
    assert load_split(str(folder)).classes == ("ant", "cat", "dog")
    assert load_split(str(folder)).labels.tolist() == [2]


def test_one_split_alone(tmp_path):
    folder = str(fill(tmp_path / "pets", *(f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(10))))
    with pytest.raises(
        NotFoundError, match=r"has no test split; it has: train; choose one by test_split, e\.g\. train"
    ):
        load_split(folder)
    assert len(load_split(folder, "train")) == 20
    found = load_splits(folder, test_split="train", validation=0.2)
    parts = [found.train, found.validation, found.test]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert len({image.numpy().tobytes() for part in parts for image in part.images}) == 20


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_split_by_its_folder_and_by_its_usual_name(name, tmp_path):
    folder = fill(tmp_path / "pets", "train/cat/1.png", "val/cat/1.png")
    assert len(load_split(str(folder), name)) == 1


# --- what is left out ---


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ("notes.heic", "1 file of another kind than images is left out: notes.heic"),
        ("train/cat/clip.mp4", r"1 file of another kind than images is left out: train/cat/clip.mp4"),
        ("cover.png", "1 image beside the folders of the splits is left out: cover.png"),
    ],
)
def test_what_is_left_out_is_said(left, message, tmp_path):
    folder = fill(tmp_path / "pets", "train/cat/1.png", "test/cat/1.png", left, ".hidden/x.png", "__MACOSX/1.png")
    (folder / "README.md").write_text("# Pets\n")
    with pytest.warns(RWSWarning, match=message):
        assert len(load_split(str(folder))) == 1


def test_images_in_no_class_folder_are_left_out_where_labels_are_wanted(tmp_path):
    folder = fill(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "train/stray.png")
    with pytest.warns(RWSWarning, match=r"1 image in no class folder is left out: train/stray.png"):
        assert load_split(str(folder), "train").labels.tolist() == [0, 1]
    assert len(as_images(folder, side=32)) == 3


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_names_that_are_not_unicode(tmp_path):
    folder = fill(tmp_path / "photos", "1.png")
    os.link(folder / "1.png", os.fsencode(folder) + b"/\xff.png")
    with pytest.warns(RWSWarning, match=r"1 file with a name that is not Unicode is left out: \\udcff.png"):
        assert len(as_images(folder, side=32)) == 1


def test_links_that_lead_back_end(tmp_path):
    folder = fill(tmp_path / "photos", "a/1.png")
    (folder / "a" / "back").symlink_to(folder)
    assert len(as_images(folder, side=32)) == 1


def test_links_that_lead_out_and_back_end(tmp_path):
    folder = fill(tmp_path / "pets" / "photos", "a/1.png")
    fill(tmp_path / "pets", "other/2.png")
    (folder / "up").symlink_to(tmp_path / "pets")
    assert len(as_images(folder, side=32)) == 1


def test_two_links_to_one_folder_are_both_followed(tmp_path):
    folder = fill(tmp_path / "pets", "cat/1.png")
    for name in ("dog", "ant"):
        (folder / name).symlink_to(folder / "cat")
    assert list_files(folder) == ["ant/1.png", "cat/1.png", "dog/1.png"]


@pytest.mark.parametrize("linked", ["test", "test/cat", "test/cat/1.png"])
def test_a_test_split_of_links_to_training_images_is_refused(linked, tmp_path):
    folder = fill(tmp_path / "pets", *(f"train/cat/{number}.png" for number in range(1, 8)))
    (folder / linked).parent.mkdir(parents=True, exist_ok=True)
    (folder / linked).symlink_to(folder / linked.replace("test", "train"))
    with pytest.raises(FormatError, match=r"'train' and 'test' share \d files? \(test/cat/1.png"):
        load_splits(str(folder), validation=0.25)


def test_where_linked_files_really_are(tmp_path):
    folder = fill(tmp_path / "pets", "cat/1.png", "dog/2.png", "away/3.png")
    (folder / "away").rename(tmp_path / "away")
    (folder / "bird").symlink_to("../away")
    (folder / "cat/near.png").symlink_to("1.png")
    (folder / "cat/up.png").symlink_to("../bird/../pets/dog/2.png")  # "..": of where the link leads
    (folder / "dog/twice.png").symlink_to(folder / "cat/near.png")
    (folder / "dog/gone.png").symlink_to("nowhere.png")
    images = open_dataset(str(folder))
    files = images.files("train")
    assert len(files) == 7
    assert list(images.real_files("train")) == [os.path.realpath(folder / path) for path in files]


@pytest.mark.parametrize(
    ("target", "plain"),
    [
        ("\\\\?\\C:\\a\\1.png", "C:\\a\\1.png"),
        ("\\\\?\\UNC\\host\\a\\1.png", "\\\\host\\a\\1.png"),
        ("../1.png", "../1.png"),
    ],
)
def test_links_of_windows_lead_where_paths_do(target, plain, monkeypatch):
    monkeypatch.setattr(os, "readlink", lambda _: target)
    assert _link_target("link") == plain


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    folder = fill(tmp_path / "pets", "cat/1.png", "dog/1.png")
    scandir = os.scandir

    def refusing(place):
        if os.path.basename(place) == "dog":
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(AccessError, match=r"pets/dog cannot be read: Permission denied"):
        load_split(str(folder), "train")


def test_tables_that_belong_to_no_split_are_said(tmp_path):
    folder = toy_dataset(tmp_path / "toy", train=8)
    (folder / "extra.parquet").write_bytes((folder / "test-00000-of-00001.parquet").read_bytes())
    with pytest.warns(RWSWarning, match=r"1 file is left out, as the names tell no split .*: extra.parquet"):
        assert len(load_split(str(folder))) == 12


def test_splits_that_share_a_file(tmp_path):
    folder = toy_dataset(tmp_path / "toy", train=8)
    files = "".join(f"  - {{split: {split}, path: train-*}}\n" for split in ("train", "test"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
    with pytest.raises(FormatError, match=r"the splits 'train' and 'test' share 1 file \("):
        load_splits(str(folder), validation=0.25)
    assert len(load_split(str(folder))) == 8
    check_disjoint(open_dataset(str(toy_dataset(tmp_path / "other"))), "train", "test", "other")


# --- tables stay tables ---


def test_metadata_beside_images_are_read(tmp_path):
    folder = fill(tmp_path / "pets", "1.png", "2.png")
    rows = [{"file_name": "1.png", "label": "cat"}, {"file_name": "2.png", "label": "dog"}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_split(str(folder), "train")
    assert (found.classes, found.labels.tolist()) == (("cat", "dog"), [0, 1])


def test_a_picture_beside_tables(tmp_path):
    folder = fill(toy_dataset(tmp_path / "toy", train=8), "preview.png")
    assert len(load_split(str(folder))) == 12


def test_another_image_in_the_place_of_one_is_read_anew(tmp_path):
    folder = fill(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png")
    before = load_split(str(folder), "train").images.clone()
    picture(9).save(folder / "train/cat/1.png")
    os.utime(folder / "train/cat/1.png", ns=(1, 1))
    assert (load_split(str(folder), "train").images != before).flatten(1).any(1).tolist() == [True, False]


def test_a_copy_keeps_the_splits_and_classes_of_a_folder(tmp_path):
    folder = fill(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "test/dog/[1].png")
    copy = datasets.load_dataset(str(write_corrupted_copy(str(folder), tmp_path / "copy", "fog")))
    assert {name: split["label"][:] for name, split in copy.items()} == {"train": [0, 1], "test": [1]}
    assert copy["test"].features["label"].names == ["cat", "dog"]


def test_an_empty_folder_and_one_of_other_files(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.heic").touch()
    for name in ("empty", "texts"):
        for read in (load_split, lambda folder: as_images(folder, side=32)):
            with pytest.raises(RWSError, match=name):
                read(str(tmp_path / name))


# --- only what is used ---


def built(cache):
    return sorted(path.name for path in cache.rglob("*.arrow"))


def test_only_the_split_that_is_used_is_built(tmp_path, datasets_cache):  # noqa: F811
    folder = str(toy_dataset(tmp_path / "toy", train=8))
    load_split(folder)
    assert built(datasets_cache) == ["toy-test.arrow"]
    load_splits(folder, validation=0.25)
    assert built(datasets_cache) == ["toy-test.arrow", "toy-train.arrow"]


def test_what_was_built_as_a_whole_is_used(tmp_path, datasets_cache):  # noqa: F811
    folder = str(toy_dataset(tmp_path / "toy", train=8))
    whole = datasets.load_dataset(folder)
    before = built(datasets_cache)
    assert len(load_split(folder)) == len(whole["test"])
    assert built(datasets_cache) == before


def test_a_broken_split_does_not_matter_to_another(tmp_path):
    folder = write_parquet(
        tmp_path / "half",
        datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
        test={"image": [picture(0)], "label": [0]},
    )
    (folder / "train-00000-of-00001.parquet").write_bytes(b"cut off")
    assert len(load_split(str(folder))) == 1
    with pytest.raises(FormatError, match="could not be read"):
        load_split(str(folder), "train")
