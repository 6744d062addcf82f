r"""The paper's claims one by one: train what they are about, measure, judge, and write the page of results.

    python scripts/reproduce.py train small --output-dir studies                    # or one --study at a time, at once
    python scripts/reproduce.py shallow small --output-dir studies                  # a sub-command for each claim ...
    python scripts/reproduce.py all small --output-dir studies                      # ... or all of them
    python scripts/reproduce.py page --output scripts/results/paper.md

The plan `paper` is the paper's own (VGG-16 and ResNet-50, CIFAR and Tiny-ImageNet, 50 epochs), `small` a smaller one;
`claims/plans.py` has both. What is finished is skipped and what was interrupted goes on, model by model and row by row.
A trial (`--epochs`, `--train-images`, `--corruption`) is told from the plan itself by `plan.json` in the output folder,
which belongs to one of them. Each claim leaves `<claim>.json`, `<claim>.md` and perhaps `<claim>.png` in `--results`. A
dataset of the Hub may lie in a folder: `--data uoft-cs/cifar10=folder`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from claims import EXPERIMENTS
from claims.earlier import earlier_rows
from claims.experiment import Experiment
from claims.judging import Claim, Row, Rows
from claims.lab import Lab
from claims.parts import Plan
from claims.plans import PLANS
from tqdm import tqdm

from hf_rws._files import write_whole
from hf_rws.errors import OptionError, RWSError
from hf_rws.study.provenance import about

RESULTS = Path(__file__).resolve().parent / "results"
NOT_RUN = "not run"
_NAMES = ("study", "studies", "source", "trained")  # columns that name parts of a plan
_KEPT_EVERY = 10.0  # seconds: so much measuring is lost at most


# --- training ---


def plan_of(options: argparse.Namespace) -> tuple[Plan, dict[str, Any]]:
    """The plan as it is trained in the output folder, and how it is smaller there, which the first training says.

    Raises:
        OptionError: The folder belongs to another plan or trial.
    """
    path = options.output_dir / "plan.json"
    kept = json.loads(path.read_text()) if path.is_file() else None
    wanted: dict[str, Any] = {"plan": options.plan, "trial": (kept or {}).get("trial", {})}
    if options.command == "train":
        given = {name: getattr(options, name) for name in ("epochs", "train_images", "corruption")}
        wanted["trial"] = {name: value for name, value in given.items() if value}
    if kept is not None and kept != wanted:
        raise OptionError(f"{options.output_dir} holds {kept}, not {wanted}: ask for the same, or give another folder")
    trial = wanted["trial"]
    plan = PLANS[options.plan].smaller(epochs=trial.get("epochs"), corruptions=tuple(trial.get("corruption", ())))
    if kept is None and options.command == "train" and not options.list:
        options.output_dir.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(wanted) + "\n")
    return plan, trial


def train(plan: Plan, options: argparse.Namespace) -> None:
    """Make the parts of a plan that are wanted, or all, in their order."""
    wanted = [plan[name] for name in options.study] if options.study else plan.parts
    sizes = {"train_images": options.train_images, "test_images": options.test_images}
    for part in wanted:
        if part.finished(options.output_dir):
            print(f"{part.name}: finished")
            continue
        began = time.monotonic()
        notes = {"dataset": part.images.dataset, "classes": part.images.classes, "half": part.images.half}
        part.make(options.output_dir, part.images.load(options.data, **sizes), {"plan": options.plan, **notes})
        print(f"{part.name}: {time.monotonic() - began:.0f} s", flush=True)


# --- measuring ---


def measure(name: str, experiment: Experiment, lab: Lab, trial: dict[str, Any], options: argparse.Namespace) -> None:
    """Measure what is missing of an experiment, judge its claims, and write them down with table and picture."""
    path = options.results / f"{name}.json"
    settings = {"plan": options.plan, "trial": trial, "test_images": options.test_images}
    settings["distil_images"] = options.distil_images
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"about": settings, "rows": []}
    if differing := [key for key, value in settings.items() if record["about"].get(key) != value]:
        raise OptionError(f"{path} was measured with other {', '.join(differing)}: give the same, or another --results")
    rows: list[Row] = record["rows"]
    if options.earlier is not None and not any("from" in row for row in rows):
        rows += earlier_rows(name, options.earlier)
    measured, written = len(rows), time.monotonic()
    try:
        for job in tqdm(experiment.jobs(lab), desc=name, unit="row"):
            if any(all(row.get(key) == value for key, value in job.key.items()) for row in rows):
                continue
            rows.append({**job.key, **job.measure()})
            if time.monotonic() - written > _KEPT_EVERY:
                _write(path, record)
                written = time.monotonic()
    finally:
        if len(rows) > measured:
            record["about"] = _about(lab, rows, {**settings, "command": _command(name, options)})
        _write(path, record | {"claims": [_judged(claim, rows) for claim in experiment.claims]})
    write_whole(path.with_suffix(".md"), _section(name, experiment, path, path) + "\n")
    if experiment.picture is not None and rows:
        experiment.picture(rows, path.with_suffix(".png"))
    for claim in experiment.claims:
        verdict = claim.judge(rows)
        print(f"{name}: {verdict.word}: {claim.statement} ({verdict.figure})", flush=True)


def _judged(claim: Claim, rows: Rows) -> dict[str, str]:
    return {"statement": claim.statement, "inequality": claim.inequality, **asdict(claim.judge(rows))}


def _write(path: Path, record: dict[str, Any]) -> None:
    write_whole(path, json.dumps(record, indent=1) + "\n")


def _about(lab: Lab, rows: Rows, settings: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the rows: images and seeds of the models that they name, machine, versions."""
    own = [row for row in rows if "from" not in row]
    named = set(_words([value for row in own for key, value in row.items() if key in _NAMES]))
    parts = [part for part in lab.plan.parts if part.name in named]
    n = {str(part.images): len(lab.images(part.images).clean) for part in parts}
    seeds = sorted({part.arguments.seed for part in parts})
    recipes = {part.name: part.arguments.summary() for part in parts}
    return about(n, seed=seeds, **settings, recipes=recipes)


