import io
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import DatasetCard
from PIL import Image

from hf_rws import cards, corrupt
from hf_rws.cards.copies import copy_card
from hf_rws.copies import copying, shards, write_corrupted_copy
from hf_rws.copies.treatment import Treatment
from hf_rws.data import as_images
from hf_rws.errors import (
    AccessError,
    FormatError,
    IntegrityError,
    MissingExtraError,
    NotFoundError,
    OptionError,
    RWSWarning,
)
from tests.helpers import CLASSES, datasets_cache, picture, pil, pixels, write_parquet  # noqa: F401

pytestmark = pytest.mark.usefixtures("datasets_cache")

FEATURES = datasets.Features(
    {
        "id": datasets.Value("int64"),
        "photo": datasets.Image(),
        "kind": datasets.ClassLabel(names=list(CLASSES)),
        "boxes": datasets.List(datasets.Value("float32")),
        "note": datasets.Value("string"),
    }
)
COUNTS = {"train": 230, "test": 12}  # more than two batches


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A dataset with columns of several kinds."""
    content = {
        split: {
            "id": list(range(count)),
            "photo": [pil(image) for image in pixels(count, seed)],
            "kind": [index % 4 for index in range(count)],
            "boxes": [[0.5] * (index % 3) for index in range(count)],
            "note": [None if index % 5 == 0 else f"note {index}" for index in range(count)],
        }
        for seed, (split, count) in enumerate(COUNTS.items())
    }
    return str(write_parquet(tmp_path_factory.mktemp("sources") / "photos", FEATURES, **content))


def one_split(folder, images, **columns):
    """A dataset of these images in a split called test."""
    features = datasets.Features(
        {"image": datasets.Image(), **{name: feature for name, (feature, _) in columns.items()}}
    )
    content = {"image": images, **{name: values for name, (_, values) in columns.items()}}
    return str(write_parquet(folder, features, test=content))


def images_of(split, column="photo"):
    return torch.from_numpy(np.stack([np.asarray(image) for image in split[column]])).permute(0, 3, 1, 2)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what is written ---


@pytest.mark.parametrize("size", [None, 64])
def test_the_copy_is_the_dataset_with_corrupted_images(size, source, tmp_path):
    folder = write_corrupted_copy(source, tmp_path / "copy", "fog", severity=3, seed=7, images_per_shard=size)
    parts = {"train": 1 if size is None else 4, "test": 1}
    names = {f"data/{s}-{i:05}-of-{n:05}.parquet" for s, n in parts.items() for i in range(n)}
    assert set(files(folder)) == names | {"README.md", "corruption.json"}
    found, original = datasets.load_dataset(str(folder)), datasets.load_dataset(source)
    assert {name: len(split) for name, split in found.items()} == COUNTS
    for seed, (name, split) in enumerate(found.items()):
        assert split.features == original[name].features == FEATURES
        assert torch.equal(images_of(split), corrupt(pixels(COUNTS[name], seed), "fog", 3, seed=7))
        rest = [column for column in FEATURES if column != "photo"]
        assert split.select_columns(rest)[:] == original[name].select_columns(rest)[:]


def test_shards_and_processes_change_nothing(source, tmp_path):
    one = write_corrupted_copy(source, tmp_path / "one", "shot_noise")
    two = write_corrupted_copy(source, tmp_path / "two", "shot_noise", images_per_shard=60, num_proc=2)
    assert len(list((two / "data").iterdir())) == 5
    for split in COUNTS:
        rows = [
            [row for path in sorted((folder / "data").glob(f"{split}-*")) for row in pq.read_table(path).to_pylist()]
            for folder in (one, two)
        ]
        assert rows[0] == rows[1]
        assert len(rows[0]) == COUNTS[split]


def test_large_images_are_treated_a_few_at_a_time(source, tmp_path, monkeypatch):
    whole = write_corrupted_copy(source, tmp_path / "whole", "shot_noise", splits=["test"])
    counts, apply = [], shards.Treatment.apply
    monkeypatch.setattr(shards, "by_area", lambda *_: 5)
    monkeypatch.setattr(shards.Treatment, "apply", lambda self, i, n: counts.append(len(i)) or apply(self, i, n))
    few = write_corrupted_copy(source, tmp_path / "few", "shot_noise", splits=["test"])
    assert counts[-3:] == [5, 5, 2]
    assert files(few / "data") == files(whole / "data")


def test_large_images_after_small_ones_are_treated_a_few_at_a_time(tmp_path, monkeypatch):
    sides = [32] * 7 + [96] * 6 + [32] * 7
    folder = one_split(tmp_path / "mixed", [picture(number, side, side) for number, side in enumerate(sides)])
    whole = write_corrupted_copy(folder, tmp_path / "whole", "shot_noise")
    areas, apply = [], shards.Treatment.apply
    monkeypatch.setattr(shards, "by_area", lambda shape, _: max(1, 2 * 96 * 96 // (shape[0] * shape[1])))
    monkeypatch.setattr(
        shards.Treatment, "apply",
        lambda self, some, first: areas.append(sum(i.width * i.height for i in some)) or apply(self, some, first),
    )  # fmt: skip
    few = write_corrupted_copy(folder, tmp_path / "few", "shot_noise")
    assert max(areas[1:]) <= 3 * 96 * 96  # the first is the trial
    assert files(few / "data") == files(whole / "data")


def test_a_script_without_a_main_guard_is_told_of_it(source, tmp_path, monkeypatch):
    """Each process imports the script, and would begin processes itself."""
    copy = {"images_per_shard": 30, "num_proc": 2}
    script = tmp_path / "script.py"
    script.write_text(
        "from hf_rws.copies import write_corrupted_copy\n"
        f"write_corrupted_copy({str(source)!r}, {str(tmp_path / 'copy')!r}, 'fog', **{copy})"
    )
    main = sys.modules["__main__"]  # as if this process had been started with the script
    monkeypatch.setattr(main, "__file__", str(script), raising=False)
    monkeypatch.setattr(main, "__spec__", None)
    with pytest.raises(OptionError, match=r"^no process could begin: .*__main__"):
        write_corrupted_copy(source, tmp_path / "copy", "fog", **copy)


def test_some_splits_of_a_configuration(source, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(source, folder / "a")
    one_split(folder / "b", [picture(0)])
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: a\n  data_files:\n  - {split: train, path: a/train-*}\n  - {split: test, path: a/test-*}\n"
        "- config_name: b\n  data_files:\n  - {split: test, path: b/test-*}\n---\n"
    )
    copy = write_corrupted_copy(str(folder), tmp_path / "copy", "contrast", config="a", splits=["test"])
    assert {name: len(split) for name, split in datasets.load_dataset(str(copy)).items()} == {"test": 12}
    with pytest.raises(OptionError, match="choose a configuration"):
        write_corrupted_copy(str(folder), tmp_path / "other", "contrast")


def test_images_of_different_sizes_and_modes(tmp_path):
    images = [
        picture(0), picture(1), picture(2, 40, 50), picture(3, 200, 130), picture(4, mode="L"), picture(5, mode="RGBA"),
        picture(6).convert("P"), picture(7),
    ]  # fmt: skip
    source = one_split(tmp_path / "mixed", images)
    for name in ("gaussian_noise", "saturate"):  # of the second, grey images become RGB
        folder = write_corrupted_copy(source, tmp_path / name, name, severity=2)
        for number, image in enumerate(datasets.load_dataset(str(folder))["test"]["image"]):
            grey = number == 4 and name == "gaussian_noise"
            assert image.mode == ("L" if grey else "RGB")
            expected = corrupt(images[number].convert(image.mode), name, 2, index=number)
            assert np.array_equal(image, expected), number


def test_parameters_are_those_named(tmp_path):
    source = one_split(tmp_path / "one", [picture(0)])
    folder = write_corrupted_copy(source, tmp_path / "copy", "contrast", parameters="imagenet")
    (image,) = datasets.load_dataset(str(folder))["test"]["image"]
    assert np.array_equal(image, corrupt(picture(0), "contrast", parameters="imagenet"))
    assert not np.array_equal(image, corrupt(picture(0), "contrast"))


def test_jpeg_as_imagenet_c_was_saved(tmp_path):
    source = one_split(tmp_path / "one", [{"bytes": _png(picture(0)), "path": "val_7.png"}])
    folder = write_corrupted_copy(source, tmp_path / "copy", "fog", jpeg_quality=85)
    stream = io.BytesIO()
    corrupt(picture(0), "fog").save(stream, "JPEG", quality=85, optimize=True)
    (row,) = pq.read_table(folder / "data" / "test-00000-of-00001.parquet").to_pylist()
    assert row == {"image": {"bytes": stream.getvalue(), "path": "val_7.jpg"}}


def _png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_files_beside_a_dataset_are_taken_in(tmp_path):
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
        picture(number).save(tmp_path / "pets" / "train" / name / f"{number}.png")
    folder = write_corrupted_copy(str(tmp_path / "pets"), tmp_path / "copy", "pixelate")
    shutil.rmtree(tmp_path / "pets")
    (split,) = datasets.load_dataset(str(folder)).values()
    assert split.features["label"].names == ["cat", "dog"]
    for number, image in enumerate(split["image"]):
        assert np.array_equal(image, corrupt(picture(number), "pixelate", index=number))
    assert not any(str(tmp_path).encode() in content for content in files(folder).values())


def test_other_image_columns_stay(tmp_path):
    masks = [picture(number, 8, 8, mode="L") for number in range(3)]
    source = one_split(tmp_path / "masks", [picture(n) for n in range(3)], mask=(datasets.Image(), masks))
    with pytest.raises(OptionError, match="several image columns: image, mask; choose by image_column"):
        write_corrupted_copy(source, tmp_path / "copy", "fog")
    folder = write_corrupted_copy(source, tmp_path / "copy", "fog", image_column="image")
    (split,) = datasets.load_dataset(str(folder)).values()
    for number, row in enumerate(split):
        assert np.array_equal(row["mask"], masks[number])
        assert np.array_equal(row["image"], corrupt(picture(number), "fog", index=number))


def test_how_many_images_a_file_holds(tmp_path, monkeypatch):
    def planned(size):
        source = one_split(tmp_path / f"{size}", [picture(0, size, size)])
        splits = datasets.load_dataset(source)
        return copying._images_per_shard(splits, "image", source)

    assert planned(32) == 10_000
    assert planned(224) == 2**28 // (3 * 224 * 224)
    monkeypatch.setattr(copying, "_SHARD_BYTES", 1)
    assert planned(33) == 100


# --- the card ---


def test_the_card_and_the_record(source, tmp_path):
    folder = write_corrupted_copy(source, tmp_path / "photos-fog", "fog", seed=3, jpeg_quality=90)
    record = json.loads((folder / "corruption.json").read_text())
    expected = {"dataset": "photos", "corruption": "fog", "severity": 5, "seed": 3, "parameters": "auto"}
    assert expected.items() <= record.items()
    assert record["splits"] == COUNTS
    assert "source" not in record
    card = (folder / "README.md").read_text()
    metadata = DatasetCard(card).data.to_dict()
    assert metadata["configs"][0]["data_files"] == [{"split": s, "path": f"data/{s}-*"} for s in COUNTS]
    assert {split["name"]: split["num_examples"] for split in metadata["dataset_info"]["splits"]} == COUNTS
    assert "corruption:fog" in metadata["tags"]
    assert not {"license", "source_datasets"} & set(metadata)
    assert "# photos-fog" in card
    assert "--corruption fog --severity 5 --seed 3 --parameters auto --jpeg-quality 90 --split train" in card
    assert str(tmp_path) not in card


def test_the_card_of_a_copy_from_the_hub():
    record = {"dataset": "user/pets", "corruption": "fog", "severity": 5, "seed": 0, "parameters": "cifar"}
    record |= {"splits": {"test": 3}, "jpeg_quality": None, "dataset_config": "small", "versions": {"torch": "2"}}
    splits = datasets.SplitDict()
    splits.add(datasets.SplitInfo("test", num_bytes=9, num_examples=3))
    card = copy_card(record, datasets.DatasetInfo(splits=splits), name="pets-fog", on_hub=True)
    assert DatasetCard(card).data.to_dict()["source_datasets"] == ["user/pets"]
    assert "(https://huggingface.co/datasets/user/pets)" in card
    assert "hf-rws corrupt --dataset user/pets --dataset-config small --corruption fog" in card
    assert 'index=i, parameters="cifar")`.' in card
    assert "PNG, lossless" in card


# --- interruptions ---


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_an_interrupted_copy_goes_on(stop_after, source, tmp_path, monkeypatch):
    asked = {"images_per_shard": 60, "seed": 1}
    whole = write_corrupted_copy(source, tmp_path / "whole" / "copy", "fog", **asked)
    folder = tmp_path / "stopped" / "copy"
    real, written = shards._treated, []

    def treated(table, first, shard):
        if len(written) == stop_after:
            raise KeyboardInterrupt
        written.append(first)
        return real(table, first, shard)

    with monkeypatch.context() as patched:
        patched.setattr(shards, "_treated", treated)
        with pytest.raises(KeyboardInterrupt):
            write_corrupted_copy(source, folder, "fog", **asked)
    assert {path.name for path in folder.iterdir()} == {".unfinished"}
    kept = files(folder / ".unfinished" / "data")
    assert len(kept) == stop_after
    with pytest.raises(FileNotFoundError):
        datasets.load_dataset(str(folder))
    (folder / ".unfinished" / "data" / "train-00002-of-00004.parquet.1.tmp").write_bytes(b"half")  # of a killed process
    started = []
    monkeypatch.setattr(shards, "_treated", lambda *rest: started.append(rest[-1].path.name) or real(*rest))
    assert write_corrupted_copy(source, folder, "fog", **asked) == folder
    assert not set(started) & set(kept)
    assert files(folder) == files(whole)


def test_a_finished_copy_is_left_as_it_is(source, tmp_path, monkeypatch):
    folder = write_corrupted_copy(source, tmp_path / "copy", "contrast", splits=["test"])
    before = files(folder)
    monkeypatch.setattr(copying, "write_all", None)
    assert write_corrupted_copy(source, folder, "contrast", splits=["test"]) == folder
    assert files(folder) == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_options_in_the_same_folder(finished, source, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    with monkeypatch.context() as patched:
        if not finished:
            patched.setattr(copying, "finish", lambda *args, **options: None)
        write_corrupted_copy(source, folder, "contrast", severity=3, splits=["test"])
    before = files(folder)
    for change in ({"severity": 4}, {"seed": 1}, {"splits": None}, {"images_per_shard": 6}, {"jpeg_quality": 85}):
        (name,) = change
        with pytest.raises(OptionError, match=rf"copy holds another copy \({name}: .* then, .* now\)"):
            write_corrupted_copy(source, folder, "contrast", **{"severity": 3, "splits": ["test"], **change})
    with pytest.raises(OptionError, match="corruption: 'contrast' then, 'fog' now"):
        write_corrupted_copy(source, folder, "fog", severity=3, splits=["test"])
    assert files(folder) == before


@pytest.mark.parametrize("finished", [True, False])
def test_another_copy_is_replaced_for_those_who_mean_it(finished, source, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    with monkeypatch.context() as patched:
        if not finished:
            patched.setattr(copying, "finish", lambda *args, **options: None)
        write_corrupted_copy(source, folder, "contrast", splits=["test"])
    write_corrupted_copy(source, folder, "brightness", splits=["test"], overwrite=True)
    whole = write_corrupted_copy(source, tmp_path / "whole" / "copy", "brightness", splits=["test"])
    assert files(folder) == files(whole)


def test_only_a_copy_and_a_readme_are_replaced(source, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "data").mkdir()
    with pytest.raises(OptionError, match="already has data of something else"):
        write_corrupted_copy(source, tmp_path, "contrast", splits=["test"], overwrite=True)
    (tmp_path / "data").rmdir()
    write_corrupted_copy(source, tmp_path, "contrast", splits=["test"], overwrite=True)
    assert len(datasets.load_dataset(str(tmp_path))["test"]) == 12


@pytest.mark.parametrize("mark", ["model.safetensors", "signature.safetensors"])
def test_a_copy_is_not_written_over_a_model(mark, source, tmp_path):
    (tmp_path / mark).touch()
    with pytest.raises(OptionError, match=r"holds a (model|signature), over which the copy would be written"):
        write_corrupted_copy(source, tmp_path, "contrast")


def test_the_card_says_where_the_copy_is(source, tmp_path):
    folder = write_corrupted_copy(source, tmp_path / "photos-fog", "contrast", splits=["test"])
    card = (folder / "README.md").read_text()
    assert 'load_dataset("photos-fog")  # this folder; once it is on the Hub' in card
    assert "pip install datasets" in card
    pushed = cards.readdress(card, "photos-fog", {"photos-fog": "user/fog"})
    assert 'load_dataset("user/fog")\n' in pushed


def test_a_source_that_changed_is_not_mixed_with_what_it_was(tmp_path, monkeypatch):
    source = one_split(tmp_path / "source", [picture(0)])
    with monkeypatch.context() as patched:
        patched.setattr(copying, "finish", lambda *args, **options: None)
        write_corrupted_copy(source, tmp_path / "copy", "contrast")
    one_split(tmp_path / "source", [picture(1)])
    with pytest.raises(OptionError, match="source: "):
        write_corrupted_copy(source, tmp_path / "copy", "contrast")


@pytest.mark.parametrize("name", ["README.md", "data"])
def test_a_folder_of_something_else(name, source, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(OptionError, match=f"already has {name} of something else"):
        write_corrupted_copy(source, tmp_path, "fog")


def test_a_full_disk(source, tmp_path, monkeypatch):
    def write_table(self, table):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", write_table)
        with pytest.raises(
            AccessError, match=r"cannot write the copy in .*copy: .*No space left.*the same call goes on"
        ):
            write_corrupted_copy(source, tmp_path / "copy", "contrast", splits=["test"])
    assert list((tmp_path / "copy" / ".unfinished" / "data").iterdir()) == []
    folder = write_corrupted_copy(source, tmp_path / "copy", "contrast", splits=["test"])
    assert len(datasets.load_dataset(str(folder))["test"]) == 12


def test_an_error_in_a_process_stops_all_and_says_which_image(tmp_path, monkeypatch):
    """Threads in the place of processes, which take long to start."""

    def threads(count, context, begin, arguments):
        monkeypatch.setattr(shards, "_counter", *arguments)
        return ThreadPoolExecutor(count)

    monkeypatch.setattr(shards, "ProcessPoolExecutor", threads)
    source = one_split(tmp_path / "broken", [picture(n, 20 if n == 250 else 32) for n in range(300)])
    with pytest.raises(FormatError, match="broken test: image 250 has 20x32 pixels"):
        write_corrupted_copy(source, tmp_path / "copy", "contrast", images_per_shard=100, num_proc=2)
    assert not (tmp_path / "copy" / "data").exists()


def test_a_shard_that_is_missing_at_the_end(source, tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "write_all", lambda todo, *rest: None)
    with pytest.raises(IntegrityError, match="does not hold 230 images of train"):
        write_corrupted_copy(source, tmp_path / "copy", "contrast")


# --- what is refused ---


@pytest.mark.parametrize(
    ("corruption", "options", "error", "message"),
    [
        ("rain", {}, OptionError, "Unknown corruption 'rain'"),
        ("fog", {"severity": 6}, OptionError, "severity must be one of"),
        ("fog", {"seed": 0.5}, OptionError, "seed must be an integer"),
        ("fog", {"parameters": "mnist"}, OptionError, "Unknown parameters 'mnist'"),
        ("fog", {"jpeg_quality": 0}, OptionError, "jpeg_quality must be from 1 to 100, got 0"),
        ("fog", {"num_proc": 0}, OptionError, "num_proc must be at least 1, got 0"),
        ("fog", {"images_per_shard": 0}, OptionError, "images_per_shard must be at least 1, got 0"),
        ("fog", {"splits": ["test", "extra"]}, NotFoundError, "has no split extra; it has: train, test"),
        ("fog", {"image_column": "image"}, NotFoundError, "no column 'image'; it has: id, photo"),
        ("fog", {"image_column": "kind"}, OptionError, "'kind' of dataset .* holds no images but ClassLabel"),
    ],
)
def test_options_that_make_no_sense(corruption, options, error, message, source, tmp_path):
    with pytest.raises(error, match=message):
        write_corrupted_copy(source, tmp_path / "copy", corruption, **options)
    assert not (tmp_path / "copy").exists()


def test_frost_without_its_pictures(source, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_rws.corruptions.frost._ASSET_PACKAGE", "no_such_package")
    monkeypatch.delenv("HF_RWS_FROST", raising=False)
    with pytest.raises(MissingExtraError, match=r"hf-rws\[frost\]"):
        write_corrupted_copy(source, tmp_path / "copy", "frost")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (picture(0, 28, 40), "image 1 has 28x40 pixels; corruptions are defined from 32 on each side: enlarge"),
        (Image.new("F", (32, 32)), r"image 1 cannot be decoded: its numbers \(Pillow's mode F\) may mean anything"),
        (None, "image 1 is missing"),
        ({"bytes": b"not an image", "path": None}, "image 1 cannot be decoded"),
    ],
)
def test_images_that_cannot_be_corrupted(image, message, tmp_path):
    source = one_split(tmp_path / "odd", [picture(0), image])
    with pytest.raises(FormatError, match=f"odd test: {message}"):
        write_corrupted_copy(source, tmp_path / "copy", "contrast")
    assert not any(Path(name).suffix == ".parquet" for name in files(tmp_path / "copy"))


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    grey = np.asarray(picture(0).convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    copy = write_corrupted_copy(one_split(tmp_path / "deep", [deep]), tmp_path / "copy", "contrast")
    content = pq.read_table(copy / "data")["image"][0].as_py()["bytes"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), corrupt(grey[..., None], "contrast")[..., 0])


@pytest.mark.parametrize("quality", [85, 94, 100])
def test_jpeg_of_noise_at_any_quality(quality):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    (content,) = Treatment("impulse_noise", 1, 0, "auto", quality).apply([noise], 0)
    assert Image.open(io.BytesIO(content)).size == (512, 512)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_is_what_its_quality_says(mode):
    image = picture(0, 64, 48).convert(mode)
    plain = io.BytesIO()
    image.save(plain, "JPEG", quality=85, optimize=True)
    pixels = np.asarray(image)
    assert Treatment("contrast", 1, 0, "auto", 85)._encode(pixels) == plain.getvalue()


def test_broken_images_are_left_out_and_listed(tmp_path):
    folder = tmp_path / "photos" / "train"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            picture(number).save(folder / name / f"{number}.png")
    (folder / "a" / "1.png").write_bytes(b"no picture")
    picture(9, width=8).save(folder / "b" / "2.png")
    dataset = str(tmp_path / "photos")
    with pytest.raises(FormatError, match=r"1\.png"):
        write_corrupted_copy(dataset, tmp_path / "copy", "contrast")
    with pytest.warns(RWSWarning, match=r"2 of 6 images are left out: .*a/1\.png .*; .*image 5 has 8x32 pixels"):
        write_corrupted_copy(dataset, tmp_path / "copy", "contrast", skip_broken=True, num_proc=1)
    table = pq.read_table(tmp_path / "copy" / "data")
    assert table["label"].to_pylist() == [0, 0, 1, 1]
    assert [Path(value["path"]).name for value in table["image"].to_pylist()] == ["0.png", "2.png", "0.png", "1.png"]
    shown = np.asarray(Image.open(io.BytesIO(table["image"][1].as_py()["bytes"])))
    assert np.array_equal(shown, corrupt(np.asarray(picture(2)), "contrast", severity=5, index=1))
    for path in folder.rglob("*.png"):
        path.write_bytes(b"none")
    with pytest.raises(FormatError, match="no image can be used"):
        write_corrupted_copy(dataset, tmp_path / "none", "contrast", skip_broken=True)


def test_what_is_unfinished_gives_way_to_the_same_copy_without_its_broken_images_alone(tmp_path):
    source = one_split(tmp_path / "photos", [picture(0), None])
    with pytest.raises(FormatError, match="missing"):
        write_corrupted_copy(source, tmp_path / "copy", "contrast", images_per_shard=1)
    before = files(tmp_path / "copy")
    with (
        pytest.warns(RWSWarning, match="1 of 2 images"),
        pytest.raises(OptionError, match="'contrast' then, 'brightness' now"),
    ):
        write_corrupted_copy(source, tmp_path / "copy", "brightness", images_per_shard=1, skip_broken=True)
    assert files(tmp_path / "copy") == before
    with pytest.warns(RWSWarning, match="1 of 2 images"):
        write_corrupted_copy(source, tmp_path / "copy", "contrast", images_per_shard=1, skip_broken=True)
    assert pq.read_table(tmp_path / "copy" / "data").num_rows == 1


def test_a_readme_of_ones_own_keeps_its_text(source, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "README.md").write_text("my readme\n")
    with pytest.raises(OptionError, match=r"README\.md of something else"):
        write_corrupted_copy(source, folder, "contrast")
    write_corrupted_copy(source, folder, "contrast", overwrite=True)
    assert "my readme\n" in (folder / "README.md").read_text()
    datasets.load_dataset(str(folder))


def test_images_of_a_copy_that_has_one_split_are_taken_from_it(source, tmp_path):
    folder = write_corrupted_copy(source, tmp_path / "copy", "fog", splits=["test"])
    assert len(as_images(folder, side=32)) == COUNTS["test"]
