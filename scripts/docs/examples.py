"""For the API reference: a docstring's section of one example, which griffe takes for a note, as one of "Examples:"."""

import re

import griffe


class Examples(griffe.Extension):
    """Found by mkdocstrings in this file."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rename the section."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
