"""The main table: standard, augmented and robust models, extracted and distilled signatures."""

from collections.abc import Iterator, Sequence
from functools import partial

from claims import shifts
from claims.experiment import Experiment
from claims.judging import Case, Claim, Row, Rows
from claims.lab import Job, Lab
from claims.parts import PlannedStudy
from claims.rows import AUGMENTED, ROBUST, accuracy_table, pairs, share, values


def _main(lab: Lab) -> Iterator[Job]:
    first_of_dataset = {study.images: study.name for study in reversed(lab.studies)}
    for study in lab.studies:
        names = lab.corruptions(study)
        yield from lab.references(study, names)
        yield Job({"study": study.name, "model": "extracted"}, partial(lab.extracted, study, names, bits="default"))
        if first_of_dataset[study.images] == study.name:
            key = {"study": study.name, "model": "distilled", "images": lab.distil_images}
            yield Job(key, partial(_distilled, lab, study, names))
    yield from (job for job in shifts.jobs(lab) if job.key["model"] == AUGMENTED)


def _distilled(lab: Lab, study: PlannedStudy, names: Sequence[str]) -> Row:
    return lab.each(study, lab.distilled(study, names))


def _recovers(rows: Rows) -> Iterator[Case]:
    for study in values(rows, "study"):
        yield Case(study, share(rows, study, "extracted"), 0.9)


EXPERIMENT = Experiment(
    "What do signatures bring of what robust models bring?",
    _main,
    (
        Claim(
            "A patched model comes close to the robust models.",
            "In each study, the recovery of the extracted signatures (4 bits) is at least 0.9.",
            _recovers,
        ),
        Claim(
            "Patching costs no more on clean images than robust training does.",
            "For each study and corruption, TA with the extracted signature is at least TA of the robust model.",
            lambda rows: pairs(rows, "extracted", ROBUST, "ta"),
        ),
    ),
    accuracy_table,
)
