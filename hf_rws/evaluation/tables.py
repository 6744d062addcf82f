"""The results of an evaluation, alone or beside another: rows, means, intervals, Markdown, CSV and HTML."""

import csv
import html
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_rws.errors import OptionError

CLEAN = "clean"
COPIED = " (copy)"  # after the name of a corruption: images as they are, of a copy that was made so
ATTACKED = "pgd-"  # before what says how strongly: images as an adversary changes them
OWN = " (the model's own)"  # after a preprocessing
_QUANTILE = 1.959964  # of the normal distribution, for 95 %


@dataclass(frozen=True)
class Row:
    """One line of a table: accuracy in [0, 1] on `n` images.

    Attributes:
        corruption: Its name; "clean" for images as they are; "fog (copy)" for those of a copy that was made so;
            "pgd-linf-8" for those of an adversary.
        severity: 1 to 5; 0 for clean images and those of an adversary.
        accuracy: Top-1, in [0, 1].
        n: Number of images.
        right: For each image whether the answer was right, bool of shape (n,); None where that was not kept.
    """

    corruption: str
    severity: int
    accuracy: float
    n: int
    right: Tensor | None = field(default=None, compare=False, repr=False)


class _Table(ABC):
    """What tables have in common: what they say, in several formats."""

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """A dictionary for each row, with the same keys."""

    @abstractmethod
    def _lines(self) -> list[list[str]]:
        """The table's cells as people read them, its header first."""

    @abstractmethod
    def _facts(self) -> list[str]:
        """What stands below the table."""

    def to_markdown(self) -> str:
        """A table in percent, and what it was measured on below."""
        head, *rows = self._lines()
        text = [f"| {' | '.join(line)} |" for line in (head, *rows)]
        text.insert(1, "|---" * len(head) + "|")
        return "\n".join([*text, "", "; ".join(facts)] if (facts := self._facts()) else text)

    def to_csv(self) -> str:
        """The records with a header line; accuracies in [0, 1]."""
        records, text = self.records(), io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(records[0]) if records else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def to_html(self) -> str:
        """The same table as HTML."""
        head, *rows = self._lines()
        cells = [("th", head), *(("td", row) for row in rows)]
        body = "".join(
            f"<tr>{''.join(f'<{kind}>{html.escape(cell)}</{kind}>' for cell in line)}</tr>" for kind, line in cells
        )
        facts = f"<p>{html.escape('; '.join(self._facts()))}</p>" if self._facts() else ""
        return f"<table>{body}</table>{facts}"

    def __str__(self) -> str:
        """What `print` shows: the Markdown table."""
        return self.to_markdown()

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.to_html()


@dataclass(frozen=True)
class Evaluation(_Table):
    """The rows of an evaluation, clean images first.

    Attributes:
        rows: One for the clean images, and one for each corruption and severity.
        preprocessing: How the images came to their size.
        notes: What else a reader of the table has to know.
    """

    rows: tuple[Row, ...]
    preprocessing: str = ""
    notes: tuple[str, ...] = ()

    def __getitem__(self, key: str | tuple[str, int]) -> float:
        """Accuracy of a corruption at one severity, `["fog", 5]`, or the mean over its severities, `["fog"]`.

        Raises:
            OptionError: There is no such row.
        """
        corruption, severity = key if isinstance(key, tuple) else (key, None)
        found = [row for row in self.rows if row.corruption == corruption]
        if not found:
            names = dict.fromkeys(row.corruption for row in self.rows)
            raise OptionError(f"there is no row {corruption!r}; there are: {', '.join(names)}")
        chosen = [row.accuracy for row in found if severity in (None, row.severity)]
        if not chosen:
            there = ", ".join(str(row.severity) for row in found)
            raise OptionError(f"there is no row of {corruption!r} at severity {severity!r}; there are: {there}")
        return _mean(chosen)

    def mean(self) -> float:
        """RA: mean accuracy over all corrupted rows (images as they are, clean or of a copy, are not in it).

        Those of an adversary are not in it either.

        Of a copy that is measured only as it is, e.g. "fog (copy)", it is the accuracy of that row.

        Over the 15 corruptions of CIFAR-10-C and all five severities this is RobustBench's accuracy for corruptions.
        """
        return _mean(row.accuracy for row in _corrupted(self.rows))

    def compare(self, after: "Evaluation") -> "Comparison":
        """This evaluation beside that of another model, or of the same one patched, on the same images.

        Raises:
            OptionError: They do not have the same rows, or not the same preprocessing.
        """
        return Comparison(self, after)

    def records(self) -> list[dict[str, Any]]:
        """A dictionary for each row: what the CSV holds."""
        return [
            {
                "corruption": row.corruption,
                "severity": row.severity,
                "accuracy": row.accuracy,
                "n": row.n,
                "preprocessing": self.preprocessing,
                "notes": "; ".join(self.notes),
            }
            for row in self.rows
        ]

    def _lines(self) -> list[list[str]]:
        lines = [["corruption", "severity", "accuracy", "n"]]
        lines += [[row.corruption, _severity(row), _percent(row.accuracy), str(row.n)] for row in self.rows]
        if _corrupted(self.rows):
            lines.append(["mean of corruptions", "", _percent(self.mean()), ""])
        return lines

    def _facts(self) -> list[str]:
        return [*([f"images: {self.preprocessing}"] if self.preprocessing else []), *self.notes]


