"""`hf-rws evaluate`: base beside patched, in every format, with every option of a dataset."""

import csv
import io
import json
import socket

import pytest

import hf_rws
from hf_rws import cli
from hf_rws.copies import write_corrupted_copy
from hf_rws.errors import RWSError
from hf_rws.evaluation import compare
from hf_rws.timm_repo import save_timm_repo
from tests.helpers import CLASSES, datasets_cache, model, on_cpu, picture, toy_dataset  # noqa: F401
from tests.test_cli import call  # noqa: F401

pytestmark = pytest.mark.usefixtures("on_cpu", "datasets_cache")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a base, a signature and a dataset, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    base, robust = model(), model(seed=1)
    save_timm_repo(base, "base", label_names=CLASSES)
    signature = hf_rws.extract(robust, base, None, projection=None, corruption="contrast", severity=5, bits=None)
    signature.save_pretrained("rws-contrast")
    toy_dataset(tmp_path / "toy")
    return tmp_path


ASKED = ["evaluate", "base", "rws-contrast", "--dataset", "toy", "--corruption", "contrast"]


def expected(**options):
    return compare(hf_rws.load_patched("base", "rws-contrast"), "toy", "contrast", **options)


def test_base_beside_patched(here, call):  # noqa: F811
    code, out, _ = call(cli.cli, *ASKED, "--format", "human")
    found = expected()
    assert (code, out) == (0, found.to_markdown() + "\n")
    assert "| corruption | severity | base | patched | difference [95 %] | n |" in out
    assert found.before != found.after
    code, out, _ = call(cli.cli, *ASKED, "--json")
    assert json.loads(out) == found.records()
    assert call(cli.cli, *ASKED, "-q")[1].split() == [str(row.accuracy) for row in found.after.rows]
    code, out, _ = call(cli.cli, *ASKED[:2], *ASKED[3:], "--json")
    assert [row["accuracy"] for row in json.loads(out)] == [row.accuracy for row in found.before.rows]


def test_csv_and_files(here, call):  # noqa: F811
    found = expected()
    code, out, _ = call(cli.cli, *ASKED, "--csv", "--output", "new/table.csv")
    assert (code, out) == (0, found.to_csv())
    assert (here / "new" / "table.csv").read_text() == out
    assert list(csv.DictReader(io.StringIO(out)))[1]["corruption"] == "contrast"
    for name, text in (
        ("table.md", found.to_markdown() + "\n"),
        ("table", found.to_markdown() + "\n"),
        ("table.HTML", found.to_html() + "\n"),
        ("table.json", json.dumps(found.records(), indent=2) + "\n"),
    ):
        assert call(cli.cli, *ASKED, "--output", name)[0] == 0
        assert (here / name).read_text() == text


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("base", "is a folder; name a file"),
        ("base/config.json/x", "is a file"),
        ("table.xlsx", "cannot write the table to table.xlsx: its name must end in .csv, .json, .md, .html"),
    ],
)
def test_where_nothing_can_be_written_no_work_begins(here, call, monkeypatch, file, message):  # noqa: F811
    monkeypatch.setattr("hf_rws.loading.load_patched", None)
    code, out, err = call(cli.cli, *ASKED, "--output", file)
    assert (code, out) == (1, "")
    assert message in err


@pytest.mark.parametrize("format", [["--json"], ["--format", "agent"], ["-q"]])
def test_csv_is_a_format_beside_others(here, call, format):  # noqa: F811
    code, out, err = call(cli.cli, *ASKED, "--csv", *format)
    assert (code, out) == (2, "")
    assert "give only one of --csv, --format, --json and --quiet" in err


def test_agents_read_four_digits_and_the_notes(here, call):  # noqa: F811
    code, out, _ = call(cli.cli, *ASKED, "--limit", "7", "--format", "agent")
    assert code == 0
    found = expected(limit=7)
    names, *rows = [line.split("\t") for line in out.splitlines()]
    for row, record in zip(rows, found.records(), strict=True):
        shown = dict(zip(names, row, strict=True))
        assert shown["notes"] == "7 images drawn at random"
        assert shown["low"] == str(round(record["low"], 4)) != str(record["low"])


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["--test-split", "train"], {"test_split": "train"}),
        (["--image-size", "40"], {"image_size": 40}),
        (["--limit", "5", "--seed", "3", "--batch-size", "2"], {"limit": 5, "seed": 3, "batch_size": 2}),
        (["--classes", "bird,car", "--label-column", "label"], {"classes": "bird,car", "label_column": "label"}),
        (["--image-column", "img", "--device", "cpu"], {"image_column": "img", "device": "cpu"}),
        (["--severity", "1", "--severity", "3"], {"severities": (1, 3)}),
    ],
)
def test_options_are_pythons(here, call, given, options):  # noqa: F811
    code, out, _ = call(cli.cli, *ASKED, *given, "--format", "human")
    assert (code, out) == (0, expected(**options).to_markdown() + "\n")


def test_a_class_map_from_a_file(here, call):  # noqa: F811
    for name in ("fruit", "bird"):
        (here / "photos" / "test" / name).mkdir(parents=True)
        picture(0).save(here / "photos" / "test" / name / "a.png")
    asked = ["evaluate", "base", "--dataset", "photos", "--clean-only"]
    code, out, err = call(cli.cli, *asked)
    assert (code, out) == (1, "")
    assert "photos: 1 of its 2 classes are none of the model's 4: 'fruit'" in err
    (here / "map.json").write_text('{"fruit": "apple"}')
    code, out, _ = call(cli.cli, *asked, "--class-map", "map.json", "--format", "human")
    assert code == 0
    assert "classes matched by class_map: 2 of the model's 4 classes" in out
    (here / "map.json").write_text("[")
    code, _, err = call(cli.cli, *asked, "--class-map", "map.json")
    assert code == 1
    assert err.startswith("error: map.json")
    assert call(cli.cli, *asked, "--class-map", "none.json")[0] == 1


def test_a_corrupted_copy_is_not_called_clean(here, call):  # noqa: F811
    write_corrupted_copy("toy", "toy-contrast", "contrast", severity=3)
    code, out, _ = call(cli.cli, "evaluate", "base", "--dataset", "toy-contrast", "--clean-only", "--json")
    assert code == 0
    assert [(row["corruption"], row["severity"]) for row in json.loads(out)] == [("contrast (copy)", 3)]


def test_a_folder_without_a_test_split_is_measured_where_it_is_named(here, call):  # noqa: F811
    for number, name in enumerate(CLASSES):
        (here / "plain" / name).mkdir(parents=True)
        picture(number, 40 + number, 50).save(here / "plain" / name / "a.jpg")
    asked = ["evaluate", "base", "--dataset", "plain", "--clean-only", "--format", "human"]
    code, _, err = call(cli.cli, *asked)
    assert code == 1
    assert "no test split; it has: train" in err
    code, out, _ = call(cli.cli, *asked, "--test-split", "train")
    assert code == 0
    assert "split 'train'" in out


def test_what_lies_here_asks_nobody(here, call, monkeypatch):  # noqa: F811
    """A base, signatures and a dataset of this machine: no connection is opened, also where output is piped."""
    asked = []

    def refuse(host, *_):
        asked.append(host)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    assert call(cli.cli, *ASKED)[0] == 0
    assert asked == []
    with pytest.raises(RWSError):  # the test would see it
        hf_rws.info("user/name")
    assert asked
