"""Recovery: why extracted signatures bring what they bring: start, epochs, layers, projection, one at a time."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from claims.experiment import Experiment
from claims.judging import Case, Claim, Rows
from claims.lab import Job, Lab
from claims.projection import PROJECTIONS
from claims.rows import ROBUST, STANDARD, accuracy_table, share


def _recovery(lab: Lab) -> Iterator[Job]:
    varied = [study for study in lab.trained if study.varies]
    for usual in lab.firsts[:1]:
        names = lab.five(usual)
        for study in (usual, *varied):
            key = {"study": study.name, "factor": "usual" if study is usual else "{} {}".format(*study.varies or ())}
            for job in lab.references(study, names):
                yield replace(job, key={**job.key, **key})
            yield Job({**key, "model": "extracted"}, partial(lab.extracted, study, names))
        key = {"study": usual.name}
        for layers in (9, 11, "all"):
            yield Job({**key, "model": f"{layers} layers"}, partial(lab.extracted, usual, names, num_layers=layers))
        for called, projection in list(PROJECTIONS.items())[1:]:
            yield Job({**key, "model": called}, partial(lab.extracted, usual, names, projection=projection))
        both = partial(lab.extracted, usual, names, projection=None, num_layers="all")
        yield Job({**key, "model": "all layers, nothing projected"}, both)


def _can_be_had(rows: Rows) -> Iterator[Case]:
    found = [share(rows, row["study"], row["model"]) for row in rows if row["model"] not in (STANDARD, ROBUST)]
    known = [value for value in found if not math.isnan(value)]
    if known:
        yield Case("the best recipe", max(known), 0.9)


EXPERIMENT = Experiment(
    "Why do extracted signatures recover what they do, and can it be 0.9?",
    _recovery,
    (
        Claim(
            "Extracted signatures recover nine tenths of the robust models' gain.",
            "With one of the recipes of the table, the recovery is at least 0.9.",
            _can_be_had,
        ),
    ),
    accuracy_table,
    earlier="recovery.json",
)
