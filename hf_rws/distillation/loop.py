"""The training loop of distillation: a copy of the base learns, in its first layers, to answer as the base does."""

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import Generator, Tensor, nn

from hf_rws._accelerator import create_accelerator
from hf_rws._at_once import AskingInParts, LearningInParts
from hf_rws._progress import bar
from hf_rws.data.preprocessing import Normalize
from hf_rws.distillation.arguments import (
    LEAST_BATCH,
    OPTIMIZERS,
    DistillationArguments,
    clean_images,
    default_batch_size,
    default_norm_statistics,
    default_steps,
)
from hf_rws.distillation.mixtures import Corrupter
from hf_rws.distillation.objective import Objective, softened_divergence
from hf_rws.distillation.teacher import Teacher, ask
from hf_rws.errors import OptionError, warn
from hf_rws.extraction import difference
from hf_rws.layers import LayerTensor
from hf_rws.logging import get_logger
from hf_rws.signature.bits import Bits
from hf_rws.signature.quantization import rounded

_logger = get_logger(__name__)

_MOST_HELD_OUT, _FEW_HELD_OUT = 500, 20
_SEEN_PER_HELD_OUT = 30  # images seen in the run for each that is held out, so that looking at these takes little of it
_LOOKS, _FEWEST_LOOKS = 10, 3  # at the held-out images during a run
_LOOKING = 0.2  # images looked at, in all, as a share of those seen; a look costs a third of a step on as many
_PATIENCE = 3  # looks in the second half of the run that may pass without progress before it ends
_WARM_UP = 0.3  # share of the run in which the learning rate climbs, from 0.04 of its peak
_FLOAT16_MAX = torch.finfo(torch.float16).max  # beyond it no signature with codes can be stored
_ROUNDED = 0.5  # share of the run, at its end, in which quantization-aware steps see rounded weights
_COARSE = (1, 2, 3, "ternary")  # the bit widths at which rounding costs accuracy that such steps bring back
_TOO_FEW = 0.25  # share of the usual steps that brings most of the gain; half of it brings little
_BLOCK = 8  # batches that are corrupted at once: corruptions are slow on a few images, and a mixture divides them
_BLOCK_PIXELS = 2**20  # of a block, beyond which its size costs memory and gains nothing
_TRIED = 2  # steps that tell how long one takes


@dataclass(frozen=True)
class Snapshot:
    """A state of the first layers, and what it is worth on the held-out images, rounded as it will be stored.

    Attributes:
        loss: Divergence from the base's answers, clean and corrupted images weighed as in training.
        clean: Share of clean images with the base's answer.
        corrupted: Share of corrupted images with the base's answer on the clean one.
        deltas: What the tensors have become minus what they were, before rounding.
    """

    loss: float
    clean: float
    corrupted: float
    deltas: dict[str, Tensor]


