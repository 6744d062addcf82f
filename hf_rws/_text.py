"""Text from elsewhere, made fit for a terminal, a card or a plot: one line, in which every character shows."""

import re

_SPACE = re.compile(r"\s+")


def one_line(text: object, *, limit: int | None = None) -> str:
    r"""The text on one line, without anything that a terminal obeys instead of showing it.

    Letters of all scripts and emoji stay. Line breaks, tabs and unusual spaces become one space with those around them;
    what else does not print (control characters, marks that turn the direction of writing, zero-width and unassigned
    characters, lone surrogates) is shown by its code, as `\x1b` or `\u202e`.

    Args:
        text: A text, or what `str` makes one of.
        limit: Longest result, in characters; of a longer one the middle is left out.
    """
    text = str(text)
    if limit is not None and len(text) > limit:  # before the work, which grows with the length
        text = _shortened(text, limit)
    if not text.isprintable():
        text = _SPACE.sub(lambda found: found[0] if found[0].isprintable() else " ", text)
        text = "".join(character if character.isprintable() else _shown(character) for character in text)
    return text if limit is None else _shortened(text, limit)


def _shown(character: str) -> str:
    return ascii(character)[1:-1]


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    end = (limit - 5) // 4
    return f"{text[: limit - 5 - end]} ... {text[len(text) - end :]}"
