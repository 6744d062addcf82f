"""Ctrl-C while modules are being imported, which takes seconds: a command ends then, quietly and at once."""

import os
import signal
import threading
from types import FrameType

_IMPORTING = "<frozen importlib"  # how the files of the import system begin


def stop_within_imports() -> None:
    """Have Ctrl-C end the process with exit code 130 during imports; everywhere else it raises KeyboardInterrupt.

    An import that an exception cuts off leaves half a module behind: NumPy, for one, then ends in a RecursionError.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORTING):
            os.write(2, b"\nstopped\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt
