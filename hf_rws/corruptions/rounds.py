"""Repeating a step until it changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def until_stable(step: Callable[[Tensor], Tensor], state: Tensor, rounds: int) -> Tensor:
    """Apply `step` until nothing changes, `rounds` times at most.

    Only on the CPU is the state looked at: elsewhere that would wait for the device, so all rounds are gone through.
    """
    for _ in range(rounds):
        following = step(state)
        if state.device.type == "cpu" and torch.equal(following, state):
            break
        state = following
    return state
