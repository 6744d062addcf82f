"""From values to the text of a card: templates, and what is made of strings, paths, secrets and numbers in them."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import CardData

from hf_rws.cards.merging import RESULTS_BEGIN, RESULTS_END, mark
from hf_rws.errors import NotFoundError

_LOCAL = " (local)"  # what is left of a path is its last component, and this
_PATH = re.compile(r"[/~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\")
_SECRET = re.compile(r"token|secret|password|api_?key|credential", re.IGNORECASE)
_UNSAFE = str.maketrans({"|": "/", "`": "'", '"': "'", "<": "(", ">": ")", "[": "(", "]": ")", "\\": "/"})


def render(template: str, data: CardData, **values: Any) -> str:
    """A card: metadata, and the text that a template makes of cleaned values."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_templates()),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": _percent, "size": _size}
    markers = {"results_begin": RESULTS_BEGIN, "results_end": RESULTS_END}
    text = environment.get_template(template).render(**markers, **values)
    return f"---\n{data.to_yaml()}\n---\n\n{mark(text)}"


def clean(value: Any) -> Any:
    """The same value, its strings safe in a line of Markdown, a table and a Python string; no paths, no None."""
    if isinstance(value, str):
        if _PATH.match(value):
            value = local_name(value)
        return " ".join(value.split()).translate(_UNSAFE)
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value if item is not None]
    return value


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
        values = [str(item) for item in (value if isinstance(value, list) else [value])]
        hidden = isinstance(value, dict) or _SECRET.search(str(key)) or any(text.endswith(_LOCAL) for text in values)
        if any(values) and not hidden:
            found.append((str(key), ", ".join(values)))
    return found


def titled(names: Sequence[str]) -> list[tuple[str, str]]:
    """Titles and URLs of pictures in the repo."""
    return [(clean(re.sub(r"[-_]", " ", Path(name).stem)), quote(name)) for name in names]


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
