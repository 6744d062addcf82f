"""What scripts/results holds of other models, as rows of the experiments whose questions it answers."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from claims.judging import Row
from claims.rows import ROBUST, STANDARD
from claims.updated import OWN

Record = dict[str, Any]  # {"about", "rows"}


def _bits(record: Record) -> Iterator[Row]:
    for study in dict.fromkeys(row["study"] for row in record["rows"]):
        yield {"study": study, "settings": [row for row in record["rows"] if row["study"] == study]}


def _combining(record: Record) -> Iterator[Row]:
    for members in dict.fromkeys(tuple(row["members"]) for row in record["rows"]):
        rules = [row for row in record["rows"] if tuple(row["members"]) == members]
        yield {"study": record["about"]["study"], "members": list(members), "rules": rules}


def _transfer(record: Record) -> Iterator[Row]:
    called = {
        "none": STANDARD,
        "extracted, weights projected": "foreign, projected",
        "extracted, nothing projected": "foreign, robust - standard",
        "distilled": "foreign, distilled",
        "the target's own, distilled": OWN,
    }
    about = record["about"]
    yield from _accuracies(record, "signatures", called, study=about["target"], source=about["source"])


_SEPARATE = {
    "extracted from them": "extracted, float32",
    "10,000 images": "distilled, 10,000 images",
    "500 images": "distilled, 500 images",
}
_JOINT = {
    "joint, all 19": "distilled, one for all, 7 layers",
    "joint, all 19, all layers": "distilled, one for all, all layers",
}


def _distilled(record: Record, called: dict[str, str]) -> Iterator[Row]:
    called = {"base": STANDARD, "robust models": ROBUST, **called}
    yield from _accuracies(record, "setting", called, study=record["about"]["study"])


def _recovery(record: Record) -> Iterator[Row]:
    called = {
        "projected, 32 bits": "7 layers, weights projected",
        "not projected, 32 bits": "7 layers, nothing projected",
    }
    for row in record["rows"]:
        study, names = f"{row['study']}, five", row["corruptions"]
        sides = {"patched": called.get(row["setting"])}
        if row["setting"] == "projected, 32 bits":
            ta = dict.fromkeys(names, row["standard_ta"])
            yield {"study": study, "model": STANDARD, "ta": ta, "ra": dict(zip(names, row["standard_ra"], strict=True))}
            sides["robust"] = ROBUST
        for side, model in sides.items():
            if model is not None:
                found = {what: dict(zip(names, row[f"{side}_{what}"], strict=True)) for what in ("ta", "ra")}
                yield {"study": study, "model": model, **found}


def _accuracies(record: Record, column: str, called: dict[str, str], **names: str) -> Iterator[Row]:
    for row in record["rows"]:
        if row[column] in called:
            size = {"nbytes": row["nbytes"]} if row.get("nbytes") else {}
            yield {**names, "model": called[row[column]], "ta": row["ta"], "ra": row["ra"], **size}


_SOURCES: dict[str, tuple[str, Callable[[Record], Iterator[Row]]]] = {
    "main": ("distilled.json", partial(_distilled, called=_SEPARATE)),
    "consistent": ("transfer.json", _transfer),
    "light": ("bits.json", _bits),
    "composable": ("combining.json", _combining),
    "shifts": ("distilled.json", partial(_distilled, called=_JOINT)),
    "recovery": ("recovery.json", _recovery),
}


def earlier_rows(experiment: str, folder: Path) -> list[Row]:
    """Rows of an experiment from the files in a folder, each with the file that it is "from"; none without a file."""
    if experiment not in _SOURCES or not (folder / _SOURCES[experiment][0]).is_file():
        return []
    file, rows = _SOURCES[experiment]
    records = json.loads((folder / file).read_text())
    records = records if isinstance(records, list) else [records]
    return [{**row, "from": file, "n": record["about"]["n"]} for record in records for row in rows(record)]
