"""What one corruption is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hf_rws._choices import PARAMETER_SETS
from hf_rws.corruptions.randomness import RandomSource

CIFAR, TINY_IMAGENET, IMAGENET = PARAMETER_SETS

Draws = tuple[Tensor, ...]


def _no_draws(source: RandomSource, shape: tuple[int, int, int], constants: Any) -> Draws:
    """The `draw` of a corruption without randomness."""
    return ()


@dataclass(frozen=True)
class Corruption:
    """One corruption, split into its randomness and a deterministic function of it.

    Attributes:
        name: As in the benchmark, e.g. `"fog"`.
        constants: For each parameter set the constants of severities 1 to 5 (a number or a tuple each).
        apply: `(images, draws, constants) -> images`. Takes uint8 NCHW and gives uint8, or float32 grey levels
            (0..255), which the caller clips and truncates. Batched, on the images' device, without synchronising.
        draw: `(source, (C, H, W), constants) -> draws`, each draw with the batch first.
        needs_colour: Whether the definition has no meaning for one channel.
        any_layout: Whether `apply` takes images as they lie in memory, such as interleaved channels; others get them
            contiguous.
    """

    name: str
    constants: Mapping[str, tuple[Any, ...]]
    apply: Callable[[Tensor, Draws, Any], Tensor]
    draw: Callable[[RandomSource, tuple[int, int, int], Any], Draws] = _no_draws
    needs_colour: bool = False
    any_layout: bool = False
