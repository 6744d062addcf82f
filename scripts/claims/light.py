"""Light: how few bits a signature needs."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import bits_table

from claims.experiment import Experiment
from claims.judging import Case, Claim, Row, Rows
from claims.lab import Job, Lab
from claims.parts import PlannedStudy
from hf_rws import plots

SETTINGS = bits_table.SETTINGS[:12]  # those of 7 layers with one width for all, and the presets
_POINT = 0.01  # of accuracy


def _light(lab: Lab) -> Iterator[Job]:
    for study in lab.firsts:
        yield Job({"study": study.name}, partial(_bits, lab, study))


def _bits(lab: Lab, study: PlannedStudy) -> Row:
    rows = bits_table.measure(lab.study(study.name), lab.images(study.images), SETTINGS)
    return {"settings": [asdict(row) for row in rows]}


def _settings(rows: Rows) -> list[bits_table.Row]:
    found = [bits_table.Row(**setting) for row in rows for setting in row["settings"]]
    return [replace(row, bits=tuple(row.bits) if isinstance(row.bits, list) else row.bits) for row in found]


def _thirteen_times(rows: Rows) -> Iterator[Case]:
    for row in rows:
        found = _settings([row])
        small = [one.ra for one in found if one.full_copy_nbytes >= 13 * one.full_nbytes]
        if small:
            yield Case(row["study"], max(small), found[0].ra - _POINT)


def _picture(rows: Rows, path: Path) -> None:
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        found = _settings([row])
        points = [(one.full_copy_nbytes / one.full_nbytes, 100 * (one.ra - found[0].ra)) for one in found]
        curves[row["study"]] = sorted(points)
    plots.curves(curves, x="times smaller than a copy of the model, at full width", y="RA against float32", save=path)


EXPERIMENT = Experiment(
    "How small can a signature be?",
    _light,
    (
        Claim(
            "Signatures are light: up to 13 times smaller than a model, with little loss.",
            "In each study there is a setting that is at least 13 times smaller than a copy of the model, and whose "
            "RA is at least that in float32 minus one point.",
            _thirteen_times,
        ),
    ),
    lambda rows: bits_table.table(_settings(rows)),
    _picture,
)
