"""Accelerate as this library uses it: one accelerator a run, the precision that the hardware computes fast."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hf_rws._environment import environment
from hf_rws.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from accelerate.state import PartialState

_KINDS = ("cuda", "mps")  # of GPUs, in the order in which "auto" takes them


def resolve_precision(precision: str, device: str | None = None) -> str:
    """What "auto" means on this machine: bf16 or fp16 where it is fast, "no" elsewhere.

    On a CPU without AVX-512 BF16 or AMX bf16 autocast is emulated and many times slower than float32.

    Args:
        precision: One of `PRECISIONS`.
        device: Type of the device that will be used, "cuda" or "cpu", ...; by default "cuda" where there is one.
    """
    if precision != "auto":
        return precision
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has = torch.cpu.get_capabilities() if device == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "no"


def resolve_device(device: "str | torch.device" = "auto") -> "torch.device":
    """The device that a word stands for: "auto" is the GPU (cuda, then mps) where there is one, else the CPU.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", "mps", ..., or a `torch.device`.

    Raises:
        OptionError: Torch knows no such device, or this machine does not have it.
    """
    import torch

    if device == "auto":
        return torch.device(next((kind for kind in _KINDS if _count(kind)), "cpu"))
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise OptionError(f"device must be auto, cpu, cuda, cuda:1, mps or the like, got {device!r}") from error
    if found.type in _KINDS and (found.index or 0) >= _count(found.type):
        there = [f"{kind}:{number}" for kind in _KINDS for number in range(_count(kind))]
        raise OptionError(f"there is no device {str(found)!r} here; there is: {', '.join(['cpu', *there])}")
    return found


def _count(kind: str) -> int:
    """How many devices of a kind torch can use here."""
    import torch

    return torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())


@contextmanager
def training_on(device: str = "auto") -> Iterator[None]:
    """Within, what trains in this process does so on a device; Accelerate is told by its environment variables.

    Args:
        device: As for `resolve_device`; "auto" leaves the choice to Accelerate, and to whoever launched this process.

    Raises:
        OptionError: There is no such device here, or several processes would share one GPU.
    """
    if device == "auto":
        yield
        return
    found = resolve_device(device)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if found.index is not None and processes > 1:
        raise OptionError(
            f"device={device} is one device, and {processes} processes were launched: leave it out, or say which "
            "devices there are by CUDA_VISIBLE_DEVICES"
        )
    wanted: dict[str, str | None] = {"ACCELERATE_USE_CPU": "true" if found.type == "cpu" else "false"}
    if found.type != "cpu" and processes == 1:
        wanted["ACCELERATE_TORCH_DEVICE"] = str(found)
    with environment(wanted), state_kept():
        if processes == 1:
            _forget_device()
        yield


def _forget_device() -> None:
    """Accelerate keeps the first device of a process for ever; a training that names one means that one."""
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state()
    PartialState._reset_state()


def create_accelerator(
    precision: str,
    *,
    log_with: Sequence[str] = (),
    project_dir: str | Path | None = None,
) -> "Accelerator":
    """An Accelerator of its own for each training.

    Args:
        precision: One of `PRECISIONS`.
        log_with: Names of trackers.
        project_dir: Where trackers write.

    Raises:
        OptionError: The device cannot compute the precision, or a tracker is unknown.
        MissingExtraError: A tracker's package is not installed.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin

    check_trackers(log_with)
    device = process_state().device
    AcceleratorState._reset_state()  # as transformers does: a second training may want another precision
    try:
        return Accelerator(
            mixed_precision=resolve_precision(precision, device.type),
            # batches are cut by `_at_once`; without it the environment that `accelerate launch` leaves has its say
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            log_with=list(log_with) or None,
            project_dir=None if project_dir is None else str(project_dir),
        )
    except ValueError as error:  # a precision that the device cannot compute
        raise OptionError(f"Accelerate refuses these training arguments: {error}") from error


def process_state() -> "PartialState":
    """What Accelerate knows of this process: its device, its number, and how many were launched."""
    from accelerate.state import PartialState
    from accelerate.utils import parse_flag_from_env

    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def check_trackers(names: Sequence[str]) -> None:
    """Whether Accelerate can report to all of these trackers here; it leaves out in silence what is not installed.

    Raises:
        OptionError: It knows no such tracker.
        MissingExtraError: The tracker's package is not installed.
    """
    if not names:
        return
    from accelerate.tracking import filter_trackers
    from accelerate.utils import LoggerType

    process_state()  # without one it cannot say what it leaves out
    for name in names:
        try:
            there = filter_trackers([name], logging_dir=".")
        except ValueError as error:
            known = ", ".join(str(one) for one in LoggerType)
            raise OptionError(f"log_with={name} is no tracker that Accelerate knows; known: {known}") from error
        if not there:
            package = "tensorboard" if name == "all" else name
            what = "no tracker is installed" if name == "all" else f"the tracker {name} is not installed"
            raise MissingExtraError(f"{what}: pip install {package}, or leave out log_with={name}")


def end_trackers(accelerator: "Accelerator") -> None:
    """End the trackers' runs; unlike `end_training`, which would part processes that go on together."""
    for tracker in accelerator.trackers:
        tracker.finish()


@contextmanager
def state_kept() -> Iterator[None]:
    """Give Accelerate its state back: an Accelerator of the caller's keeps its precision and accumulation steps.

    All Accelerators of a process share that state, and `create_accelerator` makes one for a training of ours. What was
    launched in several processes stays connected.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    shared = [AcceleratorState._shared_state, GradientState._shared_state, PartialState._shared_state]
    before = [dict(state) for state in shared]
    try:
        yield
    finally:
        launched = PartialState._shared_state.get("num_processes", 1) > 1
        for state, values in zip(shared[: 2 if launched else 3], before, strict=False):
            state.clear()
            state.update(values)


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process is the only one that Accelerate knows of: what trains here waits for no other.

    It keeps the device that it has among those that were launched, and they stay connected.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    process_state()
    shared = PartialState._shared_state
    before = dict(shared)
    shared.update(
        distributed_type=DistributedType.NO, backend=None, num_processes=1, process_index=0, local_process_index=0
    )
    try:
        yield
    finally:
        shared.clear()
        shared.update(before)


def is_main_process() -> bool:
    """Whether this process is the only or the first one that was launched."""
    return bool(process_state().is_main_process)
