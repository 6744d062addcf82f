"""From values to the text of a card: templates, and what is made of strings, paths, secrets and numbers in them."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml
from huggingface_hub import CardData

from hf_rws._text import one_line
from hf_rws.cards.merging import RESULTS_BEGIN, RESULTS_END, mark
from hf_rws.errors import NotFoundError

if TYPE_CHECKING:
    import jinja2

_LOCAL = " (local)"  # what is left of a path is its last component, and this
_PATH = re.compile(r"[/~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\")
_SECRET = re.compile(r"token|secret|password|api_?key|credential", re.IGNORECASE)
_LONGEST = 300  # characters of a value
_DEEPEST = 20  # values within each other
_MOST_ROWS = 200  # of a table of settings
_LARGEST_INTEGER = 2**63
_UNSAFE = str.maketrans({"|": "/", "`": "'", '"': "'", "<": "(", ">": ")", "[": "(", "]": ")", "\\": "/"})


def render(template: str, data: CardData, **values: Any) -> str:
    """A card: metadata, and the text that a template makes of cleaned values."""
    markers = {"results_begin": RESULTS_BEGIN, "results_end": RESULTS_END}
    text = _environment(_templates()).get_template(template).render(**markers, **values)
    return f"---\n{_head(data)}\n---\n\n{mark(text)}"


def clean(value: Any, *, depth: int = 0) -> Any:
    """The same value, its strings safe in a line of Markdown, a table and a Python string.

    Left out are paths, None, numbers that JSON or a table cannot hold, and what lies too deep.
    """
    if isinstance(value, str):
        if _PATH.match(value):
            value = local_name(value)
        return one_line(" ".join(value.split()), limit=_LONGEST).translate(_UNSAFE)
    if isinstance(value, (Mapping, list, tuple)) and depth == _DEEPEST:
        return None
    if isinstance(value, Mapping):
        pairs = [(clean(key), clean(item, depth=depth + 1)) for key, item in value.items()]
        return {key: item for key, item in pairs if key is not None and item is not None}
    if isinstance(value, (list, tuple)):
        return [item for item in (clean(item, depth=depth + 1) for item in value) if item is not None]
    if isinstance(value, int):
        return value if abs(value) < _LARGEST_INTEGER else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def local_name(path: str) -> str:
    """What a card calls a folder: its last component, never its path."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] + _LOCAL


def publishable(value: Any) -> Any:
    """A JSON value without what must not leave this machine: paths become names, secrets go."""
    if isinstance(value, str):
        return local_name(value).removesuffix(_LOCAL) if _PATH.match(value) else value
    if isinstance(value, Mapping):
        return {key: publishable(item) for key, item in value.items() if not _SECRET.search(str(key))}
    return [publishable(item) for item in value] if isinstance(value, (list, tuple)) else value


def rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A table of cleaned settings, without paths, secrets and what is empty or nested."""
    found = []
    for key, value in settings.items():
        items = value if isinstance(value, list) else [value]
        values = list(map(str, items))
        hidden = (
            any(isinstance(item, dict | list) for item in items)
            or _SECRET.search(str(key))
            or any(text.endswith(_LOCAL) for text in values)
        )
        if any(values) and not hidden:
            found.append((str(key), one_line(", ".join(values), limit=_LONGEST)))
    return found[:_MOST_ROWS]


def titled(names: Sequence[str]) -> list[tuple[str, str]]:
    """Titles and URLs of pictures in the repo."""
    return [(clean(re.sub(r"[-_]", " ", Path(name).stem)), quote(name, errors="replace")) for name in names]


@cache
def _environment(templates: Path) -> "jinja2.Environment":
    """Keeps the templates that it has compiled, which takes longer than to fill one in."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"percent": _percent, "size": _size}
    return environment


def _head(data: CardData) -> str:
    """The metadata as YAML, in which every character shows: else, by its code, as names of classes must stay."""
    head = data.to_yaml()
    if all(map(str.isprintable, head.split("\n"))):
        return head
    return str(yaml.safe_dump(data.to_dict(), sort_keys=False)).strip()


def _templates() -> Path:
    """The folder of the templates: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    for folder in (package / "model_cards", package.parent / "model_cards"):
        if (folder / "signature.md.jinja").is_file():
            return folder
    raise NotFoundError("the card templates are missing from this installation: install hf-rws again")


def _percent(accuracy: Any) -> str:
    return f"{100 * accuracy:.1f}" if isinstance(accuracy, (int, float)) and math.isfinite(accuracy) else ""


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e6:,.1f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:,.1f} kB"