class Distiller:
    """One distillation.

    Args:
        base: A timm model; it is copied.
        tensors: Those of its first layers, which learn.
        bits: How each of them will be stored, if not as it is: bit widths of weights, by name.
        images: Clean images, uint8 of shape (N, 3, H, W).
        corrupter: What corrupts them.
        arguments: The hyper-parameters.
        objective: What is minimised; None is the divergence of softened answers at the arguments' temperature.
        progress: Show a bar.
    """

    def __init__(
        self,
        base: nn.Module,
        tensors: Sequence[LayerTensor],
        bits: Mapping[str, Bits],
        images: Tensor,
        corrupter: Corrupter,
        arguments: DistillationArguments,
        *,
        objective: Objective | None = None,
        progress: bool = True,
    ) -> None:
        self.began = time.perf_counter()
        self.accelerator = create_accelerator(arguments.mixed_precision)
        self.processes = self.accelerator.num_processes
        height, width = images.shape[2:]
        share = max(1, default_batch_size(height, width) // self.processes)
        self.batch_size = arguments.batch_size or share * self.processes
        if self.batch_size % self.processes:
            raise OptionError(f"batch_size {self.batch_size} must be a multiple of the {self.processes} processes")
        self.device = self.accelerator.device
        self.arguments, self.tensors, self.bits = arguments, tensors, bits
        self.objective = objective or softened_divergence(arguments.temperature)
        self.images, self.corrupter = images, corrupter
        self.student = copy.deepcopy(base).float().eval().to(self.device).to(memory_format=torch.channels_last)
        self.student.__dict__.pop("_is_accelerate_prepared", None)  # with it a base that was prepared is not wrapped
        self.normalize = Normalize.of(self.student).to(self.device)
        self.start = {name: value.cpu().clone() for name, value in self._state().items()}
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(name in self.start)
        owners = {tensor.name.rpartition(".")[0] for tensor in tensors if tensor.kind == "running_var"}
        self.norm_statistics = arguments.norm_statistics
        if arguments.norm_statistics == "auto":
            self.norm_statistics = default_norm_statistics(height, width)
        learnt = sorted(owners) if self.norm_statistics == "learn" else []
        self.norms = [self.student.get_submodule(name) for name in learnt]

        usual_steps = partial(
            default_steps, corruptions=len(corrupter.names), batch_size=self.batch_size, pixels=height * width
        )
        order = torch.randperm(len(images), generator=Generator().manual_seed(arguments.seed))
        held_out = min(_MOST_HELD_OUT, max(1, round(arguments.hold_out * len(images))))
        if held_out == len(images):
            raise OptionError(f"hold_out {arguments.hold_out} leaves none of the {len(images)} images to learn from")
        seen = self.batch_size * (arguments.steps or usual_steps(len(images) - held_out))
        held_out = min(held_out, max(_FEW_HELD_OUT, seen // _SEEN_PER_HELD_OUT))
        self.held_out, self.rows = order[:held_out].sort().values, order[held_out:]
        self.steps = arguments.steps or usual_steps(len(self.rows))
        self.ask = partial(ask, self.accelerator, self.normalize, AskingInParts())
        self.teacher = Teacher(partial(self.ask, copy.deepcopy(self.student)), images)
        self._choose_looks(self.steps)
        self.step, self.reached, self.planned, self.judged, self.stopped = 0, 0.0, 0.0, False, ""
        self.optimizer_name = arguments.optimizer
        if arguments.optimizer == "auto":
            owned = {self.student.get_submodule(tensor.name.rpartition(".")[0]) for tensor in tensors}
            layer_norms = any(isinstance(module, nn.LayerNorm) for module in owned)
            self.optimizer_name = "adamw" if layer_norms or (owners and not self.norms) else "sgd"
        options = OPTIMIZERS[self.optimizer_name]
        self.peak = arguments.lr or options["lr"]
        optimizer = create_optimizer_v2(
            self.student, weight_decay=0.0, filter_bias_and_bn=False, **options | {"lr": self.peak}
        )
        self.model, self.optimizer = self.accelerator.prepare(self.student, optimizer)
        self.learning = LearningInParts(self.accelerator, self.model)
        self.bar = bar(
            total=None if arguments.minutes else self.steps,
            desc=f"distilling {corrupter.names[0]}"
            + (f" and {len(corrupter.names) - 1} more" if len(corrupter.names) > 1 else ""),
            unit="step",
            shown=progress,
            mininterval=1,
        )

    def _state(self) -> dict[str, Tensor]:
        """The learning tensors themselves; read anew each time, for DDP replaces buffers."""
        state = self.student.state_dict()
        return {tensor.name: state[tensor.name] for tensor in self.tensors}

    def run(self) -> tuple[Snapshot, Snapshot]:
        """Train; returns what there was before, and the best of what was seen during the run.

        Ctrl-C ends the run early, if there is something better than the base by then; else, and a second time, it is
        the caller's.
        """
        check = self._held_out_images()
        began = time.perf_counter()
        self.best = before = self._snapshot(check)
        self._begin(look_seconds=time.perf_counter() - began)
        try:
            self._train(check)
        except KeyboardInterrupt:
            self.stopped = self._progress()
            if self.step and self.accelerator.num_processes == 1:  # several do not stop at the same place
                with suppress(OptionError):  # diverged since; what was better before is kept
                    self._keep_if_better(self._snapshot(check))
            if not self.best.loss < before.loss:
                raise
        finally:
            self.bar.close()
        return before, self.best

    def _train(self, check: tuple[Tensor, Tensor, Tensor]) -> None:
        """Take the steps, and look at the held-out images in between."""
        since, looked = 0, 0
        coarse_from = 1 - _ROUNDED if self.arguments.quantization_aware else math.inf
        for images, answers in self._batches():
            fraction = self._fraction()
            self.learn(images, answers, self.peak * _one_cycle(fraction), as_stored=fraction >= coarse_from)
            self.step += 1
            self.bar.update()
            before, self.reached = self.reached, self._fraction()
            fraction = self.reached
            if self.step == _TRIED and self.arguments.minutes is not None:
                self._plan(fraction - before)
            self._check_budget(fraction)
            trying = self.arguments.minutes is not None and self.step < _TRIED  # a look would count as a step's time
            if fraction >= 1 or (int(fraction * self.looks) > looked and not trying):
                looked = int(fraction * self.looks)
                now = self._snapshot(check)
                self.bar.set_postfix(agreement=f"{now.corrupted:.3f}", clean=f"{now.clean:.3f}")
                _logger.info("%s: %.3f corrupted, %.3f clean agree", self._progress(), now.corrupted, now.clean)
                since = since + 1 if fraction > 0.5 else 0
                if self._keep_if_better(now):
                    since = 0
                if fraction >= 1 or since >= _PATIENCE:
                    break

    def _keep_if_better(self, now: Snapshot) -> bool:
        better = now.loss < self.best.loss
        if better:
            self.best = now
        return better

    def _progress(self) -> str:
        """How far the run is, in words."""
        if self.arguments.minutes is None:
            return f"step {self.step} of {self.steps}"
        return f"step {self.step}, after {100 * self.reached:.0f} % of {self.arguments.minutes:g} minutes"

    def _plan(self, a_step: float) -> None:
        """Into `minutes` fit as many steps as are usual, of smaller batches where it must be, unless these are given.

        Args:
            a_step: The share of the run that the last step took; the first one is slower.
        """
        self.planned = self.reached
        left = (1 - self.reached) / a_step if a_step > 0 else math.inf
        if left < self.steps and self.arguments.batch_size is None:
            share = self.batch_size // self.processes
            fewest = -(-LEAST_BATCH // self.processes)
            share = min(share, max(fewest, math.floor(share * left / self.steps)))
            left *= self.batch_size / (share * self.processes)
            self.batch_size = share * self.processes
        self._choose_looks(min(left, self.steps * _LOOKS))

    def _choose_looks(self, steps: float) -> None:
        """How often to look at the held-out images, if the run takes so many steps."""
        affordable = _LOOKING * steps * self.batch_size / (2 * len(self.held_out))
        self.looks = math.floor(max(_FEWEST_LOOKS, min(_LOOKS, affordable)))

    def _check_budget(self, fraction: float) -> None:
        """Say once, as soon as that can be told, that `minutes` are too few for the steps that help."""
        if self.arguments.minutes is None or self.judged or fraction < 1 / _LOOKS:
            return
        if self.step <= _TRIED and fraction < 0.5:  # the batches may become smaller yet
            return
        self.judged = True
        since = (fraction - self.planned) / (self.step - _TRIED) if self.step > _TRIED else 0.0
        a_step = since or fraction / self.step
        expected, usual = self.step + (1 - fraction) / a_step, self.steps
        if expected < _TOO_FEW * usual and self.accelerator.is_main_process:
            warn(
                f"{self.arguments.minutes:g} minutes are enough for about {expected:.0f} steps on this machine, too "
                f"few to help much: {usual} are usual for these images. minutes={self._minutes_for(usual, a_step)} "
                "would do, or a GPU; a smaller batch_size or fewer layers (num_layers) make a step faster"
            )

    def _minutes_for(self, steps: int, a_step: float) -> int:
        """The time that so many steps would take, each this share of the present time, and what comes before them."""
        before = 60 * self.arguments.minutes - self.seconds  # type: ignore[operator]
        return math.ceil((before + steps * a_step * self.seconds) / 60)

    def record(self) -> dict[str, Any]:
        """What the signature's config says of how it was made."""
        settings = {key: value for key, value in asdict(self.arguments).items() if value is not None}
        return settings | {
            "images": len(self.rows),
            "held_out": len(self.held_out),
            "steps": self.step,
            "batch_size": self.batch_size,
            "optimizer": self.optimizer_name,
            "lr": self.peak,
            "norm_statistics": self.norm_statistics,
            "mixed_precision": self.accelerator.mixed_precision,
            **({"parts": self.learning.parts} if self.learning.parts > 1 else {}),
            **({"stopped_early": f"at {self.stopped}"} if self.stopped else {}),
        }

    def learn(self, images: Tensor, answers: Tensor, rate: float, *, as_stored: bool = False) -> None:
        """One step; with `as_stored` the gradient is that at the rounded weights, the step is the unrounded ones'."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for norm in self.norms:
            norm.train()
        coarse = {name: bits for name, bits in self.bits.items() if bits in _COARSE} if as_stored else {}
        with self._as_stored(coarse):
            self.learning(images.shape, partial(self._loss, images, answers))
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _loss(self, images: Tensor, answers: Tensor, part: slice) -> Tensor:
        """The objective on a part of a batch."""
        with self.accelerator.autocast():
            logits = self.model(self.normalize(images[part]))
        return self.objective(logits, answers[part])

    @contextmanager
    def _as_stored(self, bits: Mapping[str, Bits]) -> Iterator[None]:
        """Within, these weights are what the signature will make of the base: their differences are rounded."""
        state = self._state()
        if any(not state[name].isfinite().all() or state[name].abs().max() > _FLOAT16_MAX for name in bits):
            raise self._diverged()
        exact = {name: state[name].detach().clone() for name in bits}
        try:
            with torch.no_grad():
                for name, width in bits.items():
                    start = self.start[name].to(self.device)
                    state[name].copy_(start + rounded(exact[name] - start, width))
            yield
        finally:
            with torch.no_grad():
                for name, value in exact.items():
                    state[name].copy_(value)

    def _diverged(self) -> OptionError:
        return OptionError(f"the distillation diverged: give a lower lr than {self.peak:g}")

    def _begin(self, look_seconds: float) -> None:
        """Start the clock of the steps: they get the time that is left, but for one more now."""
        self.steps_began = time.perf_counter()
        if self.arguments.minutes is not None:
            taken = self.steps_began - self.began + look_seconds
            self.seconds = float(
                self._from_main(torch.tensor([60 * self.arguments.minutes - taken], dtype=torch.float64))
            )
            if self.seconds <= 0:
                raise OptionError(
                    f"{self.arguments.minutes:g} minutes are too few: asking the base about held-out images takes "
                    f"{taken / 60:.2g} on this machine; give more, or a smaller hold_out"
                )

    def _fraction(self) -> float:
        """How much of the run is over; all processes go by the main one's clock."""
        if self.arguments.minutes is None:
            return self.step / self.steps
        elapsed = self._from_main(torch.tensor([time.perf_counter() - self.steps_began], dtype=torch.float64))
        return min(1.0, float(elapsed) / self.seconds)

    def _from_main(self, values: Tensor) -> Tensor:
        """The main process' values, float32 on the CPU."""
        if self.accelerator.num_processes == 1:
            return values
        from accelerate.utils import broadcast

        return broadcast(values.to(self.device, torch.float32)).cpu()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process' share of each batch: images on the device, some of them clean, and the answers wanted."""
        arguments, rank = self.arguments, self.accelerator.process_index
        order = Generator().manual_seed(arguments.seed + 1)  # the same everywhere
        draws = Generator(device=self.device).manual_seed(arguments.seed + 2 + rank)
        waiting = self.rows[:0]
        while True:
            size, share = self.batch_size, self.batch_size // self.processes  # which a deadline may change
            block_size = self._block_size()
            clean = clean_images(arguments.clean_fraction, size)
            spread = torch.arange(size) * clean % size < clean  # evenly
            dirty = (~spread.view(-1, share)[rank]).repeat(block_size).nonzero().flatten()
            while len(waiting) < block_size * size:
                waiting = torch.cat([waiting, self.rows[torch.randperm(len(self.rows), generator=order)]])
            block, waiting = waiting.tensor_split([block_size * size])
            rows = block.view(block_size, -1, share)[:, rank].flatten()
            images = self.images[rows].to(self.device)
            if len(dirty):
                images[dirty.to(self.device)] = self.corrupter(images[dirty.to(self.device)], rows[dirty], draws)
            mirrored = (
                torch.rand(len(rows), generator=order, dtype=torch.float32) < 0.5
                if arguments.flip
                else torch.zeros(len(rows)) > 0
            )
            answers = self.teacher(rows, mirrored)
            images = torch.where(mirrored.to(self.device)[:, None, None, None], images.flip(3), images)
            yield from zip(images.split(share), answers.to(self.device).split(share), strict=True)

    def _block_size(self) -> int:
        """How many batches are made at once."""
        if self.arguments.minutes is not None:  # whose end has to wait for a block
            return 1
        height, width = self.images.shape[2:]
        return max(1, min(_BLOCK, _BLOCK_PIXELS // (self.batch_size * height * width)))

    def _held_out_images(self) -> tuple[Tensor, Tensor, Tensor]:
        """Clean, corrupted, and the answers wanted."""
        clean = self.images[self.held_out].to(self.device)
        generator = Generator(device=self.device).manual_seed(self.arguments.seed)
        answers = self.teacher(self.held_out, torch.zeros(len(self.held_out), dtype=torch.bool))
        return clean, self.corrupter(clean, self.held_out, generator), answers

    def _snapshot(self, check: tuple[Tensor, Tensor, Tensor]) -> Snapshot:
        """Judge the present state; all processes take the main one's statistics and verdict."""
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            for value in self._state().values():
                value.copy_(broadcast(value))
        *both, answers = check
        losses, shares = [], []
        with self._as_stored(self.bits):
            for images in both:
                logits = self.ask(self.student, images)
                losses.append(float(self.objective(logits, answers)))
                shares.append(float((logits.argmax(1) == answers.argmax(1)).double().mean()))
        clean_fraction = self.arguments.clean_fraction
        loss = clean_fraction * losses[0] + (1 - clean_fraction) * losses[1]
        loss, *shares = self._from_main(torch.tensor([loss, *shares], dtype=torch.float64)).tolist()
        if not math.isfinite(loss):
            raise self._diverged()
        state = self._state()
        deltas = {
            tensor.name: difference(tensor, state[tensor.name].cpu(), self.start[tensor.name])
            for tensor in self.tensors
        }
        return Snapshot(loss, shares[0], shares[1], deltas)


def _one_cycle(fraction: float) -> float:
    """The learning rate as a share of its peak, after this share of the run."""
    if fraction < _WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * fraction / _WARM_UP)) / 2
    return (1 + math.cos(math.pi * (fraction - _WARM_UP) / (1 - _WARM_UP))) / 2
