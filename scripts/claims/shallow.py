"""Shallow: in which layers robust and standard models differ, and how many of them a signature needs."""

from collections.abc import Iterator
from functools import partial
from statistics import mean

from claims.experiment import Experiment
from claims.judging import Case, Claim, Row, Rows
from claims.lab import Job, Lab
from claims.parts import PlannedStudy
from claims.rows import accuracy_table, markdown, of, share, values
from hf_rws import plots
from hf_rws.extraction import relative_differences
from hf_rws.layers import DEFAULT_NUM_LAYERS, first_layers


def _shallow(lab: Lab) -> Iterator[Job]:
    for study in lab.studies:
        for name in lab.corruptions(study):
            key = {"what": "differences", "study": study.name, "corruption": name}
            yield Job(key, partial(_differences, lab, study, name))
    for study in lab.firsts:
        names, count = lab.five(study), len(first_layers(lab.base(study), "all"))
        yield from lab.references(study, names)
        for layers in sorted({*range(1, count, 2), min(DEFAULT_NUM_LAYERS, count), count}):
            key = {"study": study.name, "model": f"{layers} layers", "layers": layers, "depth": count}
            yield Job(key, partial(lab.extracted, study, names, num_layers=layers))


def _differences(lab: Lab, study: PlannedStudy, name: str) -> Row:
    return {"layers": relative_differences(lab.robust(study, name), lab.base(study))}


def _differs(rows: Rows) -> Iterator[Case]:
    for row in of(rows, what="differences"):
        first, rest = row["layers"][:DEFAULT_NUM_LAYERS], row["layers"][DEFAULT_NUM_LAYERS:]
        if rest:
            yield Case(f"{row['study']}, {row['corruption']}", mean(first), mean(rest))


def _is_enough(rows: Rows) -> Iterator[Case]:
    for row in of(rows, layers=DEFAULT_NUM_LAYERS):
        seven, everything = (share(rows, row["study"], f"{n} layers") for n in (DEFAULT_NUM_LAYERS, row["depth"]))
        yield Case(row["study"], seven, 0.9 * everything)


def _by_layer(rows: Rows) -> dict[str, list[float]]:
    """For each study the relative difference of each layer, the mean over its corruptions."""
    found = of(rows, what="differences")
    layers = {study: [row["layers"] for row in of(found, study=study)] for study in values(found, "study")}
    return {study: [mean(column) for column in zip(*each, strict=True)] for study, each in layers.items()}


def _table(rows: Rows) -> str:
    lines = []
    for study, layers in _by_layer(rows).items():
        part, equal = sum(layers[:DEFAULT_NUM_LAYERS]) / sum(layers), min(DEFAULT_NUM_LAYERS / len(layers), 1)
        lines.append([study, f"{part:.2f}", f"{equal:.2f}", " ".join(f"{value:.2f}" for value in layers)])
    differences = markdown(["study", "share of the first 7", "if all were equal", "layer by layer"], lines)
    return f"{differences}\n\n{accuracy_table(rows)}"


EXPERIMENT = Experiment(
    "Where do robust and standard models differ, and how many layers does a signature need?",
    _shallow,
    (
        Claim(
            "The weights of robust and standard models mostly differ in the shallow layers.",
            "For each study and corruption, the mean over the first 7 layers of the norm of (robust - standard) over "
            "that of standard is at least its mean over the remaining layers.",
            _differs,
        ),
        Claim(
            "A few shallow layers are enough for a signature.",
            "In each study, the recovery with 7 layers is at least 0.9 of that with all layers.",
            _is_enough,
        ),
    ),
    _table,
    lambda rows, path: plots.layer_differences(_by_layer(rows), save=path),
)
