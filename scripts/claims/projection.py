"""Projection: on everything, on the weights, off; with and without batch norm."""

from collections.abc import Callable, Iterator
from functools import partial

from claims.experiment import Experiment
from claims.judging import Case, Claim, Rows
from claims.lab import Job, Lab
from claims.rows import accuracy_table, pairs

PROJECTIONS = {"weights projected": "weights", "everything projected": "all", "nothing projected": None}


def _projection(lab: Lab) -> Iterator[Job]:
    for study in lab.firsts:
        names = lab.corruptions(study)
        yield from lab.references(study, names)
        for called, projection in PROJECTIONS.items():
            yield Job(
                {"study": study.name, "model": called}, partial(lab.extracted, study, names, projection=projection)
            )


def _projected(what: str) -> Callable[[Rows], Iterator[Case]]:
    return lambda rows: pairs(rows, "weights projected", "nothing projected", what)


EXPERIMENT = Experiment(
    "What is the projection worth?",
    _projection,
    (
        Claim(
            "Projected signatures make models at least as robust.",
            "For each study and corruption, RA with the weights projected is at least RA with nothing projected.",
            _projected("ra"),
        ),
        Claim(
            "Projected signatures cost no more on clean images.",
            "For each study and corruption, TA with the weights projected is at least TA with nothing projected.",
            _projected("ta"),
        ),
    ),
    accuracy_table,
)
