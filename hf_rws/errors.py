"""The errors that a user of hf_rws can meet; every one is an `RWSError`.

Where Python has a built-in exception for the same situation, ours is that one too, so that `except FileNotFoundError`
works as expected.
"""


class RWSError(Exception):
    """Base class of all errors raised on purpose by hf_rws."""


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
