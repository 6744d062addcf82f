"""Composable: several signatures at once, by each way of combining them."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from statistics import mean

import combining_table

from claims.experiment import Experiment
from claims.judging import Case, Claim, Row, Rows
from claims.lab import Job, Lab
from claims.parts import PlannedStudy
from claims.rows import of, values
from hf_rws.study.measuring import StudyImages


def _composable(lab: Lab) -> Iterator[Job]:
    for study in lab.firsts[:1]:
        names = lab.corruptions(study)
        if len(names) > 1:
            bench = cache(partial(_bench, lab, study))
            for members in combining_table.random_sets(names, seed=0):
                yield Job({"study": study.name, "members": list(members)}, partial(_combined, bench, members))


def _bench(lab: Lab, study: PlannedStudy) -> combining_table.Bench:
    """With validation images to tune on."""
    images = lab.images(study.images)
    validation = lab.data(study.images).validation.subset(slice(combining_table.TUNING_IMAGES))
    tuning = StudyImages(replace(validation, images=validation.images.to(lab.device)), images.severity)
    return combining_table.Bench(lab.study(study.name), lab.signatures(study), images, tuning)


def _combined(bench: Callable[[], combining_table.Bench], members: tuple[str, ...]) -> Row:
    return {"rules": [asdict(row) for row in bench().rows(members)]}


def _rules(rows: Rows) -> list[combining_table.Row]:
    return [combining_table.Row(**rule) for row in rows for rule in row["rules"]]


def _together(rule: str, rival: str) -> Callable[[Rows], Iterator[Case]]:
    """For each number of signatures: the mean RA on the members, by one rule and by another."""

    def cases(rows: Rows) -> Iterator[Case]:
        for study in values(rows, "study"):
            found = _rules(of(rows, study=study))
            for size in sorted({len(row.members) for row in found}):
                ra = {
                    name: mean(row.ra_members for row in found if (row.rule, len(row.members)) == (name, size))
                    for name in (rule, rival)
                }
                yield Case(f"{study}, {size} at once", ra[rule], ra[rival])

    return cases


def _table(rows: Rows) -> str:
    parts = [f"{study}:\n\n{combining_table.table(_rules(of(rows, study=study)))}" for study in values(rows, "study")]
    return "\n\n".join(parts)


EXPERIMENT = Experiment(
    "Can several signatures be on at once?",
    _composable,
    (
        Claim(
            "Signatures can be added up for several corruptions at once.",
            "For each number of signatures, the mean RA on the members with their sum is at least that of the "
            "unpatched model.",
            _together("sum", "unpatched"),
        ),
        Claim(
            "Their mean makes a model robust to several corruptions at once.",
            "For each number of signatures, the mean RA on the members with their mean is at least that of the "
            "unpatched model.",
            _together("mean (1/n)", "unpatched"),
        ),
        Claim(
            "Several together serve better than the best single one.",
            "For each number of signatures, the mean RA on the members with their mean is at least that with the "
            "best single member.",
            _together("mean (1/n)", "best single"),
        ),
    ),
    _table,
)
