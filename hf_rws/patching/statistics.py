"""Batch norm statistics re-estimated from images, exactly."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_rws._ambient import unaffected
from hf_rws.data.preprocessing import Normalize
from hf_rws.errors import OptionError
from hf_rws.layers import StopForward, run_until_stopped

_STATISTICS = ("running_mean", "running_var")
_HAS_FLOAT64 = ("cpu", "cuda")


@dataclass(frozen=True)
class Measured:
    """Running statistics that were measured on images.

    Attributes:
        values: The statistics by state-dict name.
        images: How many images they were measured on.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    images: int = 0


def _find_norms(model: nn.Module) -> dict[str, Any]:
    """The modules with running statistics by name.

    Raises:
        OptionError: There are none.
    """
    norms = {
        name: module
        for name, module in model.named_modules()
        if all(isinstance(getattr(module, key, None), Tensor) for key in _STATISTICS)
    }
    if not norms:
        raise OptionError("this model has no batch norms, so it has no statistics to recalibrate")
    return norms


@unaffected
@torch.no_grad()
def measure(model: nn.Module, images: Tensor | Iterable[Tensor]) -> Measured:
    """Write the statistics that images have in a model into its batch norms, the shallowest first.

    Each norm gets the mean and the (unbiased) variance of its input over all images and positions, pooled, where all
    norms before it have theirs already: what every norm records if all images go through the training model in one
    batch and momentum is 1. A norm that is not reached keeps its statistics; one that is used several times in a pass
    gets those of its first use. Nothing else changes, but on an error the statistics are left half written.

    Args:
        model: A model with batch norms.
        images: A tensor, or an iterable of batches, as `Patcher.recalibrate` takes it.

    Raises:
        OptionError: The images are not such tensors, or too few, or the statistics are not finite.
    """
    norms = _find_norms(model)
    batches = [images] if isinstance(images, Tensor) else list(images)
    for index, batch in enumerate(batches):
        _check_batch(batch, "images" if isinstance(images, Tensor) else f"batch {index}")
    run = _Recalibration(norms, len(batches))
    training = {module: module.training for module in model.modules()}
    hooks = [norm.register_forward_pre_hook(run.reach, with_kwargs=True) for norm in norms.values()]
    try:
        model.eval()
        while batches and run.advance(model, batches):
            pass
    finally:
        for hook in hooks:
            hook.remove()
        for module, flag in training.items():
            module.training = flag
    if not run.done:
        raise OptionError("no image reached a batch norm; give a tensor of images, or an iterable of such batches")
    return Measured(
        {f"{name}.{key}": getattr(norms[name], key).clone() for name in run.done for key in _STATISTICS},
        sum(map(len, batches)),
    )


class _Moments:
    """Count, mean and sum of squared deviations of each channel, in float64."""

    def __init__(self) -> None:
        self.batches = 0
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, values: Tensor) -> None:
        """Values of shape (N, C, ...)."""
        values = (values if values.device.type in _HAS_FLOAT64 else values.cpu()).double()
        others = [dimension for dimension in range(values.ndim) if dimension != 1]
        variance, mean = torch.var_mean(values, others, correction=0)
        count = values.numel() // values.shape[1]
        shift, share = mean - self.mean, count / (self.count + count)
        self.squares = self.squares + variance * count + shift.square() * self.count * share
        self.mean, self.count, self.batches = self.mean + shift * share, self.count + count, self.batches + 1

    def variance(self) -> Tensor:
        """Unbiased, as a batch norm records it."""
        return self.squares / (self.count - 1)


class _Recalibration:
    """The norms of a model on their way to new statistics.

    A single batch goes through once, every norm being written as the batch reaches it. Of several batches all must
    reach a norm before any can go beyond it, so each norm takes a pass, which ends there.
    """

    def __init__(self, norms: Mapping[str, Any], batches: int) -> None:
        self.done: list[str] = []
        self._names = {norm: name for name, norm in norms.items()}
        self._batches = batches
        self._moments: dict[str, _Moments] = {}

    def advance(self, model: nn.Module, batches: Iterable[Tensor]) -> bool:
        """One pass of all batches; False when there is nothing more to do."""
        before = len(self.done)
        for batch in batches:
            _forward(model, batch)
        if self._moments:
            raise OptionError(f"not all batches reach the batch norm {next(iter(self._moments))}")
        return self._batches > 1 and before < len(self.done) < len(self._names)

    def reach(self, norm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The hook: a batch is about to go into a norm."""
        name = self._names[norm]
        if name in self.done:
            return
        moments = self._moments.setdefault(name, _Moments())
        moments.add(args[0] if args else next(iter(kwargs.values())))
        if moments.batches == self._batches:
            self._write(norm, name, self._moments.pop(name))
        if self._batches > 1:
            raise StopForward

    def _write(self, norm: Any, name: str, moments: _Moments) -> None:
        if moments.count < 2:
            raise OptionError(f"the batch norm {name} sees one value per channel only; give more or larger images")
        for key, value in zip(_STATISTICS, (moments.mean, moments.variance()), strict=True):
            if not bool(getattr(norm, key).copy_(value).isfinite().all()):
                raise OptionError(f"{name}.{key} would not be finite on these images")
        self.done.append(name)


def _check_batch(batch: object, what: str) -> None:
    if not isinstance(batch, Tensor):
        raise OptionError(f"{what} must be a tensor of images, got {type(batch).__name__}")
    if batch.ndim != 4 or len(batch) == 0 or not (batch.dtype == torch.uint8 or batch.is_floating_point()):
        raise OptionError(
            f"{what} must be images of shape (N, C, H, W), uint8 (raw) or float (normalised), got shape "
            f"{tuple(batch.shape)} of {batch.dtype}"
        )


def _forward(model: nn.Module, batch: Tensor) -> None:
    example = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    images = batch.to(example.device)
    if images.dtype == torch.uint8:
        images = Normalize.of(model).to(example.device)(images)
    try:
        run_until_stopped(model, images.to(example.dtype))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:  # AssertionError: timm's answer to other image sizes
        raise OptionError(f"the model cannot take images of shape {tuple(batch.shape)}: {error}") from error
