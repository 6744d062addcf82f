"""Corrupted copies of datasets: what was done to their images."""

from pathlib import Path
from typing import Any

from hf_rws._files import read_json
from hf_rws.errors import RWSError

_RECORD = "corruption.json"  # in the folder of a copy


def copied_by(dataset: Any) -> tuple[str, int] | None:
    """The corruption and the severity of a copy that `hf-rws corrupt` wrote, as a table names them.

    Args:
        dataset: What `evaluate` takes. Only a folder says where its images are from.

    Returns:
        E.g. ("fog (copy)", 5); None of what is no copy.
    """
    path = Path(dataset, _RECORD) if isinstance(dataset, str | Path) else None
    if path is None or not path.is_file():
        return None
    try:
        record = read_json(path, str(path))
    except RWSError:  # somebody else's file of that name
        return None
    corruption, severity = record.get("corruption"), record.get("severity")
    if not isinstance(corruption, str) or not isinstance(severity, int):
        return None
    return f"{corruption} (copy)", severity
