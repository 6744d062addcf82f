"""A few values of every touched tensor, by which writes are noticed that leave no other trace.

Fused optimizers, `.data`, numpy views, DLPack, custom kernels and other processes write to a tensor's memory without
raising its version counter. What they write nearly always changes nearly all values, so a few short runs of values,
spread over every tensor, tell. They are compared as bytes: NaN equals itself, and no dtype is special.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

_RUN = 8  # values
_RUNS = 64  # of all tensors together, at least
_RUNS_EACH = 2  # of every tensor that has so many values, at least
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, spread evenly, however many are taken

# Devices whose memory is read at once; on others a comparison is queued, and nothing waits for its result.
_READ_AT_ONCE = {"cpu"}


class Samples:
    """Runs of values of tensors, compared with what they were at `mark`."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        stretches: dict[torch.device, list[_Stretch]] = {}
        each = max(_RUNS_EACH, -(-_RUNS // max(1, len(tensors))))
        with torch.inference_mode(False), torch.no_grad():  # memory that can be written to in every mode
            for index, tensor in enumerate(tensors):
                stretches.setdefault(tensor.device, []).extend(_stretches(tensor.detach(), each, index * each))
            self._groups: list[_InMemory | _Queued] = [
                _InMemory(mine) if device.type in _READ_AT_ONCE else _Queued(mine) for device, mine in stretches.items()
            ]

    def mark(self) -> None:
        """Take the values as they are from now on."""
        for group in self._groups:
            group.mark()

    def differ(self) -> bool:
        """Whether values are known to differ from those at `mark`; for a GPU `differed` tells later."""
        found = [group.differ() for group in self._groups]  # every one is to begin its comparison
        return any(found)

    def differed(self, *, wait: bool = False) -> bool:
        """Whether a comparison that `differ` began has found a difference since; told once.

        Args:
            wait: For comparisons that are not finished.
        """
        found = [group.differed(wait) for group in self._groups]  # every one is to forget it
        return any(found)


class _InMemory:
    """Runs in the CPU's memory, gathered by one call of Python: 20 to 50 ns each."""

    def __init__(self, stretches: Sequence["_Stretch"]) -> None:
        self._runs: list[memoryview] = []
        for values, runs in stretches:
            memory = values.numpy().data  # whose slices are made ten times faster than those of tensors
            self._runs.extend(memory[run] for run in runs)
        self._marked = b""

    def mark(self) -> None:
        self._marked = b"".join(self._runs)

    def differ(self) -> bool:
        return b"".join(self._runs) != self._marked

    def differed(self, wait: bool) -> bool:
        return False


class _Queued:
    """Runs on another device. The result of a comparison is copied to the CPU behind the work that is queued there."""

    def __init__(self, stretches: Sequence["_Stretch"]) -> None:
        self._runs = [values[run] for values, runs in stretches for run in runs]
        self._marked = torch.cat(self._runs)
        self._now = torch.empty_like(self._marked)
        on_cuda = self._marked.is_cuda
        self._finished = torch.cuda.Event() if on_cuda else None
        self._found = torch.zeros((), dtype=torch.bool, device=self._marked.device)
        self._verdict = torch.zeros((), dtype=torch.bool, device="cpu", pin_memory=on_cuda)
        self._pending = False

    @torch.no_grad()
    def mark(self) -> None:
        torch.cat(self._runs, out=self._marked)

    @torch.no_grad()
    def differ(self) -> bool:
        torch.cat(self._runs, out=self._now)
        self._found.logical_or_((self._now != self._marked).any())
        self._verdict.copy_(self._found, non_blocking=True)
        if self._finished is not None:
            self._finished.record(torch.cuda.current_stream(self._marked.device))
        self._pending = True
        return False

    @torch.no_grad()
    def differed(self, wait: bool) -> bool:
        if not self._pending:
            return False
        if self._finished is not None:
            if wait:
                self._finished.synchronize()
            elif not self._finished.query():
                return False
        self._pending = False
        found = bool(self._verdict)
        if found:
            self._found.zero_()
        return found


_Stretch: TypeAlias = tuple[Tensor, list[slice]]  # memory, uint8 of shape (bytes,), and the runs in it


def _stretches(tensor: Tensor, count: int, first: int) -> Iterator[_Stretch]:
    """About `count` runs of values of a tensor.

    Args:
        tensor: Of any shape, dtype and strides.
        count: How many runs.
        first: How many other tensors have: runs lie elsewhere in each.
    """
    size, width = tensor.numel(), tensor.element_size()
    if tensor.is_contiguous() or _is_dense(tensor):
        starts, length = [0], size
        if size > count * _RUN:
            starts = [round(number * _GOLDEN % 1 * (size - _RUN)) for number in range(first, first + count)]
            length = _RUN
        flat = tensor.as_strided((size,), (1,)).view(torch.uint8)
        yield flat, [slice(start * width, (start + length) * width) for start in starts]
    elif size:  # with gaps in memory: as many values, one by one
        for number in range(first * _RUN, (first + count) * _RUN):
            place = torch.tensor(int(number * _GOLDEN % 1 * size), device="cpu")
            value = tensor[tuple(map(int, torch.unravel_index(place, tensor.shape)))]
            yield value.view(1).view(torch.uint8), [slice(None)]


def _is_dense(tensor: Tensor) -> bool:
    """Whether there are no gaps between the values of a tensor in memory, as in channels_last."""
    by_stride = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.permute(by_stride).is_contiguous()
