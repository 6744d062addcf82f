"""The metadata at the head of a README, changed key by key; what its author wrote stays as it is written.

Read into Python's values and written again, `version: 1.10` becomes 1.1, the language `no` becomes false, and comments
go. So values stay what they are in the text: lines to be kept, or nodes of YAML, of which none is ever made an object.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import yaml

from hf_rws.errors import FormatError

_LARGEST_HEAD = 100_000  # characters: 400 results
_DEEPEST = 50  # values within each other
_OPENING = re.compile(r"\s*---\n")
_CLOSING = re.compile(r"\n---[ \t]*(?:\n|\Z)")
_OF_NOTHING = re.compile(r"[ \t]*(?:#.*)?")  # a line without a value

# libyaml's, where PyYAML was built with it: ten times as fast
_Loader, _Dumper = (getattr(yaml, f"C{kind}", getattr(yaml, kind)) for kind in ("SafeLoader", "SafeDumper"))
_MAP, _SEQUENCE, _STRING, _NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "null"))


@dataclass(frozen=True)
class Entry:
    """A key and its value.

    Attributes:
        key: The key as YAML has it.
        value: The value.
        text: Their lines.
        after: Comments and empty lines below them.
    """

    key: yaml.ScalarNode
    value: yaml.Node
    text: str
    after: str = ""


def split(readme: str) -> tuple[str, str]:
    """The metadata and the text of a README, as the Hub tells them apart; its line breaks are line feeds."""
    opening = _OPENING.match(readme)
    closing = opening and _CLOSING.search(readme, opening.end())
    return (readme[opening.end() : closing.start()], readme[closing.end() :]) if opening and closing else ("", readme)


def read(head: str, where: str = "README.md") -> dict[str, Entry]:
    """The entries by their keys, in order; `where` is what errors call the README.

    Raises:
        FormatError: It is not YAML, not made of keys and values, a key is there twice, or it is too much.
    """
    root = _composed(head, where)
    if root is None or is_empty(root):
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise FormatError(f"{where}: the metadata at its head must be lines of the form `key: value`")
    for key, _ in root.value:
        if not isinstance(key, yaml.ScalarNode):
            raise FormatError(f"{where}: a key in the metadata at its head is no word: mend it there")
    starts = [head.rfind("\n", 0, key.start_mark.index) + 1 for key, _ in root.value]
    entries: dict[str, Entry] = {}
    for (key, value), start, stop in zip(root.value, starts, [*starts, len(head)][1:], strict=True):
        if key.value in entries:
            raise FormatError(f"{where}: the metadata at its head has {key.value!r:.80} twice: keep one of them")
        entries[key.value] = Entry(key, value, *_without_trailing_comments(head[start:stop]))
    return entries


def write(head: str, entries: Mapping[str, Entry]) -> str:
    """The metadata with other entries; what stands above the first one in `head` stays there.

    The lines are put together as they are. Where that cannot be (they stand in braces, say, or name each other), the
    metadata is written anew, without its comments; the words of the values stay also then.
    """
    first = next(iter(read(head).values()), None)
    above = head[: head.rfind("\n", 0, first.key.start_mark.index) + 1] if first else _lines(head)
    text = above + "".join(entry.text + entry.after for entry in entries.values())
    wanted = _canonical([(entry.key, entry.value) for entry in entries.values()])
    try:
        found = _canonical([(entry.key, entry.value) for entry in read(text).values()])
    except FormatError:
        found = ""
    return text if found == wanted else wanted


def new_entry(key: str, value: yaml.Node) -> Entry:
    """A new entry."""
    node = yaml.ScalarNode(_STRING, key)
    return Entry(node, value, _canonical([(node, value)]))


def is_same(one: Entry, other: Entry) -> bool:
    """Whether two entries say the same."""
    return _canonical([(one.key, one.value)]) == _canonical([(other.key, other.value)])


def is_empty(value: yaml.Node) -> bool:
    """Whether there is no value."""
    return value.tag == _NULL


def words(entries: Mapping[str, Entry], key: str, where: str = "README.md") -> list[yaml.ScalarNode]:
    """The words that stand under a key: none, one or a list.

    Raises:
        FormatError: Something else stands there.
    """
    value = entries[key].value if key in entries else None
    if value is None or is_empty(value):
        return []
    items = value.value if isinstance(value, yaml.SequenceNode) else [value]
    if not all(isinstance(item, yaml.ScalarNode) for item in items):
        raise FormatError(
            f"{where}: the metadata at its head must have one word or a list of words as {key!r}: mend it there"
        )
    return [item for item in items if not is_empty(item)]


def _word(text: str) -> yaml.ScalarNode:
    """A word."""
    return yaml.ScalarNode(_STRING, text)


def listed(items: Iterable[yaml.Node]) -> yaml.SequenceNode:
    """A list, an item a line."""
    return yaml.SequenceNode(_SEQUENCE, list(items), flow_style=False)


def renamed(value: yaml.Node, name: str, title: str) -> yaml.Node:
    """A model-index whose results of the model `name` are those of `title`; other values stay as they are."""
    if not isinstance(value, yaml.SequenceNode):
        return value
    return listed(_with_name(item, name, title) for item in value.value)


def _with_name(item: yaml.Node, name: str, title: str) -> yaml.Node:
    if not isinstance(item, yaml.MappingNode):
        return item
    pairs = [(key, _word(title) if key.value == "name" and value.value == name else value) for key, value in item.value]
    return yaml.MappingNode(item.tag, pairs, flow_style=item.flow_style)


def _composed(head: str, where: str) -> yaml.Node | None:
    """The nodes of a YAML document: values that name each other are one node, so nothing grows by that."""
    if len(head) > _LARGEST_HEAD:
        raise FormatError(
            f"{where}: the metadata at its head is larger than the {_LARGEST_HEAD:,} characters that are read"
        )
    try:
        depth = 0
        for event in yaml.parse(head, Loader=_Loader):  # before nodes are made of it, which takes a call for each depth
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise FormatError(
                    f"{where}: values in the metadata at its head lie more than {_DEEPEST} deep within each other"
                )
        root: yaml.Node | None = yaml.compose(head, Loader=_Loader)
        return root
    except (yaml.YAMLError, ValueError) as error:
        raise FormatError(f"{where}: the metadata at its head is not valid YAML: mend it there ({error})") from error


def _canonical(pairs: list[tuple[yaml.Node, yaml.Node]]) -> str:
    """The same text for the same keys and values, however they were written; it ends in a line feed."""
    root = yaml.MappingNode(_MAP, pairs, flow_style=False)
    return str(yaml.serialize(root, Dumper=_Dumper, allow_unicode=True)) if pairs else ""


def _without_trailing_comments(text: str) -> tuple[str, str]:
    lines = _lines(text).split("\n")[:-1]
    count = len(lines)
    while count > 1 and _OF_NOTHING.fullmatch(lines[count - 1]):
        count -= 1
    own, after = ("".join(f"{line}\n" for line in some) for some in (lines[:count], lines[count:]))
    return own, after


def _lines(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"