def _words(value: Any) -> Iterator[str]:
    """All text in nested lists."""
    if isinstance(value, str):
        yield value
    else:
        for inner in value:
            yield from _words(inner)


def _command(name: str, options: argparse.Namespace) -> str:
    """What to write to have this measured again."""
    given = [f"--test-images {options.test_images}"] if options.test_images else []
    given += [f"--distil-images {options.distil_images}", *(f"--study {name}" for name in options.study)]
    return " ".join(["python scripts/reproduce.py", name, options.plan, "--output-dir studies", *given])


# --- the page ---


def page(results: Path, output: Path) -> str:
    """Every claim with its verdict, then every experiment with its table and picture; nothing but what was measured."""
    lines, sections = ["| | claim | verdict | |", "|---|---|---|---|"], []
    for name, experiment in EXPERIMENTS.items():
        path = results / f"{name}.json"
        record = json.loads(path.read_text()) if path.is_file() else None
        for claim in experiment.claims:
            word, figure = (NOT_RUN, "") if record is None else astuple(claim.judge(record["rows"]))
            lines.append(f"| [{name}](#{name}) | {claim.statement} | **{word}** | {figure} |")
        sections.append(_section(name, experiment, path, output))
    return "\n\n".join([_HEAD, "\n".join(lines), *sections]) + "\n"


_HEAD = """# The paper's claims, one by one

Each claim was written down as an inequality before it was measured (`scripts/claims`). A claim is **confirmed** if nine
cases in ten hold, **refuted** if fewer than half do, **partly** true between; **not testable here** if nothing that was
trained tells. The paper says more than stands here: anything else is not verified. TA is the accuracy on clean test
images, RA the one under the corruption, both means over the corruptions; recovery is the share of the robust models'
gain in RA. `python scripts/reproduce.py page` writes this page from the JSON files beside it."""


def _section(name: str, experiment: Experiment, path: Path, output: Path) -> str:
    """One experiment: its claims with their verdicts, the table, the picture, and where it is all from."""
    parts = [f"## {name}", experiment.question]
    if not path.is_file():
        return "\n\n".join([*parts, *(f"**{NOT_RUN}**: {claim.statement}" for claim in experiment.claims)])
    record = json.loads(path.read_text())
    for claim in experiment.claims:
        verdict = claim.judge(record["rows"])
        parts.append(f"**{verdict.word}**: {claim.statement}\n*{claim.inequality}* {verdict.figure}.")
    parts.append(
        experiment.table(record["rows"]) if record["rows"] else "Nothing was trained that it could be seen on."
    )
    if path.with_suffix(".png").is_file():
        picture = Path(os.path.relpath(path.with_suffix(".png"), output.parent)).as_posix()
        parts.append(f"![{experiment.question}]({picture})")
    return "\n\n".join([*parts, _provenance(record)])


