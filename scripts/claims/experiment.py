"""An experiment: one sub-command of reproduce.py."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims.judging import Claim, Rows
from claims.lab import Job, Lab


@dataclass(frozen=True)
class Experiment:
    """What is measured for some claims.

    Attributes:
        question: In one line.
        jobs: What there is to measure, of what has been trained.
        claims: What it decides.
        table: The rows as a table in Markdown.
        picture: The rows as a figure in a file; None where a table is enough.
    """

    question: str
    jobs: Callable[[Lab], Iterator[Job]]
    claims: tuple[Claim, ...]
    table: Callable[[Rows], str]
    picture: Callable[[Rows, Path], Any] | None = None
