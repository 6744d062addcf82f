"""How much the library says of what it does: the functions of `huggingface_hub.logging`, for the logger "hf_rws".

```python
hf_rws.logging.set_verbosity_info()  # or HF_RWS_VERBOSITY=info
```

What is logged goes to stderr, above the bars, unless the program has set up handlers of its own for all loggers.
Warnings are Python's (`RWSWarning`), whatever the verbosity is.
"""

import logging
import os
from logging import CRITICAL, DEBUG, ERROR, INFO, WARNING

from hf_rws import _progress
from hf_rws.errors import warn

__all__ = [
    "CRITICAL",
    "DEBUG",
    "ERROR",
    "INFO",
    "WARNING",
    "get_logger",
    "get_verbosity",
    "set_verbosity",
    "set_verbosity_debug",
    "set_verbosity_error",
    "set_verbosity_info",
    "set_verbosity_warning",
]

_NAME, _VARIABLE = "hf_rws", "HF_RWS_VERBOSITY"
_LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR, "critical": CRITICAL}


class _Stderr(logging.Handler):
    """For programs that have set up no handlers."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            _progress.write(self.format(record))


def get_logger(name: str = _NAME) -> logging.Logger:
    """The logger of the library, or of one of its modules."""
    return logging.getLogger(name)


def get_verbosity() -> int:
    """The level from which on messages are shown."""
    return get_logger().getEffectiveLevel()


def set_verbosity(level: int) -> None:
    """Show messages from this level on, e.g. `hf_rws.logging.INFO`."""
    get_logger().setLevel(level)


def set_verbosity_debug() -> None:
    """Show what is of interest to those who look for a fault."""
    set_verbosity(DEBUG)


def set_verbosity_info() -> None:
    """Show how the work goes on."""
    set_verbosity(INFO)


def set_verbosity_warning() -> None:
    """Show what may need a look; this is where it begins."""
    set_verbosity(WARNING)


def set_verbosity_error() -> None:
    """Show errors only."""
    set_verbosity(ERROR)


def _begin() -> None:
    wanted = os.environ.get(_VARIABLE, "").lower()
    if wanted and wanted not in _LEVELS:
        warn(f"{_VARIABLE}={wanted} is none of {', '.join(_LEVELS)}")
    set_verbosity(_LEVELS.get(wanted, WARNING))
    get_logger().addHandler(_Stderr())


_begin()
