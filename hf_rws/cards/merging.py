"""Bringing the README of a repo up to date, and what its author wrote stays."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import RepoCard

from hf_rws._files import read_text
from hf_rws.errors import FormatError

RESULTS_BEGIN = "<!-- hf-rws:results -->"
RESULTS_END = "<!-- /hf-rws:results -->"

_RESULTS = re.compile(f"{re.escape(RESULTS_BEGIN)}.*?{re.escape(RESULTS_END)}", re.DOTALL)
_MARK = re.compile(r"\n*<!-- hf-rws:unedited ([0-9a-f]{16}) -->\s*\Z")  # last line: digest of the text above it
_SNIPPET = re.compile(r"```python\n.*?```", re.DOTALL)
_OUR_TAGS = ("corruption:", "rws-")  # tags with these beginnings say what a signature is: stale ones are taken off
_USERS_FIRST = ("license", "license_name", "license_link")  # metadata that a card's author knows better


def mark(text: str) -> str:
    """The text of a card with a last line by which `is_unedited` knows it again."""
    text = _MARK.sub("", text).rstrip()
    return f"{text}\n\n<!-- hf-rws:unedited {_digest(text)} -->\n"


def read_metadata(card: str) -> dict[str, Any]:
    """The metadata at the head of a card; FormatError if it is broken."""
    return dict(_parse(card.replace("\r\n", "\n")).data.to_dict())


def is_unedited(card: str) -> bool:
    """Whether the text of a card is as this library, in whatever version, wrote it; metadata does not count."""
    text = _parse(card.replace("\r\n", "\n")).text
    found = _MARK.search(text)
    return found is not None and found[1] == _digest(text[: found.start()])


def merge_card(existing: str, fresh: str) -> str:
    """The README of a repo, brought up to date: its author's text stays, its metadata and results are renewed.

    New metadata wins over old, but the license and all that the new card says nothing about stay as they are; tags
    come together. Results are replaced between their markers, or added at the end where there are none. A README
    without text, or with the text of an earlier card that nobody has edited, becomes the new card.

    Raises:
        FormatError: The metadata of the existing README cannot be read.
    """
    windows = "\r\n" in existing
    existing = existing.replace("\r\n", "\n")
    old, new = _parse(existing), _parse(fresh)
    metadata = old.data.to_dict() | new.data.to_dict()
    metadata |= {key: value for key, value in old.data.to_dict().items() if key in _USERS_FIRST}
    metadata["tags"] = _merged_tags(old.data.get("tags"), new.data.get("tags"))
    if "model-index" not in new.data:
        metadata.pop("model-index", None)  # results of weights that are gone
    old.data.__dict__.clear()
    old.data.__dict__.update(metadata)
    old.text = new.text if is_unedited(existing) else _merged_text(old.text, new.text)
    return str(old).replace("\n", "\r\n") if windows else str(old)


def readdress(card: str, name: str, addresses: Mapping[str, str]) -> str:
    """A card of a local folder for a repo on the Hub: in its title, its Python snippets and its metadata.

    Args:
        card: The card; whether it is unedited stays so.
        name: The folder's name, which is its title.
        addresses: "user/name" for each folder name that it may load from.
    """
    parsed, unedited = _parse(card), is_unedited(card)
    title = addresses[name].rpartition("/")[2]

    def in_snippet(snippet: re.Match[str]) -> str:
        text = snippet[0]
        for folder, repo_id in addresses.items():
            text = text.replace(f'"local-dir:{folder}"', f'"hf-hub:{repo_id}"').replace(f'"{folder}"', f'"{repo_id}"')
        return text

    text = _SNIPPET.sub(in_snippet, re.sub(rf"(?m)^# {re.escape(name)}$", f"# {title}", parsed.text, count=1))
    parsed.text = mark(text) if unedited else text
    if "model-index" in parsed.data:
        parsed.data["model-index"] = [entry | {"name": title} for entry in parsed.data["model-index"]]
    return str(parsed)


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def _parse(text: str) -> Any:
    try:
        return RepoCard(text if text.lstrip().startswith("---") else f"---\n\n---\n{text}")
    except Exception as error:
        raise FormatError(
            f"the metadata at the head of the README.md is not valid YAML: mend it there ({error})"
        ) from error


def _merged_tags(old: Any, new: Sequence[str]) -> list[str]:
    old = [old] if isinstance(old, str) else old or []
    kept = [tag for tag in old if not str(tag).startswith(_OUR_TAGS)]
    return list(dict.fromkeys([*kept, *new]))


def _merged_text(old: str, new: str) -> str:
    if not old.strip():
        return new
    found = _RESULTS.search(new)
    results = found[0] if found else f"{RESULTS_BEGIN}\n{RESULTS_END}"
    if _RESULTS.search(old):
        return _RESULTS.sub(lambda _: results, old, count=1)
    return f"{old.rstrip()}\n\n{results}\n" if found else old


def updated(path: Path, fresh: str) -> str:
    """A card for the place of the README at `path`: merged with it if it is there, see `merge_card`.

    Raises:
        FormatError: The one that is there is not UTF-8 text, too large, or its metadata cannot be read.
        AccessError: It cannot be read.
    """
    return merge_card(read_text(path, str(path)), fresh) if os.path.isfile(path) else fresh