@dataclass(frozen=True)
class Difference:
    """A difference of two accuracies and its 95 % interval; None where the answers to each image were not kept."""

    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        low, high = (f"{100 * end:+.1f}" for end in self.interval or (math.nan, math.nan))
        return f"{100 * self.value:+.1f}" + (f" [{low}, {high}]" if self.interval else "")


@dataclass(frozen=True)
class Comparison(_Table):
    """Two evaluations on the same images, row by row.

    The interval of a difference is that of Agresti & Min (Statistics in Medicine 24, 2005) for matched pairs: of n
    images b were right before only and c after only; with half an image added to each of the four cells, n' = n + 2,
    it is (c - b)/n' ± 1.96 sqrt(b + c + 1 - (c - b)²/n')/n'. All rows show the same images, so for a mean over rows the
    sums over images of each one's mean difference, and of its square, take the places of c - b and b + c.

    Attributes:
        before: Of the base.
        after: Of the patched model.
    """

    before: Evaluation
    after: Evaluation

    def __post_init__(self) -> None:
        rows = [[(row.corruption, row.severity, row.n) for row in one.rows] for one in (self.before, self.after)]
        if rows[0] != rows[1]:
            differing = [*(set(rows[0]) ^ set(rows[1]))][:3]
            shown = ", ".join(f"{name}-{severity} ({n} images)" for name, severity, n in sorted(differing))
            raise OptionError(f"the two evaluations do not have the same rows: {shown or 'their order differs'}")
        sizes = [one.preprocessing.removesuffix(OWN) for one in (self.before, self.after)]
        if all(sizes) and sizes[0] != sizes[1]:  # of published figures it may not be known
            raise OptionError(
                f"the two evaluations do not show the same images: before, they are {sizes[0]}; after, {sizes[1]}. "
                "Give both the same preprocessing"
            )

    def __getitem__(self, key: str | tuple[str, int]) -> Difference:
        """The difference in one row, `["fog", 5]`, or of the means over the severities of one corruption, `["fog"]`."""
        self.before[key]  # OptionError if there is no such row
        corruption, severity = key if isinstance(key, tuple) else (key, None)
        return _difference(
            [pair for pair in self._pairs if pair[0].corruption == corruption and severity in (None, pair[0].severity)]
        )

    def mean(self) -> Difference:
        """The difference of the means over all corrupted rows (RA)."""
        return _difference(self._corrupted_pairs)

    def mce(self) -> float:
        """Mean corruption error, relative to `before`, as Hendrycks & Dietterich (ICLR 2019) define it; NaN without.

        The mean over the corruptions of (sum of the errors after, over the severities) / (the same before). Theirs is
        relative to AlexNet: give its evaluation as `before` for figures that compare with the published ones.
        """
        return self._errors(0.0, 0.0)

    def relative_mce(self) -> float:
        """Relative mean corruption error: as `mce`, of the errors beyond those on clean images.

        NaN without a clean row, and where the model before loses no accuracy under one of the corruptions.
        """
        clean = [[row for row in one.rows if row.corruption == CLEAN] for one in (self.before, self.after)]
        if not all(clean):
            return math.nan
        return self._errors(*(1 - rows[0].accuracy for rows in clean))

    def records(self) -> list[dict[str, Any]]:
        """A dictionary for each row: `accuracy` is that after, `low` and `high` are the interval of the difference."""
        records = []
        for before, after in self._pairs:
            difference = _difference([(before, after)])
            low, high = difference.interval or (None, None)
            records.append(
                {
                    "corruption": after.corruption,
                    "severity": after.severity,
                    "base_accuracy": before.accuracy,
                    "accuracy": after.accuracy,
                    "difference": difference.value,
                    "low": low,
                    "high": high,
                    "n": after.n,
                    "preprocessing": self.after.preprocessing,
                    "notes": "; ".join(self.after.notes),
                }
            )
        return records

    @property
    def _pairs(self) -> list[tuple[Row, Row]]:
        return list(zip(self.before.rows, self.after.rows, strict=True))

    @property
    def _corrupted_pairs(self) -> list[tuple[Row, Row]]:
        return list(zip(_corrupted(self.before.rows), _corrupted(self.after.rows), strict=True))

    def _errors(self, clean_before: float, clean_after: float) -> float:
        """The mean over corruptions of the quotient of the sums of errors, each less the error on clean images."""
        sums: dict[str, tuple[float, float]] = {}
        for before, after in self._corrupted_pairs:
            one, other = sums.get(before.corruption, (0.0, 0.0))
            sums[before.corruption] = (
                one + 1 - before.accuracy - clean_before,
                other + 1 - after.accuracy - clean_after,
            )
        if any(before <= 0 for before, _ in sums.values()):
            return math.nan
        return _mean(after / before for before, after in sums.values())

    def _lines(self) -> list[list[str]]:
        lines = [["corruption", "severity", "base", "patched", "difference [95 %]", "n"]]
        for before, after in self._pairs:
            shown = [_percent(before.accuracy), _percent(after.accuracy), str(_difference([(before, after)]))]
            lines.append([after.corruption, _severity(after), *shown, str(after.n)])
        if _corrupted(self.after.rows):
            shown = [_percent(self.before.mean()), _percent(self.after.mean()), str(self.mean())]
            lines.append(["mean of corruptions", "", *shown, ""])
        return lines

    def _facts(self) -> list[str]:
        errors = {"mCE": self.mce(), "relative mCE": self.relative_mce()}
        shown = [f"{name} {100 * value:.1f}" for name, value in errors.items() if not math.isnan(value)]
        return [*([f"{', '.join(shown)} (base: 100)"] if shown else []), *self.after._facts()]


