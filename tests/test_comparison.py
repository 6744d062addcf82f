"""Base beside patched: the same images, intervals that hold, mCE as the field defines it, in every format."""

import csv
import io
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import hf_rws
from hf_rws import evaluate
from hf_rws.errors import OptionError
from hf_rws.evaluation import Comparison, Evaluation, Row, _evaluate, compare
from tests.helpers import image_set, model, same, weights
from tests.test_evaluation import Reddest


def row(name, severity, right):
    right = torch.tensor(right, dtype=torch.bool)
    return Row(name, severity, float(right.double().mean()), len(right), right)


def rated(name, severity, accuracy, n=100):
    return Row(name, severity, accuracy, n)


def patched(scale=1.0):
    """A model with a signature on that changes its answers, and its base."""
    base, robust = model(), model(seed=1)
    signature = hf_rws.extract(robust, base, None, projection=None, corruption="fog")
    hf_rws.patch(base, signature, scales=[scale])
    return base, model()


def test_a_patched_model_beside_its_base():
    """Both columns are what `evaluate` gives of each model, and the model is left as it was."""
    both, base = patched()
    images, before = image_set(24), weights(both)
    found = compare(both, images, ["fog", "contrast"], severities=[1, 5], batch_size=10)
    assert found.before == evaluate(base, images, ["fog", "contrast"], severities=[1, 5])
    assert found.after == evaluate(both, images, ["fog", "contrast"], severities=[1, 5])
    assert found.before != found.after
    assert same(weights(both), before)
    assert both.rws.scales == {"fog": 1.0}
    assert found == found.before.compare(found.after)
    assert found["fog", 5].value == found.after["fog", 5] - found.before["fog", 5]
    assert found["fog"].value == pytest.approx(found.after["fog"] - found.before["fog"])
    assert found.mean().value == pytest.approx(found.after.mean() - found.before.mean())


def test_every_image_is_corrupted_once_for_both(monkeypatch):
    both, _ = patched()
    calls = []
    real = _evaluate.corrupt
    monkeypatch.setattr(_evaluate, "corrupt", lambda *a, **k: calls.append(len(a[0])) or real(*a, **k))
    compare(both, image_set(12), "contrast", batch_size=5)
    assert calls == [5, 5, 2]


def test_a_model_without_signatures():
    for bare in (model(), hf_rws.load_patched(model(), [])):
        with pytest.raises(OptionError, match=r"carries no signatures .*hf_rws\.patch"):
            compare(bare, image_set(4), "fog")


# --- differences and their intervals ---


def test_the_interval_is_agresti_and_mins():
    """By hand: of 20 images 2 are lost and 9 are gained."""
    before = Evaluation((row("fog", 5, [1] * 2 + [0] * 9 + [1] * 9),))
    after = Evaluation((row("fog", 5, [0] * 2 + [1] * 9 + [1] * 9),))
    found = before.compare(after)["fog", 5]
    middle = (9.5 - 2.5) / 22
    half = 1.959964 * math.sqrt(2.5 + 9.5 - 7**2 / 22) / 22
    assert found.value == pytest.approx(7 / 20)
    assert found.interval == pytest.approx((middle - half, middle + half))
    assert str(found) == "+35.0 [+4.0, +59.7]"
    assert before.compare(before)["fog", 5].interval[0] < 0 < before.compare(before)["fog", 5].interval[1]


@pytest.mark.parametrize(("lost", "gained"), [(0.05, 0.05), (0.02, 0.2), (0.3, 0.1), (0.0, 0.05)])
@pytest.mark.parametrize("rows", [1, 3])
def test_about_95_of_100_intervals_hold_the_truth(lost, gained, rows):
    """Also those of a mean over rows of the same images, which depend on each other."""
    generator, inside, trials = np.random.default_rng(0), 0, 400
    for _ in range(trials):
        draws = generator.random(150)
        change = np.where(draws < lost, -1, np.where(draws > 1 - gained, 1, 0))
        kept = [generator.random(150) < 0.9 for _ in range(rows)]  # a row shares nine tenths of the changes
        pairs = [(change * mask == -1, change * mask == 1) for mask in (kept if rows > 1 else [True])]
        before = Evaluation(tuple(row("fog", n, one) for n, (one, _) in enumerate(pairs, 1)))
        after = Evaluation(tuple(row("fog", n, other) for n, (_, other) in enumerate(pairs, 1)))
        low, high = before.compare(after).mean().interval
        inside += low <= (gained - lost) * (0.9 if rows > 1 else 1) <= high
    assert 0.92 <= inside / trials <= 0.995