def _provenance(record: dict[str, Any]) -> str:
    """On how many images, with which seeds, where and by which command; and what was measured before."""
    facts, lines = record["about"], []
    if "n" in facts:
        images = "; ".join(f"{count} test images of {name}" for name, count in facts["n"].items())
        machine = facts.get("gpu") or facts["cpu"]
        versions = ", ".join(f"{key} {facts[key]}" for key in ("torch", "timm", "hf_rws", "commit") if facts[key])
        lines.append(f"{images}; seeds {', '.join(map(str, facts['seed']))}; {machine}; {versions}")
        lines.append(f"`{facts['command']}`")
        if facts["trial"]:
            smaller = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts["trial"].items())
            lines.append(f"**A trial, smaller than the plan**: {smaller}.")
    for file in dict.fromkeys(row["from"] for row in record["rows"] if "from" in row):
        old = [row for row in record["rows"] if row.get("from") == file]
        studies, n = (
            ", ".join(str(value) for value in dict.fromkeys(row[key] for row in old)) for key in ("study", "n")
        )
        lines.append(f"From `{file}`, measured before: {studies} (n = {n}).")
    return "\n\n".join(lines)


# --- the command line ---


def main(given: Sequence[str] | None = None) -> None:
    """One sub-command."""
    options = _parser().parse_args(given)
    if options.command == "page":
        write_whole(options.output, page(options.results, options.output))
        return
    plan, trial = plan_of(options)
    if options.command == "train":
        if options.list:
            print("\n".join(part.name for part in plan.parts))
        else:
            train(plan, options)
        return
    lab = Lab(
        plan,
        options.output_dir,
        folders=options.data,
        test_images=options.test_images,
        distil_images=options.distil_images,
        only=options.study,
    )
    for name in EXPERIMENTS if options.command == "all" else [options.command]:
        measure(name, EXPERIMENTS[name], lab, trial, options)


class _Folders(argparse.Action):
    """ID=FOLDER, into a dictionary."""

    def __call__(self, parser: Any, namespace: Any, given: Any, option_string: str | None = None) -> None:
        dataset, _, folder = given.partition("=")
        if not folder:
            parser.error(f"--data is a dataset and the folder that stands for it, ID=FOLDER, got {given!r}")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), dataset: folder})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("plan", choices=PLANS)
    shared.add_argument("--output-dir", type=Path, required=True, help="of what is trained")
    shared.add_argument("--data", action=_Folders, default={}, metavar="ID=FOLDER", help="a folder for a Hub dataset")
    shared.add_argument("--study", action="append", default=[], help="only this part of the plan; repeatable")
    shared.add_argument("--test-images", type=int, help="only so many, drawn at random")
    training = commands.add_parser("train", parents=[shared], help="make the models and studies of a plan")
    training.add_argument("--epochs", type=int, help="so many everywhere, for a trial")
    training.add_argument("--train-images", type=int, help="only so many, for a trial")
    training.add_argument("--corruption", action="append", default=[], help="only these, for a trial")
    training.add_argument("--list", action="store_true", help="only say what the plan holds")
    measured = argparse.ArgumentParser(add_help=False)
    measured.add_argument("--results", type=Path, default=RESULTS / "paper", help="folder of JSON, tables and pictures")
    measured.add_argument("--distil-images", type=int, default=500, help="distil signatures from so many images")
    measured.add_argument("--earlier", type=Path, help="folder of earlier results that count too, e.g. scripts/results")
    for name, experiment in EXPERIMENTS.items():
        commands.add_parser(name, parents=[shared, measured], help=experiment.question)
    commands.add_parser("all", parents=[shared, measured], help="all of these")
    written = commands.add_parser("page", help="write the page from what was measured")
    written.add_argument("--results", type=Path, default=RESULTS / "paper")
    written.add_argument("--output", type=Path, default=RESULTS / "paper.md")
    return parser


if __name__ == "__main__":
    try:
        main()
    except RWSError as error:
        sys.exit(f"error: {error}")
