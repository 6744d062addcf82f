"""Answers of a Hub, changed at random: what a broken or hostile server may say where JSON is expected.

`mutated` changes one answer; it is the same for the same generator, so a case is named by its seed.
"""

import copy
import json
from random import Random
from typing import Any

ODD = (
    None, True, False, 0, -1, 1.5, 10**30, -(10**30), 2**63, "", "\ud800", "\x00", "../../evil", "/etc/passwd", "a/b/c",
    "x" * 10_000, "2026-13-45T99:99:99.000Z", [], {}, [None], [[[]]], [1, "a", {}], {"": None}, {"a": {"b": []}},
)  # fmt: skip
TEXTS = (
    b"", b"null", b"[]", b"{}", b"0", b'"text"', b"<html>", b"\xff\xfe", b"{", b'{"a": 1', b"NaN", b'{"sha": 1e999}',
    b"[" * 100_000, b'{"a":' * 100_000, b'{"a": "\\ud800"}', b'{"n": ' + b"9" * 5000 + b"}",
)  # fmt: skip


def mutated(body: bytes, random: Random) -> bytes:
    """An answer with one to three changes, or another one altogether."""
    if random.random() < 0.25:
        return random.choice(TEXTS)
    if random.random() < 0.1:
        at = random.randrange(len(body) + 1)
        return body[:at] + random.randbytes(random.randrange(4)) + body[at + random.randrange(4) :]
    try:
        value = json.loads(body)
    except ValueError:
        return random.choice(TEXTS)
    for _ in range(random.randint(1, 3)):
        value = _changed(value, random)
    return json.dumps(value).encode()


def _changed(value: Any, random: Random) -> Any:
    """One place in a value, found from the top, holds something else, or nothing."""
    if not isinstance(value, (dict, list)) or not value or random.random() < 0.1:
        return copy.deepcopy(random.choice(ODD))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, value = random.choice(keys), copy.copy(value)
    if random.random() < 0.15:
        del value[key]
    elif isinstance(value, list) and random.random() < 0.1:
        value *= 50
    else:
        value[key] = _changed(value[key], random)
    return value