def test_without_the_answers_there_is_no_interval():
    table = Evaluation((rated("fog", 5, 0.25),))
    found = table.compare(Evaluation((rated("fog", 5, 0.75),)))
    assert (found["fog"].value, found["fog"].interval, str(found["fog"])) == (0.5, None, "+50.0")
    assert found.records()[0]["low"] is None


def test_other_rows_cannot_be_compared():
    one = Evaluation((rated("fog", 5, 0.5), rated("snow", 5, 0.5)))
    for other in (one.rows[:1], one.rows[::-1], (one.rows[0], rated("snow", 5, 0.5, n=99))):
        with pytest.raises(OptionError, match="do not have the same rows"):
            one.compare(Evaluation(other))


def test_other_images_cannot_be_compared():
    """What a table says of its images holds for both sides; of published figures it may not be known."""
    rows = (rated("fog", 5, 0.5),)
    small, large = (Evaluation(rows, f"{side}x{side}") for side in (32, 224))
    with pytest.raises(OptionError, match="before, they are 32x32; after, 224x224"):
        small.compare(large)
    assert small.compare(Evaluation(rows, "32x32 (the model's own)")).mean().value == 0
    assert Evaluation(rows).compare(large).mean().value == 0


# --- the field's means ---

STANDARD = Evaluation((rated("clean", 0, 0.9), rated("fog", 1, 0.8), rated("fog", 5, 0.4), rated("snow", 5, 0.5)))
ROBUST = Evaluation((rated("clean", 0, 0.85), rated("fog", 1, 0.9), rated("fog", 5, 0.7), rated("snow", 5, 0.4)))


def test_mce_is_a_mean_over_corruptions_of_quotients_of_sums():
    found = STANDARD.compare(ROBUST)
    assert found.mce() == pytest.approx(((0.1 + 0.3) / (0.2 + 0.6) + 0.6 / 0.5) / 2)
    relative = ((0.1 + 0.3 - 2 * 0.15) / (0.2 + 0.6 - 2 * 0.1) + (0.6 - 0.15) / (0.5 - 0.1)) / 2
    assert found.relative_mce() == pytest.approx(relative)
    assert STANDARD.compare(STANDARD).mce() == 1
    assert "mCE 85.0, relative mCE 64.6 (base: 100)" in found.to_markdown()


def test_mce_where_it_is_not_defined():
    perfect = Evaluation((rated("clean", 0, 1.0), rated("fog", 5, 1.0)))
    assert math.isnan(perfect.compare(perfect).mce())
    assert "mCE" not in perfect.compare(perfect).to_markdown()
    unclean = Evaluation(STANDARD.rows[1:])
    assert math.isnan(unclean.compare(unclean).relative_mce())
    assert "mCE 100.0 (base: 100)" in unclean.compare(unclean).to_markdown()
    clean = Evaluation(STANDARD.rows[:1])
    assert "mCE" not in clean.compare(clean).to_markdown()


def test_a_copy_as_it_is_counts_in_means_only_alone():
    extra = (
        (rated("contrast (copy)", 5, 0.1), rated("fog", 5, 0.4)),
        (rated("contrast (copy)", 5, 0.2), STANDARD.rows[2]),
    )
    before, after = map(Evaluation, extra)
    found = before.compare(after)
    assert (before.mean(), found.mean().value, found.mce()) == (0.4, after.mean() - 0.4, 1)
    assert "| mean of corruptions |  | 40.0 |" in before.to_markdown()
    alone = Evaluation(before.rows[:1]).compare(Evaluation(after.rows[:1]))
    assert (alone.before.mean(), alone.mean().value) == (0.1, 0.1)
    assert alone.mce() == pytest.approx(0.8 / 0.9)


