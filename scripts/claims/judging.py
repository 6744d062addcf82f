"""Claims as inequalities, and the verdict that measured rows give."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

Row = dict[str, Any]
Rows = Sequence[Row]

CONFIRMED, PARTLY, REFUTED, NOT_TESTABLE = "confirmed", "partly", "refuted", "not testable here"
_ENOUGH, _SOME = 0.9, 0.5  # shares of the cases that must hold for "confirmed" and for "partly"


@dataclass(frozen=True)
class Case:
    """One case of an inequality: it holds if `left` >= `right`."""

    name: str
    left: float
    right: float

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.left >= self.right


@dataclass(frozen=True)
class Verdict:
    """What the measured cases say of a claim.

    Attributes:
        word: "confirmed" if nine cases in ten hold, "refuted" if fewer than half do, "partly" between, "not testable
            here" without a case.
        figure: The counts and the means behind it, in words.
    """

    word: str
    figure: str


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, and what must hold if it is true.

    Attributes:
        statement: What the paper says.
        inequality: What must be at least what, in which cases, in words.
        cases: The cases that rows are; those that hold NaN (a share of no gain) do not count.
    """

    statement: str
    inequality: str
    cases: Callable[[Rows], Iterable[Case]]

    def judge(self, rows: Rows) -> Verdict:
        """The verdict on it."""
        cases = [case for case in self.cases(rows) if not math.isnan(case.left + case.right)]
        if not cases:
            return Verdict(NOT_TESTABLE, "nothing was measured that it could be told from")
        holding = sum(case.holds for case in cases)
        share = holding / len(cases)
        word = CONFIRMED if share >= _ENOUGH else PARTLY if share >= _SOME else REFUTED
        worst = min(cases, key=lambda case: case.left - case.right)
        furthest = f"{worst.name}: {worst.left:.3f} against {worst.right:.3f}"
        if len(cases) == 1:
            return Verdict(word, furthest)
        left, right = mean(case.left for case in cases), mean(case.right for case in cases)
        return Verdict(
            word, f"{holding} of {len(cases)} cases; means {left:.3f} against {right:.3f}; furthest off, {furthest}"
        )