def _difference(pairs: Sequence[tuple[Row, Row]]) -> Difference:
    """The difference of the means over some rows, and its interval."""
    value = _mean(after.accuracy for _, after in pairs) - _mean(before.accuracy for before, _ in pairs)
    rights = [(before.right, after.right) for before, after in pairs]
    known = [(before, after) for before, after in rights if before is not None and after is not None]
    n = pairs[0][0].n if pairs else 0
    if len(known) < len(pairs) or not n or any(len(before) != n for before, _ in known):
        return Difference(value, None)
    each = torch.stack([after.double() - before.double() for before, after in known]).mean(0)
    middle = float(each.sum()) / (n + 2)
    half = _QUANTILE * math.sqrt((float(each.square().sum()) + 1) / (n + 2) - middle**2) / math.sqrt(n + 2)
    return Difference(value, (max(-1.0, middle - half), min(1.0, middle + half)))


def _corrupted(rows: Iterable[Row]) -> list[Row]:
    """The rows of means: those that were corrupted here, or else those of a corrupted copy as it is."""
    found = [row for row in rows if row.corruption != CLEAN and not row.corruption.startswith(ATTACKED)]
    return [row for row in found if not row.corruption.endswith(COPIED)] or found


def _severity(row: Row) -> str:
    return str(row.severity or "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
