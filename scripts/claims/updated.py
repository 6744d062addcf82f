"""Updated: what the signatures of a clean model are worth when it has gone on learning."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from claims.experiment import Experiment
from claims.judging import Case, Claim, Row, Rows
from claims.lab import Job, Lab, accuracies
from claims.parts import PlannedModel, PlannedStudy
from claims.rows import STANDARD, accuracy_table, average, share, values
from hf_rws import plots

ORIGINAL, OWN = "with the original signatures", "with its own, distilled"


def _updated(lab: Lab) -> Iterator[Job]:
    chain = [part for part in map(lab.plan.__getitem__, lab.plan.chain) if lab.has(part)]
    if not chain or not isinstance(chain[0], PlannedStudy):
        return
    names = lab.five(chain[0])
    for part in chain:
        yield Job({"study": part.name, "model": STANDARD}, partial(_unpatched, lab, part, names))
        yield Job({"study": part.name, "model": ORIGINAL}, partial(_original, lab, chain[0], part, names))
        yield Job({"study": part.name, "model": OWN}, partial(_own, lab, part, names))


def _unpatched(lab: Lab, part: PlannedModel, names: Sequence[str]) -> Row:
    return accuracies(lab.base(part), lab.images(part.images), names)


def _original(lab: Lab, study: PlannedStudy, part: PlannedModel, names: Sequence[str]) -> Row:
    return lab.each(part, [lab.signatures(study)[name] for name in names])


def _own(lab: Lab, part: PlannedModel, names: Sequence[str]) -> Row:
    return lab.each(part, lab.distilled(part, names))


def _half_of_a_new_one(rows: Rows) -> Iterator[Case]:
    for study in values(rows, "study")[1:]:
        yield Case(study, share(rows, study, ORIGINAL, full=OWN), 0.5)


def _gain_is_kept(rows: Rows) -> Iterator[Case]:
    gains = {study: average(rows, study, ORIGINAL) - average(rows, study, STANDARD) for study in values(rows, "study")}
    first = next(iter(gains), None)
    for study, gain in gains.items():
        if study != first:
            yield Case(study, gain, 0.5 * gains[first or study])


def _picture(rows: Rows, path: Path) -> None:
    studies = values(rows, "study")
    curves = {
        model: [(place, 100 * average(rows, study, model)) for place, study in enumerate(studies)]
        for model in values(rows, "model")
    }
    plots.curves(curves, x="updates of the model", y="RA, %", save=path)


EXPERIMENT = Experiment(
    "Do signatures still fit a clean model that has gone on learning?",
    _updated,
    (
        Claim(
            "A signature still makes the clean model robust after it was updated.",
            "After each update, the gain in RA of the original signatures is at least half of their gain before the "
            "updates.",
            _gain_is_kept,
        ),
        Claim(
            "No new signature is needed after an update.",
            "After each update, the gain in RA of the original signatures is at least half of that of signatures "
            "that were distilled from the updated model.",
            _half_of_a_new_one,
        ),
    ),
    partial(accuracy_table, full=OWN),
    _picture,
)
