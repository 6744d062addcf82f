"""The errors that a user of hf_rws can meet; every one is an `RWSError`. Warnings are `RWSWarning`s.

Where Python has a built-in exception for the same situation, ours is that one too, so that `except FileNotFoundError`
works as expected. Names from elsewhere stand in many messages, so all of them are printed on one line, in which every
character shows; `args` holds the message as it was raised.
"""

import contextlib
import sys
import warnings
from pathlib import Path

from hf_rws._text import one_line

__all__ = [
    "AccessError",
    "FormatError",
    "IntegrityError",
    "MismatchError",
    "MissingExtraError",
    "NetworkError",
    "NotFoundError",
    "OptionError",
    "RWSError",
    "RWSWarning",
    "warn",
]

_LONGEST_MESSAGE = 2000  # characters
_PACKAGE = str(Path(__file__).parent / "_").removesuffix("_")


class _Message:
    """What is printed of an error or a warning."""

    def __str__(self) -> str:
        return one_line(super().__str__(), limit=_LONGEST_MESSAGE)


class RWSError(_Message, Exception):
    """Base class of all errors raised on purpose by hf_rws."""


class RWSWarning(_Message, UserWarning):
    """The category of all warnings that hf_rws gives."""


def warn(message: str) -> None:
    """Give a warning that names the line that called this library, from whatever depth in it."""
    level, depth, frame = 1, 1, sys._getframe()
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE) or (file == contextlib.__file__ and level == depth - 1):  # a decorator of ours
            level = depth
    warnings.warn(message, RWSWarning, stacklevel=level + 1)


# --- what the caller asked for ---


class OptionError(RWSError, ValueError):
    """An argument has a value that makes no sense: an unknown name, a wrong length, a number out of range."""


class MissingExtraError(RWSError, ImportError):
    """An optional dependency is not installed. The message names the extra to install."""


# --- models and signatures ---


class MismatchError(RWSError, ValueError):
    """A signature and a model do not fit: another architecture, missing tensors, other shapes."""


class FormatError(RWSError):
    """A file is not what it should be: a broken config, missing or misshapen tensors, a newer format version."""


class IntegrityError(RWSError):
    """Bytes or weights are not what was recorded: a wrong sha256, or weights changed behind the patcher's back."""


# --- files and the Hub ---


class NotFoundError(RWSError, FileNotFoundError):
    """A folder, file, repo or revision does not exist."""


class AccessError(RWSError, PermissionError):
    """The Hub or the file system refused: no token, a wrong or read-only token, a gated repo."""


class NetworkError(RWSError, ConnectionError):
    """The Hub could not be reached or did not answer in time."""
