"""Cosines between the signatures of several studies, and whether the nearest is of the same corruption."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from statistics import mean
from typing import Any

from claims.judging import Case, Row, Rows
from claims.lab import Job, Lab
from claims.parts import PlannedStudy
from claims.rows import markdown, of

# What is compared: the name, and the differences that signatures are made of
KINDS: dict[str, dict[str, Any]] = {
    "projected": {"projection": "weights"},
    "robust - standard": {"projection": None},
    "robust - start": {"projection": None, "from_start": True},
}


def jobs(lab: Lab, one: PlannedStudy, other: PlannedStudy, kinds: Iterable[str] = KINDS) -> Iterator[Job]:
    """Cosines between the signatures of two studies, of some kinds."""
    for kind in kinds:
        key = {"what": "cosines", "kind": kind, "studies": [one.name, other.name]}
        yield Job(key, partial(_cosines, lab, one, other, kind))


def _cosines(lab: Lab, one: PlannedStudy, other: PlannedStudy, kind: str) -> Row:
    lines, columns = (lab.signatures(study, **KINDS[kind]) for study in (one, other))
    matrix = [[round(line.cosine(column), 4) for column in columns.values()] for line in lines.values()]
    return {"corruptions": [list(lines), list(columns)], "cosines": matrix}


def across(rows: Rows, kind: str) -> dict[tuple[str, str], dict[str, float]]:
    """For each signature (study, corruption) its mean cosine with each corruption's signatures of the other studies."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in of(rows, what="cosines", kind=kind):
        (one, other), (lines, columns) = row["studies"], row["corruptions"]
        for label, line in zip(lines, row["cosines"], strict=True):
            for name, value in zip(columns, line, strict=True):
                found.setdefault((one, label), {}).setdefault(name, []).append(value)
                found.setdefault((other, name), {}).setdefault(label, []).append(value)
    return {signature: {name: mean(each) for name, each in near.items()} for signature, near in found.items()}


def is_nearest(kind: str) -> Callable[[Rows], Iterator[Case]]:
    """Of the other studies' signatures, those of the same corruption are the nearest."""

    def cases(rows: Rows) -> Iterator[Case]:
        for (study, label), near in across(rows, kind).items():
            others = _others(near, label)
            if label in near and others:
                yield Case(f"{study}, {label}", near[label], max(others))

    return cases


def gaps(rows: Rows, kind: str) -> dict[str, float]:
    """For each signature how much nearer its own corruption is than the mean of the others."""
    return {
        f"{study}, {label}": near[label] - mean(_others(near, label))
        for (study, label), near in across(rows, kind).items()
        if label in near and len(near) > 1
    }


def summary(rows: Rows) -> str:
    """A line for each kind."""
    lines = []
    for kind in KINDS:
        found, cases = across(rows, kind), list(is_nearest(kind)(rows))
        if cases:
            within = mean(near[label] for (_, label), near in found.items() if label in near)
            between = mean(value for (_, label), near in found.items() for value in _others(near, label))
            hits = sum(case.holds for case in cases)
            lines.append([kind, f"{hits} of {len(cases)}", f"{within:.3f}", f"{between:.3f}"])
    return markdown(["signature", "nearest has the same corruption", "cosine within", "between"], lines)


def _others(near: dict[str, float], label: str) -> list[float]:
    return [value for name, value in near.items() if name != label]
