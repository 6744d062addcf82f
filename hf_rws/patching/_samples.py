"""A few values of every touched tensor, by which writes are noticed that leave no other trace.

Fused optimizers, `.data`, numpy views, DLPack, custom kernels and other processes write to a tensor's memory without
raising its version counter. What they write nearly always changes nearly all values, so a few short runs of values,
spread over every tensor, tell. They are compared as bytes: NaN equals itself, and no dtype is special.
"""

import math
from collections.abc import Iterator, Sequence

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
        runs: dict[torch.device, list[Tensor]] = {}
        each = max(_RUNS_EACH, -(-_RUNS // max(1, len(tensors))))
        with torch.inference_mode(False), torch.no_grad():  # memory that can be written to in every mode
            for index, tensor in enumerate(tensors):
                runs.setdefault(tensor.device, []).extend(_runs(tensor.detach(), each, index * each))
            self._groups: list[_InMemory | _Queued] = [
                _InMemory(mine) if device.type in _READ_AT_ONCE else _Queued(mine) for device, mine in runs.items()
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

    def __init__(self, runs: Sequence[Tensor]) -> None:
        self._runs = [run.numpy().data for run in runs]
        self._marked = b""

    def mark(self) -> None:
        self._marked = b"".join(self._runs)

    def differ(self) -> bool:
        return b"".join(self._runs) != self._marked

    def differed(self, wait: bool) -> bool:
        return False


class _Queued:
    """Runs on another device. The result of a comparison is copied to the CPU behind the work that is queued there."""

    def __init__(self, runs: Sequence[Tensor]) -> None:
        self._runs = list(runs)
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


def _runs(tensor: Tensor, count: int, first: int) -> Iterator[Tensor]:
    """Bytes of about `count` runs of values of a tensor, as views of shape (bytes,).

    Args:
        tensor: Of any shape, dtype and strides.
        count: How many runs.
        first: How many other tensors have: runs lie elsewhere in each.
    """
    by_stride = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    is_dense = not by_stride or tensor.permute(by_stride).is_contiguous()  # as channels_last is, too
    flat = tensor.as_strided((tensor.numel(),), (1,)) if is_dense else None
    if flat is not None and len(flat) <= count * _RUN:
        yield flat.view(torch.uint8)
        return
    if flat is not None:
        for number in range(first, first + count):
            start = round(number * _GOLDEN % 1 * (len(flat) - _RUN))
            yield flat[start : start + _RUN].view(torch.uint8)
    elif tensor.numel():  # with gaps in memory: as many values, one by one
        for number in range(first * _RUN, (first + count) * _RUN):
            place = torch.tensor(int(number * _GOLDEN % 1 * tensor.numel()), device="cpu")
            yield tensor[tuple(map(int, torch.unravel_index(place, tensor.shape)))].view(1).view(torch.uint8)
