"""How many images go through a network at once, and what happens where memory does not hold them.

On a CPU larger parts than `pixels_at_once` allows are no faster; whatever the device, what the network holds for the
images of a part must fit a share of the free memory. Where memory runs out nevertheless, the number is halved.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from hf_rws.errors import OptionError, warn

if TYPE_CHECKING:
    from accelerate import Accelerator

_MOST_IMAGES = 500  # whatever their size
_CPU_PIXELS = 2**21  # 500 images of 64 px, 41 of 224 px
_DEVICE_PIXELS = 2**24  # 334 images of 224 px
_CPU_SHARE, _DEVICE_SHARE = 0.25, 0.75  # of the free memory: on a GPU running out of it costs one try, not the process
_CPU_BYTES = 2**30  # at most, however much is free
# Input pixels up to which a part is small, whatever the network: it is not worth a look at what is held for an image.
_SMALL_ASKED, _SMALL_LEARNED = 2**19, 2**17
_ALIVE = 4  # outputs as large as the largest that exist at one time in a pass, all in all
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def by_area(shape: Sequence[int], device: torch.device) -> int:
    """How many images of shape (..., H, W) are asked at once on a device, from their area alone; at least 1."""
    pixels = _CPU_PIXELS if device.type == "cpu" else _DEVICE_PIXELS
    return max(1, min(_MOST_IMAGES, pixels // (shape[-2] * shape[-1])))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device; what torch keeps for itself, and has not given out, is among them."""
    if device.type != "cuda":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # which share it
        return min(psutil.virtual_memory().available, _free_in_container()) // processes
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def _free_in_container() -> int:
    """What the memory limit of a container (Linux, cgroup v2) leaves; files that are only cached do not count."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        found = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(found["inactive_file"]) + int(found["active_file"]))
    except (OSError, ValueError, KeyError):  # there is no limit, or another system
        return sys.maxsize


def _budget(device: torch.device) -> int:
    """Bytes that the images of a part may take."""
    if device.type == "cpu":
        return min(_CPU_BYTES, int(_CPU_SHARE * free_memory(device)))
    return int(_DEVICE_SHARE * free_memory(device))


def equal_parts(count: int, parts: int) -> list[slice]:
    """The numbers 0 to `count` - 1 in parts as equal as can be, none of them empty."""
    parts = min(parts, count)
    ends = [number * count // parts for number in range(parts + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and should_reduce_batch_size(error)
    )


class _Parts:
    """A number of images at once, which is halved where memory runs out, with one message in a run."""

    def __init__(self) -> None:
        self.number: int | None = None  # unknown until it matters
        self._halved, self._told = False, False

    def _halve(self, count: int, shape: Sequence[int], error: BaseException) -> None:
        """After `error`, an out-of-memory error of `count` images at once; OptionError where it was one image."""
        if count == 1:
            raise _too_large(count, shape, error) from error
        self.number = -(-count // 2)
        self._halved = True

    def _tell(self, count: int, shape: Sequence[int]) -> None:
        """After so many at once went well: say so, if it is less than what was tried."""
        if self._halved and not self._told:
            self._told = True
            warn(
                f"memory ran out: images of {shape[-2]}x{shape[-1]} pixels go through the network {count} at once from "
                "now on"
            )


def _too_large(count: int, shape: Sequence[int], error: BaseException) -> OptionError:
    images = "one image" if count == 1 else f"{count} images"
    return OptionError(
        f"memory does not hold what this network makes of {images} of {shape[-2]}x{shape[-1]} pixels: use smaller "
        f"images, a smaller network, or another device ({error})"
    )


class AskingInParts(_Parts):
    """Runs a network on images without gradients, as many at once as memory holds. One for a run and a size of images.

    Args:
        most: Images at once; None is by their size and the free memory.
        back: Whether what is run goes back through the network too, for gradients of the images.
    """

    def __init__(self, most: int | None = None, *, back: bool = False) -> None:
        super().__init__()
        self.number, self._back = most, back

    def __call__(self, network: nn.Module, images: Tensor, run: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """What `run` gives for each part, in order.

        Args:
            network: What it runs.
            images: Of shape (N, C, H, W).
            run: From some of the images to what is wanted of them.

        Raises:
            OptionError: Memory does not hold a single image.
        """
        return self.by_number(network, images.shape, lambda part: run(images[part]))

    def by_number(self, network: nn.Module, shape: Sequence[int], run: Callable[[slice], Tensor]) -> list[Tensor]:
        """The same for images of shape (N, C, H, W), of which `run` is told the numbers."""
        found: list[Tensor] = []
        first, device = 0, next(network.parameters()).device
        while first < shape[0]:
            number = self.number or self._measure(network, device, shape, run)
            part = slice(first, min(first + number, shape[0]))
            count = part.stop - first
            try:
                found.append(run(part))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(count, shape, error)
            else:
                first = part.stop
                self._tell(count, shape)
                continue
            _free_memory(device)
        return found

    def _measure(
        self, network: nn.Module, device: torch.device, shape: Sequence[int], run: Callable[[slice], Tensor]
    ) -> int:
        number = by_area(shape, device)
        if min(number, shape[0]) * shape[-2] * shape[-1] <= (_SMALL_LEARNED if self._back else _SMALL_ASKED):
            return number
        try:
            held = (_held_in_learning if self._back else _held_in_passing)(network, lambda: run(slice(0, 1)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._halve(1, shape, error)
        self.number = max(1, min(number, _budget(device) // max(1, held)))
        return self.number


class LearningInParts(_Parts):
    """Computes the gradients of batches, each in as few parts as memory holds. One for a run.

    The gradients of a batch are those of its mean loss, to rounding, into however many parts it is cut; but a batch
    norm in training mode normalises each part by itself ("ghost batch norm", Hoffer et al., arXiv 1705.08741), and its
    momentum is then made smaller, so that a batch weighs as much in the running statistics.

    Attributes:
        number: Images at once; None until it is known.
        least: Parts of every batch that the user wants.
        parts: The most into which a batch was cut.

    Args:
        accelerator: The run's.
        network: What learns, as the accelerator has prepared it; its gradients are None or zero between batches.
        least: Parts of every batch that the user wants.
        budget: Bytes that may be held for backward; by default a share of what is free.
    """

    def __init__(
        self, accelerator: "Accelerator", network: nn.Module, *, least: int = 1, budget: int | None = None
    ) -> None:
        super().__init__()
        self._accelerator, self._network, self.least, self._bytes = accelerator, network, least, budget
        self.parts = 1

    def __call__(self, shape: Sequence[int], loss_of: Callable[[slice], Tensor]) -> Tensor:
        """Leave the gradients of a batch in the network; returns its mean loss, detached.

        Args:
            shape: Of this process' images of the batch: (N, C, H, W).
            loss_of: Mean loss of some of them, with gradients; it sees to autocast itself.

        Raises:
            OptionError: Memory does not hold a single image; or it ran out in one of several processes.
        """
        kept = _Statistics(self._network)
        while True:
            number = self.number or self._measure(shape, loss_of, kept)
            parts = self._cut(shape[0], number)
            try:
                loss = self._learn(shape[0], parts, loss_of)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                count = max(part.stop - part.start for part in parts)
                if self._accelerator.num_processes > 1:  # the others wait for what will not come
                    raise OptionError(
                        f"memory does not hold {count} images of {shape[-2]}x{shape[-1]} pixels in one of the "
                        f"processes: give a smaller batch_size or smaller images ({error})"
                    ) from error
                self._halve(count, shape, error)
                if len(self._cut(shape[0], self.number or 1)) == len(parts):
                    raise _too_large(count, shape, error) from error
            else:
                self._tell(max(part.stop - part.start for part in parts), shape)
                self.parts = max(self.parts, len(parts))
                return loss
            self._network.zero_grad()
            kept.restore()
            _free_memory(self._accelerator.device)

    def _cut(self, count: int, number: int) -> list[slice]:
        """A batch in parts of at most `number` images, as far as batch norms, which need two, allow."""
        parts = -(-count // number)
        if _norms(self._network):
            parts = min(parts, max(1, count // 2))
        return equal_parts(count, max(self.least, parts))

    def _learn(self, count: int, parts: Sequence[slice], loss_of: Callable[[slice], Tensor]) -> Tensor:
        total: Any = 0.0
        with momentum_for(self._network, len(parts) / self.least):
            for part in parts:
                alone = nullcontext() if part is parts[-1] else self._accelerator.no_sync(self._network)
                with alone:
                    loss = loss_of(part) / (count / (part.stop - part.start))
                    self._accelerator.backward(loss)
                total = total + loss.detach()
        return total

    def _measure(self, shape: Sequence[int], loss_of: Callable[[slice], Tensor], kept: "_Statistics") -> int:
        count, height, width = shape[0], *shape[-2:]
        if count * height * width <= _SMALL_LEARNED:
            return count
        device = self._accelerator.device
        tried = min(2, count)  # a batch norm may need two
        try:
            with (
                torch.random.fork_rng([device] if device.type == "cuda" else []),
                self._accelerator.no_sync(self._network),
            ):
                held = _held_in_learning(self._network, lambda: loss_of(slice(0, tried))) / tried
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            held = float("inf")
        kept.restore()
        found = int((self._bytes or _budget(device)) // max(1, held))
        if self._accelerator.num_processes > 1:
            found = int(self._accelerator.gather(torch.tensor([found], device=device)).min())
        self.number = max(1, found)
        return self.number


@contextmanager
def momentum_for(network: nn.Module, parts: float) -> Iterator[None]:
    """Within, the running statistics of norms move as far in so many parts of a batch as else in a whole one."""
    norms: list[Any] = [norm for norm in _norms(network) if isinstance(norm.momentum, float)] if parts != 1 else []
    before = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 1 - (1 - norm.momentum) ** (1 / parts)
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def _norms(network: nn.Module) -> list[Any]:
    """Those that keep running statistics of what they see now."""
    return [
        module
        for module in network.modules()
        if module.training and "momentum" in vars(module) and module._buffers.get("running_var") is not None
    ]


class _Statistics:
    """The running statistics of a network's norms, to go back to."""

    def __init__(self, network: nn.Module) -> None:
        self._places = [
            (norm, name) for norm in _norms(network) for name in _STATISTICS if norm._buffers.get(name) is not None
        ]
        self._kept = [norm._buffers[name].clone() for norm, name in self._places]

    def restore(self) -> None:
        """Write them back."""
        with torch.no_grad():
            for (norm, name), value in zip(self._places, self._kept, strict=True):
                norm._buffers[name].copy_(value)


def _held_in_passing(network: nn.Module, run: Callable[[], Any]) -> int:
    """Bytes that a network needs at one time for the images of a forward pass, or of one back, about."""
    largest = 0

    def look(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal largest
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, Tensor):
                largest = max(largest, tensor.nbytes)

    hooks = [module.register_forward_hook(look) for module in network.modules()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return _ALIVE * largest


def _held_in_learning(network: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes that a network needs for the images of a forward pass and the one back: what autograd saves, and more."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        sizes[address] = min(storage.nbytes(), sizes.get(address, 0) + tensor.nbytes)  # of a batch, the images seen
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = []  # kept until all is counted: memory that is given back may come again under the same address
        passing = _held_in_passing(network, lambda: graph.append(run()))
    return passing + sum(size for address, size in sizes.items() if address not in own)


def _free_memory(device: torch.device) -> None:
    """Give back what failed; not within the `except`, whose traceback holds it."""
    from accelerate.utils.memory import clear_device_cache

    if device.type != "cpu":  # where nothing is kept back
        clear_device_cache(garbage_collection=True)
