"""Progress bars: drawn by the first process, on a terminal or in a notebook, unless someone has switched them off.

`TQDM_DISABLE`, `HF_HUB_DISABLE_PROGRESS_BARS` and `huggingface_hub.utils.disable_progress_bars()` switch off ours and
those of the libraries that work for us; `TQDM_POSITION=-1` has them drawn without a terminal, as there.
"""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

from huggingface_hub.utils import are_progress_bars_disabled
from tqdm.asyncio import tqdm as _plain_tqdm
from tqdm.auto import tqdm

from hf_rws._environment import is_first_process

_IN_A_NOTEBOOK = tqdm is not _plain_tqdm
_OFF = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS")
_NO = ("", "0", "false", "no", "off")

_silent = False  # of the whole process: what calls the Hub does so in a thread of its own


def bar(iterable: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> tqdm:
    """A bar of tqdm, with its options.

    Args:
        iterable: What is gone through, if the bar is not moved by `update`.
        shown: False draws none, wherever this is.
        options: tqdm's, e.g. `desc` and `unit`.
    """
    return tqdm(iterable, disable=not (shown and bars_are_drawn()), **options)


def bars_are_drawn() -> bool:
    """Whether bars are drawn here and now."""
    if _silent or are_progress_bars_disabled() or not is_first_process():
        return False
    if any(os.environ.get(name, "").lower() not in _NO for name in _OFF):
        return False
    return _IN_A_NOTEBOOK or os.environ.get("TQDM_POSITION") == "-1" or sys.stderr.isatty()


def write(text: str) -> None:
    """Lines on stderr, above the bars that are drawn there."""
    tqdm.write(text, file=sys.stderr)


@contextmanager
def no_bars() -> Iterator[None]:
    """Within, none are drawn."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


@contextmanager
def bars_as_ours(library: Literal["datasets", "huggingface_hub"]) -> Iterator[None]:
    """Within, a library draws no bars where we draw none; as a decorator: while the function runs."""
    utils = import_module(f"{library}.utils")
    if bars_are_drawn() or utils.are_progress_bars_disabled():
        yield
        return
    with warnings.catch_warnings():  # its own environment variable has the last word
        warnings.simplefilter("ignore")
        utils.disable_progress_bars()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            utils.enable_progress_bars()
