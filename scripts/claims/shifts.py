"""Several shifts: one signature for all corruptions, extracted from data augmentation or distilled."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import hf_rws
from claims.experiment import Experiment
from claims.judging import Case, Claim, Row, Rows
from claims.lab import Job, Lab, accuracies
from claims.parts import PlannedModel, PlannedStudy
from claims.rows import AUGMENTED, STANDARD, accuracy_table, pairs, share
from hf_rws.data.datasets import drawn
from hf_rws.layers import DEFAULT_NUM_LAYERS
from hf_rws.timm_repo import MODEL_NAME


def jobs(lab: Lab) -> Iterator[Job]:
    """What there is to measure of each model that was trained on several corruptions, and of the study beside it."""
    for part in lab.plan.parts:
        if part.arguments.corruption and lab.has(part):
            for study in lab.studies:
                alike = (study.start, study.images, study.arguments.seed)
                if alike == (part.start, part.images, part.arguments.seed):
                    yield from _one_for_all(lab, study, part)


def _one_for_all(lab: Lab, study: PlannedStudy, part: PlannedModel) -> Iterator[Job]:
    names = tuple(name for name in lab.corruptions(study) if name in part.arguments.corruption)
    yield from lab.references(study, names)
    key = {"study": study.name, "model": AUGMENTED, "trained": part.name}
    yield Job(key, partial(_augmented, lab, part, names))
    key = {"study": study.name, "model": "extracted, one for each"}
    yield Job(key, partial(lab.extracted, study, names))
    for layers in (DEFAULT_NUM_LAYERS, "all"):
        called = f"one for all, {layers} layers"
        key = {"study": study.name, "model": f"extracted, {called}"}
        yield Job(key, partial(_extracted, lab, study, part, names, layers))
        key = {"study": study.name, "model": f"distilled, {called}", "images": lab.distil_images}
        yield Job(key, partial(_distilled, lab, study, names, layers))


def _augmented(lab: Lab, part: PlannedModel, names: tuple[str, ...]) -> Row:
    found = accuracies(lab.base(part), lab.images(part.images), names)
    return {**found, "nbytes": (part.base(lab.folder) / MODEL_NAME).stat().st_size}


def _extracted(lab: Lab, study: PlannedStudy, part: PlannedModel, names: tuple[str, ...], layers: Any) -> Row:
    signature = hf_rws.extract(
        lab.base(part), lab.base(study), lab.start(study), bits=None, num_layers=layers,
        corruption=part.arguments.corruption, severity=part.arguments.severity,
    )  # fmt: skip
    return lab.everywhere(study, signature, names)


def _distilled(lab: Lab, study: PlannedStudy, names: tuple[str, ...], layers: Any) -> Row:
    train, seed = lab.data(study.images).train, study.arguments.seed
    chosen = drawn(len(train), lab.distil_images, seed)
    signature = hf_rws.distill(
        lab.base(study), train.images[chosen], corruption=names, bits=None, num_layers=layers, seed=seed,
        progress=False,
    )  # fmt: skip
    return lab.everywhere(study, signature, names)


def _keeps_augmentation(rows: Rows) -> Iterator[Case]:
    for row in rows:
        if row["model"].startswith("extracted, one for all"):
            yield Case(f"{row['study']}, {row['model']}", share(rows, row["study"], row["model"], AUGMENTED), 0.8)


def _helps_everywhere(rows: Rows) -> Iterator[Case]:
    yield from pairs(rows, f"extracted, one for all, {DEFAULT_NUM_LAYERS} layers", STANDARD)


EXPERIMENT = Experiment(
    "Can one signature serve all corruptions?",
    jobs,
    (
        Claim(
            "One signature extracted from a model that was trained on several corruptions helps against each.",
            "Under each corruption, RA with the one signature (7 layers) is at least RA without.",
            _helps_everywhere,
        ),
        Claim(
            "It carries what data augmentation brings.",
            "For 7 and for all layers, the gain in mean RA of the one signature is at least 0.8 of that of the model "
            "trained with data augmentation.",
            _keeps_augmentation,
        ),
    ),
    accuracy_table,
)
