"""Rows of accuracies: finding them, the share of a gain, and tables of them."""

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import mean
from typing import Any

from claims.judging import Case, Row, Rows
from hf_rws.study.measuring import recovery

STANDARD, ROBUST, AUGMENTED = "standard", "robust models", "data augmentation"


def of(rows: Rows, **key: Any) -> list[Row]:
    """The rows that agree with all of this."""
    return [row for row in rows if all(row.get(name) == value for name, value in key.items())]


def values(rows: Rows, name: str) -> list[Any]:
    """What stands in a column, each once."""
    return list(dict.fromkeys(row[name] for row in rows if name in row))


def average(rows: Rows, study: str, model: str) -> float:
    """The mean RA over the corruptions; NaN if there is no such row."""
    found = of(rows, study=study, model=model)
    return mean(found[0]["ra"].values()) if found else math.nan


def share(rows: Rows, study: str, model: str, full: str = ROBUST) -> float:
    """The recovery of the first row of a model; NaN if there is none."""
    found = of(rows, study=study, model=model)
    return share_of(rows, found[0], full) if found else math.nan


def share_of(rows: Rows, row: Row, full: str = ROBUST) -> float:
    """The recovery: the share that a row has of the gain in RA of `full` over the standard model; NaN if unknown."""
    found = [of(rows, study=row["study"], model=name) for name in (STANDARD, full)]
    if not all(found):
        return math.nan
    own, (standard, best) = row["ra"], (references[0]["ra"] for references in found)
    names = [name for name in own if name in standard and name in best]
    return recovery(*([ra[name] for name in names] for ra in (standard, own, best)))


def pairs(rows: Rows, model: str, other: str, what: str = "ra") -> Iterator[Case]:
    """For each study and corruption: `model` has at least what `other` has."""
    for row in of(rows, model=model):
        for rival in of(rows, study=row["study"], model=other):
            for name in (name for name in row[what] if name in rival[what]):
                yield Case(f"{row['study']}, {name}", row[what][name], rival[what][name])


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines))


def percent(value: float) -> str:
    """An accuracy as a cell, empty for NaN."""
    return "" if math.isnan(value) else f"{100 * value:.1f}"


def accuracy_table(rows: Rows, full: str = ROBUST) -> str:
    """TA, RA and recovery of each model of each study: means over the corruptions."""
    lines = []
    for row in (row for row in rows if "model" in row):
        gained = math.nan if row["model"] == STANDARD else share_of(rows, row, full)
        lines.append(
            [
                row["study"],
                f"{row['model']}, from {row['source']}" if "source" in row else row["model"],
                str(len(row["ra"])),
                f"{row['nbytes'] / 1e6:.3f}" if "nbytes" in row else "",
                percent(mean(row["ta"].values())),
                percent(mean(row["ra"].values())),
                "" if math.isnan(gained) else f"{gained:.2f}",
            ]
        )
    return markdown(["study", "model", "corruptions", "MB", "TA", "RA", "recovery"], lines)
