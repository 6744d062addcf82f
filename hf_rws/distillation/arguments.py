"""The hyper-parameters of a distillation."""

import math
from dataclasses import dataclass
from typing import Any

from hf_rws._checks import check_numbers
from hf_rws._choices import NORM_STATISTICS
from hf_rws.errors import OptionError

# What timm's optimizer factory is given; measured by scripts/distillation_search.py.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"opt": "sgd", "momentum": 0.9, "lr": 0.01},  # timm's "sgd" is Nesterov's
    "adamw": {"opt": "adamw", "lr": 1e-3},
}
LEAST_BATCH, _LARGEST_BATCH = 8, 128
_BATCH_PIXELS = 2**20  # 20 images of 224 px
_SEEN_PIXELS = 200_000_000  # in all steps against one corruption: 3,986 images of 224 px
_KEPT_FROM = 128**2  # pixels; measured at 32 and 224 px
_ENOUGH_IMAGES = 20_000


@dataclass(frozen=True)
class DistillationArguments:
    """The hyper-parameters of `hf_rws.distill`, where they are described."""

    steps: int | None = None
    minutes: float | None = None
    batch_size: int | None = None
    clean_fraction: float = 0.25
    temperature: float = 2.0
    optimizer: str = "auto"
    lr: float | None = None
    flip: bool = True
    norm_statistics: str = "auto"
    hold_out: float = 0.1
    quantization_aware: bool = True
    seed: int = 0
    mixed_precision: str = "auto"

    def __post_init__(self) -> None:
        check_numbers(
            self,
            whole=("steps", "batch_size", "seed"),
            real=("minutes", "temperature", "lr", "clean_fraction", "hold_out"),
            optional=("steps", "minutes", "batch_size", "lr"),
        )
        if self.optimizer not in ("auto", *OPTIMIZERS):
            raise OptionError(f"optimizer must be one of auto, {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.norm_statistics not in ("auto", *NORM_STATISTICS):
            known = ", ".join(NORM_STATISTICS)
            raise OptionError(f"norm_statistics must be one of auto, {known}, got {self.norm_statistics!r}")
        if self.steps is not None and self.minutes is not None:
            raise OptionError("give steps or minutes, not both")
        for name in ("steps", "minutes", "batch_size", "temperature", "lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OptionError(f"{name} must be above 0, got {value!r}")
        for name in ("clean_fraction", "hold_out"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 0 and below 1, got {getattr(self, name)!r}")
        if self.batch_size is not None and round(self.clean_fraction * self.batch_size) == self.batch_size:
            raise OptionError(f"clean_fraction {self.clean_fraction} leaves no corrupted image in {self.batch_size}")
        if not 0 <= self.seed < 2**32:
            raise OptionError(f"seed must be at least 0 and below 2**32, got {self.seed!r}")


def clean_images(fraction: float, batch_size: int) -> int:
    """How many images of a batch are clean: at least one is corrupted, and none is clean only where none shall be."""
    return min(batch_size - 1, max(round(fraction * batch_size), int(fraction > 0)))


def default_norm_statistics(height: int, width: int) -> str:
    """What is done with the running statistics of batch norms where nothing is said.

    Keeping them cost a network of 32 px most of the robustness (scripts/distillation_search.py), and spared one of 224
    px, in noise, most of the loss on clean images (scripts/photos_table.py).
    """
    return "keep" if height * width >= _KEPT_FROM else "learn"


def default_batch_size(height: int, width: int) -> int:
    """The number of images per step where none is given: fewer of large ones, so that steps are many."""
    return max(LEAST_BATCH, min(_LARGEST_BATCH, _BATCH_PIXELS // (height * width)))


def default_steps(images: int, corruptions: int = 1, *, batch_size: int = 128, pixels: int = 1024) -> int:
    """The number of optimizer steps where none is given (scripts/distillation_search.py, for images of 32 px).

    Args:
        images: How many there are to learn from.
        corruptions: How many to learn.
        batch_size: Images per step.
        pixels: Of an image; of large ones fewer are seen.
    """
    seen = min(12_000 + 4 * min(images, 10_000), _SEEN_PIXELS // pixels)
    return math.ceil(seen * (1 + math.log(corruptions)) / batch_size)


def enough_images(steps: int | None, batch_size: int | None) -> int:
    """How many images of a folder or a dataset are decoded at most: more than these would bring nothing new."""
    return max(_ENOUGH_IMAGES, (steps or 0) * (batch_size or _LARGEST_BATCH))