# --- what is shown ---


@pytest.mark.parametrize("table", [STANDARD, STANDARD.compare(ROBUST)])
def test_print_shows_the_table(table):
    assert str(table) == table.to_markdown()


def test_records_hold_the_notes():
    noted = Evaluation(STANDARD.rows, "32 px", ("split 'train'", "12 images drawn at random"))
    for table in (noted, STANDARD.compare(noted)):
        assert {record["notes"] for record in table.records()} == {"split 'train'; 12 images drawn at random"}


def test_markdown_of_a_comparison():
    found = Comparison(
        Evaluation((row("clean", 0, [1, 1, 1, 0]), row("fog", 5, [0, 0, 0, 1]))),
        Evaluation((row("clean", 0, [1, 1, 1, 0]), row("fog", 5, [1, 0, 0, 1])), "32 px", ("a | b",)),
    )
    assert found.to_markdown().splitlines() == [
        "| corruption | severity | base | patched | difference [95 %] | n |",
        "|---|---|---|---|---|---|",
        "| clean |  | 75.0 | 75.0 | +0.0 [-32.7, +32.7] | 4 |",
        "| fog | 5 | 25.0 | 50.0 | +25.0 [-27.6, +60.9] | 4 |",
        "| mean of corruptions |  | 25.0 | 50.0 | +25.0 [-27.6, +60.9] |  |",
        "",
        "mCE 66.7, relative mCE 50.0 (base: 100); images: 32 px; a | b",
    ]


class Cells(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.rows, self.after = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "p":
            self.rows.append(None)

    def handle_data(self, data):
        if self.rows[-1] is None:
            self.after += data
        else:
            self.rows[-1][-1] += data


@pytest.mark.parametrize("table", [STANDARD, STANDARD.compare(ROBUST)])
def test_a_notebook_shows_the_same_cells(table):
    cells = [line.strip("| ").split(" | ") for line in table.to_markdown().splitlines()]
    shown = Cells(table._repr_html_()).rows
    assert [row[0] for row in shown if row] == [row[0] for row in cells if "-" not in row[0][:1] and len(row) > 1]


def test_names_in_html_are_text():
    table = Evaluation((rated("<b>fog</b>", 5, 0.5),), "<i>", ("<script>",))
    found = Cells(table._repr_html_())
    assert found.rows[1][0] == "<b>fog</b>"
    assert "<script>" in found.after
    assert "<script" not in table._repr_html_()


@pytest.mark.parametrize("table", [STANDARD, STANDARD.compare(ROBUST)])
def test_csv_holds_the_records(table):
    read = list(csv.DictReader(io.StringIO(table.to_csv())))
    records = [{key: "" if value is None else str(value) for key, value in one.items()} for one in table.records()]
    assert read == records
    assert {"accuracy", "n", "preprocessing"} <= set(read[0])


def test_one_row_by_name_and_severity():
    assert (STANDARD["fog", 5], STANDARD["fog", 1], STANDARD["clean", 0]) == (0.4, 0.8, 0.9)
    assert STANDARD["fog"] == pytest.approx(0.6)
    with pytest.raises(OptionError, match="no row of 'fog' at severity 3; there are: 1, 5"):
        STANDARD["fog", 3]
    with pytest.raises(OptionError, match="no row 'fgo'"):
        STANDARD.compare(ROBUST)["fgo", 5]


def test_the_answers_to_each_image_are_kept():
    images = image_set(30)
    found = evaluate(Reddest(), images, "contrast", batch_size=7)
    expected = images.images.float().mean((2, 3)).argmax(1) == images.labels
    assert torch.equal(found.rows[0].right, expected)
    assert all(len(row.right) == row.n and row.right.dtype == torch.bool for row in found.rows)
