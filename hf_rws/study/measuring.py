"""What the models of a study are worth: TA, RA and recovery, as tables."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hf_rws.data.sets import ImageSet
from hf_rws.evaluation import Adversary, accuracy
from hf_rws.patching.patcher import Patcher, patch
from hf_rws.signature.signature import Signature
from hf_rws.training.pixels import Pixels

CURVE_SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
# What is measured: the base, with a distilled and with an extracted signature on, and the robust model.
_MODELS = ("standard", "distilled", "extracted", "robust")


@dataclass(frozen=True)
class StudyRow:
    """One corruption of a study, or its adversary. What was not made is not in the dictionaries.

    Attributes:
        corruption: Its name, or the adversary's label.
        severity: 1 to 5; 0 for an adversary.
        n: Number of test images.
        ta: Accuracy on clean test images in [0, 1], by `_MODELS`.
        ra: Accuracy under the corruption, by `_MODELS`.
        nbytes: Size of signature.safetensors, by "distilled" and "extracted".
        download_nbytes: The same with config.json: all that loading a signature fetches.
        base_nbytes: Size of the base's model.safetensors.
    """

    corruption: str
    severity: int
    n: int
    ta: dict[str, float]
    ra: dict[str, float]
    nbytes: dict[str, int]
    download_nbytes: dict[str, int]
    base_nbytes: int

    @property
    def title(self) -> str:
        """What it is called in tables: "fog-5", "pgd-linf-8"."""
        return f"{self.corruption}-{self.severity}" if self.severity else self.corruption

    def flat(self) -> dict[str, Any]:
        """The same without dictionaries: `standard_ta`, `extracted_nbytes`, ..."""
        nested = {key: getattr(self, key) for key in ("ta", "ra", "nbytes", "download_nbytes")}
        return {
            **{key: value for key, value in asdict(self).items() if key not in nested},
            **{f"{who}_{key}": value for key, values in nested.items() for who, value in values.items()},
        }


@dataclass(frozen=True)
class Study:
    """The rows of a study, its folder, and the recipe of its trainings in words."""

    folder: Path
    rows: tuple[StudyRow, ...]
    recipe: str = ""

    @property
    def _averaged(self) -> tuple[StudyRow, ...]:
        """The corruptions; an adversary, which says something else, only where it is alone."""
        return tuple(row for row in self.rows if row.severity) or self.rows

    def recovery(self, who: str = "extracted") -> float:
        """(mean RA of `who` - mean RA standard) / (mean RA robust - mean RA standard); NaN as `recovery` says.

        The means are over the corruptions, without an adversary unless there is nothing else.
        """
        standard, patched, robust = ([row.ra[name] for row in self._averaged] for name in ("standard", who, "robust"))
        return recovery(standard, patched, robust)

    def _recovery_in_words(self, kinds: Sequence[str]) -> str:
        """The recovery of each kind; or, where it would be a quotient of two chances, that it is not known."""
        standard, robust = (_mean([row.ra[name] for row in self._averaged]) for name in ("standard", "robust"))
        n = self.rows[0].n
        by_chance = 1.96 * math.sqrt((standard * (1 - standard) + robust * (1 - robust)) / n)
        if robust - standard > by_chance:
            return f"recovery: {', '.join(f'{name} {self.recovery(name):.2f}' for name in kinds)}"
        return (
            f"recovery: not known, as the robust models are no better than the standard one (RA {100 * robust:.1f} and "
            f"{100 * standard:.1f}; differences up to {100 * by_chance:.1f} may be chance); train longer, or on more "
            "images"
        )

    def to_markdown(self) -> str:
        """A table in percent, kB (weight file; whole download) and times smaller than the base's weight file.

        Empty without rows: where several processes made the study, the first one has them.
        """
        if not self.rows:
            return ""
        models = [name for name in _MODELS if name in self.rows[0].ra]
        kinds = [name for name in models if name in self.rows[0].nbytes]
        heads = ["corruption", *(f"{what} {name}" for what in ("TA", "RA") for name in models)]
        lines = [f"| {' | '.join([*heads, 'kB', 'download', 'ratio'])} |", "|---" * (len(heads) + 3) + "|"]
        for row in self.rows:
            cells = [f"{100 * values[name]:.1f}" for values in (row.ta, row.ra) for name in models]
            largest = max(kinds, key=row.nbytes.__getitem__)
            kB = [f"{size[largest] / 1000:.1f}" for size in (row.nbytes, row.download_nbytes)]
            ratio = f"{row.base_nbytes / row.nbytes[largest]:.0f}x"
            lines.append(f"| {' | '.join([row.title, *cells, *kB, ratio])} |")
        facts = [self._recovery_in_words(kinds)] if kinds and "robust" in models else []
        facts += [f"n = {self.rows[0].n} test images", f"recipe: {self.recipe}"]
        return "\n".join([*lines, "", "; ".join(facts)])


def recovery(standard: Sequence[float], patched: Sequence[float], robust: Sequence[float]) -> float:
    """Share of the robust models' gain in RA that patching brings: a ratio of means over corruptions.

    NaN where the robust models are no better than the standard one: there is no gain to have a share of.

    Example:
        >>> recovery([0.2, 0.4], patched=[0.5, 0.7], robust=[0.6, 0.8])
        0.75
        >>> recovery([0.5], patched=[0.7], robust=[0.4])
        nan
    """
    gained, gap = (sum(values) - sum(standard) for values in (patched, robust))
    return gained / gap if gap > 0 else math.nan


def recovery_cell(values: Sequence[float], shown: str) -> str:
    """A cell of a table of recoveries: `shown`, unless one of them is NaN."""
    return "robust no better" if any(map(math.isnan, values)) else shown


def measure_scales(
    model: nn.Module,
    signature: Signature,
    clean: ImageSet,
    corrupted: ImageSet | Pixels,
    scales: Iterable[float],
    *,
    adversary: Adversary | None = None,
) -> list[dict[str, float]]:
    """TA and RA of `model` with `signature` at each scale; the model is clean again afterwards.

    With an adversary RA is the accuracy on `corrupted` as it changes these images.
    """
    patcher = patch(model, [("measured", signature)])
    points = []
    for scale in scales:
        patcher.set({"measured": scale})
        points.append(
            {"scale": scale, "ta": accuracy(model, clean), "ra": accuracy(model, corrupted, adversary=adversary)}
        )
    patcher.clear()
    patcher.bake()
    return points


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class StudyImages:
    """Test images, clean and under each corruption; every one is made once, where memory holds them."""

    def __init__(self, clean: ImageSet, severity: int) -> None:
        self.clean, self.severity = clean, severity
        self._corrupted: dict[str, Pixels] = {}

    def ta(self, model: nn.Module) -> float:
        """Accuracy on the clean images."""
        return accuracy(model, self.clean)

    def ra(self, model: nn.Module, corruption: str) -> float:
        """Accuracy on the images under a corruption."""
        return accuracy(model, self.corrupted(corruption))

    def corrupted(self, corruption: str) -> Pixels:
        """The images under a corruption."""
        if corruption not in self._corrupted:
            self._corrupted[corruption] = Pixels(self.clean, self.clean.images.device, (corruption,), self.severity)
        return self._corrupted[corruption]


def measure_each(
    model: nn.Module, signatures: Sequence[Signature], images: StudyImages
) -> tuple[dict[str, float], dict[str, float]]:
    """TA, and RA under its own corruption, with one signature on at a time, by corruption; the model is clean again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is a transfer, where it is one
        patcher = patched(model, signatures)
    ta, ra = {}, {}
    for label in patcher.scales:
        patcher.set({label: 1.0})
        ta[label], ra[label] = images.ta(model), images.ra(model, label)
    patcher.clear()
    patcher.bake()
    return ta, ra


def patched(model: nn.Module, signatures: Sequence[Signature]) -> Patcher:
    """A patcher with all of them attached under their corruption's label, off."""
    return patch(model, [(s.config.corruption.label, s) for s in signatures], scales=[0.0] * len(signatures))
