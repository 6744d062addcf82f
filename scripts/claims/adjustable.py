"""Adjustable: what the scale of a signature does, from 0 to 1.5, and what is left of one that was taken off."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean

import torch

from claims.experiment import Experiment
from claims.judging import Case, Claim, Row, Rows
from claims.lab import Job, Lab
from claims.parts import PlannedStudy
from claims.rows import markdown, of, percent, values
from hf_rws import plots
from hf_rws.study.measuring import CURVE_SCALES, measure_scales

_POINT = 0.01  # of accuracy


def _adjustable(lab: Lab) -> Iterator[Job]:
    for study in lab.firsts:
        for name in lab.corruptions(study):
            for bits in (None, "default"):
                key = {"study": study.name, "corruption": name, "bits": bits or "float32"}
                yield Job(key, partial(_curve, lab, study, name, bits))


def _curve(lab: Lab, study: PlannedStudy, name: str, bits: str | None) -> Row:
    base, images = lab.base(study), lab.images(study.images)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    corrupted = images.corrupted(name)
    curve = measure_scales(base, lab.signatures(study, bits=bits)[name], images.clean, corrupted, CURVE_SCALES)
    identical = all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    return {"n": len(images.clean), "curve": curve, "identical": identical}


def _grows(rows: Rows) -> Iterator[Case]:
    for row in of(rows, bits="float32"):
        ra = [point["ra"] for point in row["curve"] if point["scale"] <= 1]
        error = math.sqrt(0.25 / row["n"])
        steps = [after - before + error for before, after in pairwise(ra)]
        yield Case(f"{row['study']}, {row['corruption']}", min(*steps, ra[-1] - ra[0]), 0.0)


def _identical(rows: Rows) -> Iterator[Case]:
    for row in rows:
        yield Case(f"{row['study']}, {row['corruption']}, {row['bits']}", float(row["identical"]), 1.0)


def _quantized_too(rows: Rows) -> Iterator[Case]:
    for row in of(rows, bits="default"):
        for wide in of(rows, study=row["study"], corruption=row["corruption"], bits="float32"):
            few, many = (next(p["ra"] for p in one["curve"] if p["scale"] == 1) for one in (row, wide))
            yield Case(f"{row['study']}, {row['corruption']}", few, many - _POINT)


def _table(rows: Rows) -> str:
    scales = [point["scale"] for point in rows[0]["curve"]] if rows else []
    lines = []
    for study in values(rows, "study"):
        for bits in values(rows, "bits"):
            for what in ("ta", "ra"):
                curves = [[point[what] for point in row["curve"]] for row in of(rows, study=study, bits=bits)]
                lines.append(
                    [study, bits, what.upper(), *(percent(mean(column)) for column in zip(*curves, strict=True))]
                )
    means = markdown(["study", "bits", "", *(f"{scale:g}" for scale in scales)], lines)
    lines = [
        [row["study"], row["corruption"], *(percent(point["ra"]) for point in row["curve"])]
        for row in of(rows, bits="float32")
    ]
    return f"{means}\n\n{markdown(['study', 'RA, float32', *(f'{scale:g}' for scale in scales)], lines)}"


def _picture(rows: Rows, path: Path) -> None:
    for study in values(rows, "study")[:1]:
        curves = {
            row["corruption"]: [(point["scale"], 100 * point["ra"]) for point in row["curve"]]
            for row in of(rows, study=study, bits="float32")
        }
        plots.curves(curves, x="scale of the signature", y="RA, %", save=path)


EXPERIMENT = Experiment(
    "Does the scale of a signature adjust its strength?",
    _adjustable,
    (
        Claim(
            "The strength of a signature can be adjusted: robustness grows with its scale.",
            "For each corruption, RA at scale 1 is at least RA at 0, and at each quarter from 0 to 1 at least what "
            "it was before, but for one standard error (margin at least 0).",
            _grows,
        ),
        Claim(
            "A signature can be put on and taken off again without a trace.",
            "For each signature, every weight is identical afterwards (1 at least 1).",
            _identical,
        ),
        Claim(
            "Quantized signatures serve as well.",
            "For each corruption, RA at scale 1 with 4 bits is at least that in float32 minus one point.",
            _quantized_too,
        ),
    ),
    _table,
    _picture,
)
