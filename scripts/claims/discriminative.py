"""Discriminative: whether a signature tells its corruption, by cosines over seeds and by accuracy."""

from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import mean

import torch

from claims import cosines
from claims.experiment import Experiment
from claims.judging import Case, Claim, Row, Rows
from claims.lab import Job, Lab
from claims.parts import PlannedStudy
from claims.rows import markdown, of, percent, values
from hf_rws import plots


def _discriminative(lab: Lab) -> Iterator[Job]:
    for group in lab.seeds:
        for one, other in combinations(group, 2):
            yield from cosines.jobs(lab, one, other)
    for study in lab.firsts[:1]:
        for name in lab.corruptions(study):
            key = {"what": "matrix", "study": study.name, "signature": name}
            yield Job(key, partial(_everywhere, lab, study, name))


def _everywhere(lab: Lab, study: PlannedStudy, name: str) -> Row:
    return lab.everywhere(study, lab.signatures(study)[name], lab.corruptions(study))


def _projection_tells(rows: Rows) -> Iterator[Case]:
    plain = cosines.gaps(rows, "robust - start")
    for name, gap in cosines.gaps(rows, "projected").items():
        if name in plain:
            yield Case(name, gap, plain[name])


def _matrices(rows: Rows) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    """For each study the RA of each signature under each corruption."""
    found = of(rows, what="matrix")
    for study in values(found, "study"):
        yield study, {row["signature"]: row["ra"] for row in of(found, study=study)}


def _own_is_best(rows: Rows) -> Iterator[Case]:
    for study, matrix in _matrices(rows):
        for name in matrix:
            others = [ra[name] for other, ra in matrix.items() if other != name]
            if others:
                yield Case(f"{study}, {name}", matrix[name][name], max(others))


def _table(rows: Rows) -> str:
    parts = [cosines.summary(rows)]
    for study, matrix in _matrices(rows):
        lines = [[name, *(percent(ra[shown]) for shown in matrix)] for name, ra in matrix.items()]
        parts += [
            f"RA of each signature (row) under each corruption (column), {study}:",
            markdown(["", *matrix], lines),
        ]
    return "\n\n".join(parts)


def _picture(rows: Rows, path: Path) -> None:
    """Mean cosines between the signatures of different seeds."""
    near = cosines.across(rows, "projected")
    names = [name for name in dict.fromkeys(label for _, label in near) if any(name in one for one in near.values())]
    if names:
        lines = [[one for (_, label), one in near.items() if label == name] for name in names]
        matrix = [[mean(one[name] for one in line if name in one) for name in names] for line in lines]
        plots.similarity(torch.tensor(matrix), names, save=path)


EXPERIMENT = Experiment(
    "Does a signature tell its corruption?",
    _discriminative,
    (
        Claim(
            "Signatures are discriminative: those of one corruption are alike, and unlike those of others.",
            "For each signature, its mean cosine with those of the same corruption from the other seeds is at least "
            "its largest mean cosine with those of another corruption.",
            cosines.is_nearest("projected"),
        ),
        Claim(
            "Projecting out what standard fine-tuning does makes signatures more discriminative.",
            "For each signature, (cosine within its corruption - mean cosine with others) is at least that of "
            "robust - start without projection.",
            _projection_tells,
        ),
        Claim(
            "A signature serves its own corruption best.",
            "Under each corruption, RA with its own signature is at least that with any other signature.",
            _own_is_best,
        ),
    ),
    _table,
    _picture,
)
