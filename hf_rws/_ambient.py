"""What a caller has set for the whole process or thread: it changes no result of ours, and ours change nothing of it.

Autocast, a default device and gradient mode reach into every call of torch; the default dtype, which belongs to the
process and not to the thread, is never relied upon instead: what makes tensors names their dtype.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")

_CPU = torch.device("cpu")
_AUTOCAST = ("cpu", "cuda", "mps", "xpu")  # device types that have an autocast of their own


def unaffected(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorator: compute as if the caller had set neither autocast nor a default device.

    Where nothing is set, which is found out in two microseconds, the function is called as it is.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        on = [kind for kind in _AUTOCAST if torch.is_autocast_enabled(kind)]
        elsewhere = torch.empty(0).device != _CPU  # a third of the time of torch.get_default_device()
        if not on and not elsewhere:
            return function(*args, **kwargs)
        with ExitStack() as stack:
            for kind in on:
                stack.enter_context(torch.autocast(kind, enabled=False))
            if elsewhere:
                stack.enter_context(_CPU)
            return function(*args, **kwargs)

    return call


def learning(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorator: `unaffected`, and with gradients, whether the caller has switched them off or not."""
    inner = unaffected(function)

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch.inference_mode(False), torch.enable_grad():
            return inner(*args, **kwargs)

    return call


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give the global generators of Python, NumPy and torch back as they were, on the CPU and on GPUs in use."""
    states = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
