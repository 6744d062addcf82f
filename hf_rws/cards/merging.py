"""Bringing the README of a repo up to date, and what its author wrote stays."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hf_rws._files import LARGEST_TEXT, README_NAME, is_file, read_text
from hf_rws.cards import front_matter
from hf_rws.cards.front_matter import Entry
from hf_rws.errors import FormatError

RESULTS_BEGIN = "<!-- hf-rws:results -->"
RESULTS_END = "<!-- /hf-rws:results -->"
FOLDER = "  # this folder; once it is on the Hub, its id there"  # goes when a card gets the address of its repo

_MARK = re.compile("<!-- hf-rws:unedited ([0-9a-f]{16}) -->")  # last line: digest of the text above it
_HALVES = re.compile("[\ud800-\udfff]")  # which no file can hold
_SNIPPET = re.compile(r"```python\n.*?```", re.DOTALL)
_OUR_TAGS = ("corruption:", "rws-", "severity:")  # tags that begin so say what a signature is: stale ones go
_USERS_FIRST = ("license", "license_name", "license_link")  # metadata that a card's author knows better


@dataclass(frozen=True)
class _Card:
    """A README in its two parts, with line feeds.

    Attributes:
        head: Its metadata.
        text: What follows.
        windows: Whether it has the line breaks of Windows.
        where: What to call it in errors.
    """

    head: str
    text: str
    windows: bool
    where: str

    @classmethod
    def parse(cls, readme: str, where: str = README_NAME) -> "_Card":
        if len(readme) > LARGEST_TEXT:
            raise FormatError(f"{where}: is larger than the {LARGEST_TEXT:,} characters that are read of one")
        if not readme.isascii() and _HALVES.search(readme):
            raise FormatError(f"{where}: is no Unicode text: it holds halves of characters")
        return cls(*front_matter.split(readme.replace("\r\n", "\n")), "\r\n" in readme, where)

    @property
    def entries(self) -> dict[str, Entry]:
        return front_matter.read(self.head, self.where)

    def __str__(self) -> str:
        text = f"---\n{self.head.rstrip()}\n---\n{self.text}"
        return text.replace("\n", "\r\n") if self.windows else text


def mark(text: str) -> str:
    """The text of a card with a last line by which `is_unedited` knows it again."""
    text = _unmarked(text)[0].rstrip()
    return f"{text}\n\n<!-- hf-rws:unedited {_digest(text)} -->\n"


def metadata_words(card: str, key: str, *, where: str = README_NAME) -> list[str]:
    """The words that stand under a key of a card's metadata, as they are written; FormatError if they are none."""
    return [node.value for node in front_matter.words(_Card.parse(card, where).entries, key, where)]


def folder_words(folder: Path, key: str) -> list[str]:
    """The words under a key of the metadata of a folder's README.md; none without one. Errors as for `updated`."""
    readme = folder / README_NAME
    if not is_file(readme):
        return []
    return metadata_words(read_text(readme, str(readme)), key, where=str(readme))


def folder_license(folder: Path) -> str | None:
    """The license that the README.md of a folder names; None where there are several.

    What timm's config names is that of timm's weights, whatever the weights are.
    """
    named = folder_words(folder, "license")
    return named[0] if len(named) == 1 else None


def is_unedited(card: str) -> bool:
    """Whether the text of a card is as this library, in whatever version, wrote it; metadata does not count."""
    return _is_unedited(_Card.parse(card).text)


def merge_card(existing: str, fresh: str, *, relicensed: bool = False, where: str = README_NAME) -> str:
    """The README of a repo, brought up to date: its author's text stays, its metadata and results are renewed.

    New metadata wins over old, but the license and all that the new card says nothing about stay as they are, to the
    letter; tags come together. Results are replaced between their markers, or added at the end where there are none. A
    README without text, or with the text of an earlier card that nobody has edited, becomes the new card.

    Args:
        existing: The README.
        fresh: The new card.
        relicensed: The license of the new card is asked for now: it replaces that of the README.
        where: What errors call the README.

    Raises:
        FormatError: The metadata of the existing README cannot be read, or it is too large.
    """
    old, new = _Card.parse(existing, where), _Card.parse(fresh)
    text = new.text if _is_unedited(old.text) else _merged_text(old.text, new.text)
    return str(replace(old, head=_merged_head(old, new, relicensed), text=text))


def readdress(card: str, name: str, addresses: Mapping[str, str], *, where: str = README_NAME) -> str:
    """A card of a local folder for a repo on the Hub: in its title, its Python snippets and its metadata.

    Args:
        card: The card; whether it is unedited stays so.
        name: The folder's name, which is its title.
        addresses: "user/name" for each folder name that it may load from.
        where: What errors call the card.

    Raises:
        FormatError: Its metadata cannot be read, or it is too large.
    """
    parsed, title = _Card.parse(card, where), addresses[name].rpartition("/")[2]

    def in_snippet(snippet: re.Match[str]) -> str:
        text = snippet[0]
        for folder, repo_id in addresses.items():
            text = text.replace(f'"{folder}"){FOLDER}', f'"{repo_id}")')
            text = text.replace(f'"local-dir:{folder}"', f'"hf-hub:{repo_id}"').replace(f'"{folder}"', f'"{repo_id}"')
        return text

    text = _SNIPPET.sub(in_snippet, re.sub(rf"(?m)^# {re.escape(name)}$", lambda _: f"# {title}", parsed.text, count=1))
    head, entries = parsed.head, parsed.entries
    if "model-index" in entries:
        index = front_matter.renamed(entries["model-index"].value, name, title)
        entries["model-index"] = _renewed(entries["model-index"], front_matter.new_entry("model-index", index))
        head = front_matter.write(head, entries)
    return str(replace(parsed, head=head, text=mark(text) if _is_unedited(parsed.text) else text))


def updated(path: Path, fresh: str, *, relicensed: bool = False) -> str:
    """A card for the place of the README at `path`: merged with it if it is there, see `merge_card`.

    Raises:
        FormatError: The one that is there is not UTF-8 text, too large, or its metadata cannot be read.
        AccessError: It cannot be read.
    """
    if not os.path.isfile(path):
        return fresh
    return merge_card(read_text(path, str(path)), fresh, relicensed=relicensed, where=str(path))


def _unmarked(text: str) -> tuple[str, str | None]:
    """The text above the mark, and the digest in it; None if there is no mark."""
    text = text.rstrip()
    above, _, last = text.rpartition("\n")
    found = _MARK.fullmatch(last)
    return (above, found[1]) if found else (text, None)


def _is_unedited(text: str) -> bool:
    above, digest = _unmarked(text)
    return digest == _digest(above)


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode(errors="backslashreplace")).hexdigest()[:16]


def _merged_head(old: _Card, new: _Card, relicensed: bool) -> str:
    mine, fresh = old.entries, new.entries
    if relicensed and "license" in fresh:
        mine = {key: entry for key, entry in mine.items() if key not in _USERS_FIRST}
    tags = [tag for tag in front_matter.words(mine, "tags", old.where) if not tag.value.startswith(_OUR_TAGS)]
    tags += front_matter.words(fresh, "tags")
    if tags:
        unique = {tag.value: tag for tag in reversed(tags)}
        ordered = [unique[value] for value in dict.fromkeys(tag.value for tag in tags)]
        fresh["tags"] = front_matter.new_entry("tags", front_matter.listed(ordered))
    if "model-index" not in fresh:
        mine.pop("model-index", None)  # results of weights that are gone
    for key, entry in fresh.items():
        if key not in mine:
            mine[key] = entry
        elif key not in _USERS_FIRST or front_matter.is_empty(mine[key].value):
            mine[key] = _renewed(mine[key], entry)
    return front_matter.write(old.head, mine)


def _renewed(old: Entry, new: Entry) -> Entry:
    """The new entry, or the old one as it is written if it says the same."""
    return old if front_matter.is_same(old, new) else replace(new, after=old.after)


def _merged_text(old: str, new: str) -> str:
    if not old.strip():
        return new
    found, place = _results(new), _results(old)
    results = new[found] if found else f"{RESULTS_BEGIN}\n{RESULTS_END}"
    if place:
        return f"{old[: place.start]}{results}{old[place.stop :]}"
    return f"{old.rstrip()}\n\n{results}\n" if found else old


def _results(text: str) -> slice | None:
    """Where the results stand, with their markers: a marker without its other one is part of the author's text."""
    begin = text.find(RESULTS_BEGIN)
    end = text.find(RESULTS_END, begin)
    if begin < 0 or end < 0:
        return None
    return slice(text.rfind(RESULTS_BEGIN, begin, end), end + len(RESULTS_END))
