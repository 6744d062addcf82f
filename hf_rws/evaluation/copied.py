"""Corrupted copies of datasets: what was done to their images."""

from pathlib import Path
from typing import Any

from hf_rws._files import COPY_RECORD, read_json
from hf_rws.data.sources import repo_file
from hf_rws.errors import RWSError
from hf_rws.evaluation.tables import COPIED


def copied_by(dataset: Any, revision: str | None = None) -> tuple[str, int] | None:
    """The corruption and the severity of a copy that `hf-rws corrupt` wrote, as a table names them.

    Args:
        dataset: What `evaluate` takes. Only a dataset of a folder or of the Hub says where its images are from.
        revision: Of one of the Hub.

    Returns:
        E.g. ("fog (copy)", 5); None of what is no copy, or where the Hub cannot be asked and did not say it before.
    """
    if not isinstance(dataset, str | Path):
        return None
    path = Path(dataset, COPY_RECORD) if Path(dataset).is_dir() else _fetched(str(dataset), revision)
    if path is None or not path.is_file():
        return None
    try:
        record = read_json(path, str(path))
    except RWSError:  # somebody else's file of that name
        return None
    corruption, severity = record.get("corruption"), record.get("severity")
    if not isinstance(corruption, str) or not isinstance(severity, int):
        return None
    return corruption + COPIED, severity


def _fetched(dataset: str, revision: str | None) -> Path | None:
    """The record in a dataset's repo, which `datasets` fetches as it fetched the data before."""
    try:
        return repo_file(dataset, COPY_RECORD, revision)
    except Exception:  # there is none; or no connection, by errors of any HTTP library, which changes no image
        return None
