"""The paper's claims: a verdict follows from its cases; scripts/reproduce.py runs, stops and goes on."""

import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import hf_rws
from hf_rws import plots
from hf_rws.errors import MissingExtraError, NotFoundError, OptionError
from tests.helpers import on_cpu, toy_dataset  # noqa: F401

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
TRAINED = ("start", "study-0", "study-1", "all-corruptions")

pytestmark = pytest.mark.usefixtures("on_cpu")


@pytest.fixture(scope="module")
def reproduce():
    """The script, as a module."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(SCRIPTS))
        import reproduce
    yield reproduce
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("reproduce")
    toy_dataset(found / "data", train=100)
    return found


@pytest.fixture(scope="module")
def run(reproduce, folder):
    """The script on the fixture's plan."""

    def command(name, *options):
        where = (f"--data=fixture={folder / 'data'}", f"--output-dir={folder / 'studies'}")
        reproduce.main([name, "fixture", *where, *options])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plots, "before_and_after", _no_picture)  # of the signatures' cards
        command("train", *(f"--study={name}" for name in TRAINED))
        yield command


def _no_picture(*arguments, **options):
    raise MissingExtraError("no pictures in these tests")


@pytest.fixture(scope="module")
def measured(run, reproduce, folder):
    """The results of every experiment, on what has been trained."""
    import combining_table
    from claims import light

    def distilled(base, images, *, corruption, num_layers=None, **options):
        """Nothing is learnt: the loop has tests of its own."""
        return hf_rws.extract(base, base, None, corruption=corruption, projection=None, num_layers=num_layers)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hf_rws, "distill", distilled)
        patched.setattr(combining_table, "TUNING_SCALES", (0.5, 1.0))
        patched.setattr(light, "SETTINGS", light.SETTINGS[:1])
        patched.setattr(light.bits_table, "full_width_sizes", lambda name, settings: (100, [7]))
        run("all", f"--results={folder / 'results'}", "--distil-images=40")
    return folder / "results"


# --- verdicts ---


@pytest.mark.parametrize(
    ("cases", "word"),
    [
        ([(1, 1)], "confirmed"),
        ([(1, 2)], "refuted"),
        ([(2, 1)] * 9 + [(1, 2)], "confirmed"),
        ([(2, 1)] * 8 + [(1, 2)] * 2, "partly"),
        ([(2, 1), (1, 2)], "partly"),
        ([(2, 1)] * 4 + [(1, 2)] * 5, "refuted"),
        ([(2, 1), (math.nan, 1), (1, math.nan)], "confirmed"),
        ([(math.nan, 1)], "not testable here"),
        ([], "not testable here"),
    ],
)
def test_a_verdict_is_the_share_of_the_cases_that_hold(reproduce, cases, word):
    from claims.judging import Case, Claim

    claim = Claim(
        "statement", "inequality", lambda rows: [Case(str(number), *case) for number, case in enumerate(cases)]
    )
    assert claim.judge([]).word == word


def test_no_claim_is_confirmed_by_nothing_and_each_says_what_must_hold(reproduce):
    for name, experiment in reproduce.EXPERIMENTS.items():
        assert experiment.claims, name
        for claim in experiment.claims:
            assert claim.judge([]).word == "not testable here"
            assert re.search("at least", claim.inequality), claim.statement


ACCURACIES = {"study": "s", "ta": {"fog": 0.9, "snow": 0.9}}


@pytest.mark.parametrize(("patched", "word"), [((0.65, 0.75), "confirmed"), ((0.5, 0.5), "refuted")])
def test_the_main_claim_is_the_recovery(reproduce, patched, word):
    ra = {"standard": (0.2, 0.2), "robust models": (0.7, 0.7), "extracted": patched}
    rows = [
        {**ACCURACIES, "model": model, "ra": dict(zip(("fog", "snow"), each, strict=True))}
        for model, each in ra.items()
    ]
    claim, _ = reproduce.EXPERIMENTS["main"].claims
    assert claim.judge(rows).word == word
    assert f"{sum(patched) - 0.4:.2f} |" in reproduce.EXPERIMENTS["main"].table(rows)


