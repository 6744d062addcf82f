"""What the tables have in common: the models of a study, corrupted test images, and where numbers are from."""

import json
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import hf_rws
from hf_rws.corruptions import corrupt
from hf_rws.data import ImageSet
from hf_rws.evaluation import accuracy
from hf_rws.loading import load_base
from hf_rws.patching import Patcher, patch


@dataclass(frozen=True)
class StudyFolder:
    """A folder that scripts/train_study.py left: pretrained/, base/ and a robust-* for each corruption."""

    folder: Path

    @cached_property
    def corruptions(self) -> tuple[str, ...]:
        """Those whose robust model is finished."""
        finished = self.folder.glob("robust-*/model.safetensors")
        return tuple(sorted(path.parent.name.removeprefix("robust-") for path in finished))

    @cached_property
    def training(self) -> dict[str, Any]:
        """How its standard model was trained."""
        return json.loads((self.folder / "base" / "training_args.json").read_text())

    @property
    def severity(self) -> int:
        """Of the training corruptions."""
        return self.training["severity"]

    def base(self) -> nn.Module:
        """The standard model."""
        return load_base(self.folder / "base").model

    def start(self) -> nn.Module:
        """What all models of the study started from."""
        return load_base(self.folder / "pretrained").model

    def robust(self, corruption: str) -> nn.Module:
        """The model that was trained under a corruption."""
        return load_base(self.folder / f"robust-{corruption}").model

    def signatures(self, **options: Any) -> Iterator[hf_rws.Signature]:
        """The extracted signature of each corruption, with options of `extract`."""
        base, start = self.base(), self.start()
        for name in self.corruptions:
            robust = self.robust(name)
            yield hf_rws.extract(robust, base, start, corruption=name, severity=self.severity, **options)


class TestImages:
    """Test images, clean and under each corruption; every one is made once."""

    def __init__(self, clean: ImageSet, severity: int) -> None:
        self.clean, self.severity = clean, severity
        self._corrupted: dict[str, ImageSet] = {}

    def under(self, corruption: str) -> ImageSet:
        """The images under a corruption."""
        if corruption not in self._corrupted:
            shown = corrupt(self.clean.images, corruption, self.severity)
            self._corrupted[corruption] = replace(self.clean, images=shown)
        return self._corrupted[corruption]

    def ta(self, model: nn.Module) -> float:
        """Accuracy on the clean images."""
        return accuracy(model, self.clean)

    def ra(self, model: nn.Module, corruption: str) -> float:
        """Accuracy on the images under a corruption."""
        return accuracy(model, self.under(corruption))


def patched(model: nn.Module, signatures: list[hf_rws.Signature]) -> Patcher:
    """A patcher with all of them attached under their corruption's label, off."""
    return patch(model, [(s.config.corruption.label, s) for s in signatures], scales=[0.0] * len(signatures))


def about(n: int, **more: Any) -> dict[str, Any]:
    """What a table of results says of where its numbers are from."""
    root = Path(__file__).resolve().parent.parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "n": n,
        "commit": commit.stdout.strip(),
        "cpu": cpu,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "hf_rws": hf_rws.__version__,
        **more,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
