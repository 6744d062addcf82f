"""Consistent: signatures of one dataset beside those of another, and on its models."""

from collections.abc import Iterator
from functools import partial
from itertools import combinations

from claims import cosines
from claims.experiment import Experiment
from claims.judging import Case, Claim, Row, Rows
from claims.lab import Job, Lab
from claims.parts import PlannedStudy
from claims.rows import STANDARD, accuracy_table, of, pairs, share, share_of

_KINDS = ("projected", "robust - standard")


def _consistent(lab: Lab) -> Iterator[Job]:
    for one, other in combinations(lab.studies, 2):
        if (one.start, one.arguments) == (other.start, other.arguments):  # else they are of the same images
            yield from cosines.jobs(lab, one, other, _KINDS)
            yield from _transfer(lab, one, other)
            yield from _transfer(lab, other, one)


def _transfer(lab: Lab, source: PlannedStudy, target: PlannedStudy) -> Iterator[Job]:
    names = tuple(name for name in lab.corruptions(target) if name in lab.corruptions(source))
    if not names:
        return
    yield from lab.references(target, names)
    for kind in _KINDS:
        key = {"study": target.name, "model": f"own, {kind}"}
        yield Job(key, partial(lab.extracted, target, names, **cosines.KINDS[kind]))
        key = {"study": target.name, "model": f"foreign, {kind}", "source": source.name}
        yield Job(key, partial(_foreign, lab, source, target, names, kind))


def _foreign(lab: Lab, source: PlannedStudy, target: PlannedStudy, names: tuple[str, ...], kind: str) -> Row:
    made = lab.signatures(source, **cosines.KINDS[kind])
    return lab.each(target, [made[name] for name in names])


def _half_of_own(rows: Rows) -> Iterator[Case]:
    for row in of(rows, model="foreign, projected"):
        own = share(rows, row["study"], "own, projected")
        yield Case(f"{row['source']} to {row['study']}", share_of(rows, row), 0.5 * own)


def _table(rows: Rows) -> str:
    return f"{cosines.summary(rows)}\n\n{accuracy_table(rows)}"


EXPERIMENT = Experiment(
    "Are signatures of one corruption alike across datasets, and do they transfer?",
    _consistent,
    (
        Claim(
            "Signatures of one corruption are consistent across datasets.",
            "For each signature, its cosine with that of the same corruption from the other dataset is at least its "
            "largest cosine with another corruption's.",
            cosines.is_nearest("projected"),
        ),
        Claim(
            "A signature from another dataset makes a model more robust.",
            "For each target and corruption, RA with the foreign signature is at least RA without.",
            lambda rows: pairs(rows, "foreign, projected", STANDARD),
        ),
        Claim(
            "What a signature brings transfers to other datasets.",
            "For each target, the recovery of the foreign signatures is at least half that of its own.",
            _half_of_own,
        ),
    ),
    _table,
)