@pytest.mark.parametrize(("curve", "word"), [((0.2, 0.4, 0.6), "confirmed"), ((0.2, 0.6, 0.4), "refuted")])
def test_a_curve_that_falls_before_1_refutes_that_it_grows(reproduce, curve, word):
    points = [{"scale": scale, "ta": 0.5, "ra": ra} for scale, ra in zip((0, 0.5, 1), curve, strict=True)]
    row = {"study": "s", "corruption": "fog", "bits": "float32", "n": 10_000, "identical": True, "curve": points}
    assert reproduce.EXPERIMENTS["adjustable"].claims[0].judge([row]).word == word


def test_the_nearest_signature_is_looked_for_in_the_other_study(reproduce):
    row = {"what": "cosines", "kind": "projected", "studies": ["a", "b"], "corruptions": [["fog", "snow"]] * 2}
    claim = reproduce.EXPERIMENTS["discriminative"].claims[0]
    assert claim.judge([{**row, "cosines": [[0.9, 0.1], [0.2, 0.8]]}]).word == "confirmed"
    assert claim.judge([{**row, "cosines": [[0.1, 0.9], [0.8, 0.2]]}]).word == "refuted"


# --- a plan, trained and measured ---


def test_every_experiment_leaves_rows_verdicts_and_tables(measured, reproduce):
    for name, experiment in reproduce.EXPERIMENTS.items():
        record = json.loads((measured / f"{name}.json").read_text())
        assert [claim["statement"] for claim in record["claims"]] == [claim.statement for claim in experiment.claims]
        if name in ("consistent", "updated"):  # of what was not trained
            assert record["rows"] == []
            assert {claim["word"] for claim in record["claims"]} == {"not testable here"}
            continue
        assert record["rows"], name
        assert experiment.table(record["rows"]) in (measured / f"{name}.md").read_text()
        facts = record["about"]
        assert facts["plan"] == "fixture"
        assert set(facts["n"].values()) == {9}  # three of the four classes
        assert set(facts) >= {"seed", "commit", "torch", "cpu", "command", "recipes"}
    assert {path.stem for path in measured.glob("*.png")} >= {"shallow", "discriminative", "adjustable", "light"}


def test_signatures_that_were_taken_off_leave_no_trace(measured):
    record = json.loads((measured / "adjustable.json").read_text())
    assert all(row["identical"] for row in record["rows"])


def test_the_page_has_every_claim_with_the_verdict_of_its_rows(measured, reproduce, folder, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "projection.json").write_text((measured / "projection.json").read_text())
    reproduce.main(["page", f"--results={measured}", f"--output={folder / 'page.md'}"])
    reproduce.main(["page", f"--results={tmp_path / 'some'}", f"--output={tmp_path / 'page.md'}"])
    whole, part = (folder / "page.md").read_text(), (tmp_path / "page.md").read_text()
    assert "](results/shallow.png)" in whole
    assert "not run" not in whole
    for name, experiment in reproduce.EXPERIMENTS.items():
        for claim in experiment.claims:
            assert claim.statement in whole
            (line,) = (line for line in part.splitlines() if line.startswith("|") and claim.statement in line)
            assert ("**not run**" in line) == (name != "projection")


def test_what_is_there_is_not_made_again(measured, run, monkeypatch, capsys):
    monkeypatch.setattr("claims.lab.measure_each", _no_picture)
    monkeypatch.setattr("claims.parts.run_study", _no_picture)
    before = (measured / "projection.json").read_bytes()
    run("projection", f"--results={measured}", "--distil-images=40")
    assert (measured / "projection.json").read_bytes() == before
    run("train", "--study=study-0")
    assert "study-0: finished" in capsys.readouterr().out


def test_an_interrupted_experiment_goes_on_and_gives_the_same_rows(measured, run, tmp_path, monkeypatch):
    from claims import lab

    whole = json.loads((measured / "projection.json").read_text())
    calls, real = [], lab.measure_each

    def stops(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(lab, "measure_each", stops)
    options = (f"--results={tmp_path}", "--distil-images=40")
    with pytest.raises(KeyboardInterrupt):
        run("projection", *options)
    assert len(json.loads((tmp_path / "projection.json").read_text())["rows"]) == 3
    run("projection", *options)
    assert len(calls) == 4  # three signatures, one of them twice
    found = json.loads((tmp_path / "projection.json").read_text())
    assert (found["rows"], found["claims"]) == (whole["rows"], whole["claims"])


def test_rows_of_other_settings_are_not_mixed(measured, run):
    with pytest.raises(OptionError, match=r"projection.json was measured with other test_images: give the same"):
        run("projection", f"--results={measured}", "--distil-images=40", "--test-images=5")


def test_a_trial_is_not_taken_for_the_plan(measured, run, reproduce, tmp_path):
    with pytest.raises(OptionError, match=r"studies holds .*, not .*'epochs': 3.*: ask for the same, or give another"):
        run("train", "--study=study-0", "--epochs=3")
    (tmp_path / "plan.json").write_text('{"plan": "fixture", "trial": {"epochs": 3}}')
    with pytest.raises(OptionError, match=r"projection.json was measured with other trial: give the same"):
        reproduce.main(
            ["projection", "fixture", f"--output-dir={tmp_path}", f"--results={measured}", "--distil-images=40"]
        )
    plan, _ = reproduce.plan_of(SimpleNamespace(command="main", plan="fixture", output_dir=tmp_path))
    assert {part.arguments.epochs for part in plan.parts} == {3}


def test_each_source_is_judged_by_itself(reproduce):
    ra = {"standard": 0.2, "robust models": 0.7, "own, projected": 0.6}
    rows = [
        {"study": "target", "model": model, "ta": {"fog": 0.9}, "ra": {"fog": value}} for model, value in ra.items()
    ]
    for source, value in (("near", 0.55), ("far", 0.25)):
        made = {"model": "foreign, projected", "ta": {"fog": 0.9}, "ra": {"fog": value}}
        rows.append({"study": "target", "source": source, **made})
    claim = reproduce.EXPERIMENTS["consistent"].claims[2]
    assert [case.holds for case in claim.cases(rows)] == [True, False]
    assert "| foreign, projected, from far |" in reproduce.EXPERIMENTS["consistent"].table(rows)


def test_the_recovery_is_not_confirmed_by_five_corruptions_alone(reproduce):
    from claims.earlier import earlier_rows

    rows = earlier_rows("recovery", SCRIPTS / "results")
    assert reproduce.EXPERIMENTS["recovery"].claims[0].judge(rows).word == "not testable here"


def test_a_study_whose_start_is_not_there_says_which(run):
    with pytest.raises(NotFoundError, match="chain-1-more-epochs starts from chain-0/base: make chain-0 in"):
        run("train", "--study=chain-1-more-epochs")


# --- plans ---


@pytest.mark.parametrize("name", ["paper", "small", "fixture"])
def test_each_part_of_a_plan_starts_from_an_earlier_one(reproduce, name):
    import timm

    plan, known = reproduce.PLANS[name], set()
    for part in plan.parts:
        first = part.start.partition("/")[0]
        assert first in known or timm.is_model(first.partition(".")[0]), part.name
        known.add(part.name)
    assert len(known) == len(plan.parts)
    assert set(plan.chain) <= known
    assert len(plan.chain) == 4


def test_the_papers_plan_is_the_papers(reproduce):
    studies = {study.name: study for study in reproduce.PLANS["paper"].studies}
    assert len(studies["tiny-imagenet-resnet50-0"].corruptions) == 19
    assert (studies["cifar10-0"].arguments.lr, studies["tiny-imagenet-resnet50-0"].arguments.lr) == (0.01, 0.001)
    assert all(
        study.pretrained and study.start.endswith(".tv_in1k") for study in studies.values() if study.name != "chain-0"
    )


def test_a_trial_is_smaller_and_an_empty_one_is_refused(reproduce):
    plan = reproduce.PLANS["small"].smaller(epochs=1, corruptions=("fog", "contrast"))
    assert {part.arguments.epochs for part in plan.parts} == {1}
    assert {study.corruptions for study in plan.studies} <= {("fog", "contrast")}
    assert plan["all-corruptions"].arguments.corruption == ("fog", "contrast")
    with pytest.raises(OptionError, match="has none of the corruptions glass_blur"):
        reproduce.PLANS["small"].smaller(corruptions=("glass_blur",))


# --- what was measured before ---


@pytest.mark.parametrize("name", ["main", "consistent", "light", "composable", "shifts", "recovery"])
def test_earlier_results_are_rows_of_the_experiments(reproduce, name):
    from claims.earlier import earlier_rows

    rows = earlier_rows(name, SCRIPTS / "results")
    assert rows
    assert all(row["from"].endswith(".json") and row["n"] >= 300 for row in rows)
    assert rows[0]["study"] in reproduce.EXPERIMENTS[name].table(rows)
    assert not earlier_rows(name, SCRIPTS / "claims")
