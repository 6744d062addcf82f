"""What lies where in the folder of a study."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from hf_rws._choices import CORRUPTIONS
from hf_rws._files import read_json
from hf_rws.bases import load_base
from hf_rws.extraction import extract
from hf_rws.hub.folders import BASE
from hf_rws.signature.signature import Signature
from hf_rws.timm_repo import MODEL_NAME, TRAINING_NAME

START = "pretrained"  # what all models of a study started from
RESULTS_NAME = "study.json"


def robust_name(corruption: str) -> str:
    """The folder of the model that was trained under a corruption."""
    return f"robust-{corruption}"


def signature_name(corruption: str, kind: str = "extracted") -> str:
    """The folder of a signature that was "extracted" or "distilled"."""
    return f"rws-{corruption}{'-distilled' if kind == 'distilled' else ''}"


@dataclass(frozen=True)
class StudyFolder:
    """A folder that a study left: pretrained/, base/ and a robust-* for each corruption."""

    folder: Path

    @cached_property
    def corruptions(self) -> tuple[str, ...]:
        """Those whose robust model is finished; an adversary is none."""
        finished = self.folder.glob(robust_name(f"*/{MODEL_NAME}"))
        names = {path.parent.name.removeprefix(robust_name("")) for path in finished}
        return tuple(sorted(names & {*CORRUPTIONS}))

    @cached_property
    def training(self) -> dict[str, Any]:
        """How its standard model was trained."""
        path = self.folder / BASE / TRAINING_NAME
        return read_json(path, str(path))

    @property
    def severity(self) -> int:
        """Of the training corruptions."""
        severity: int = self.training["severity"]
        return severity

    def base(self) -> nn.Module:
        """The standard model."""
        return load_base(self.folder / BASE).model

    def start(self) -> nn.Module:
        """What all models of the study started from."""
        return load_base(self.folder / START).model

    def robust(self, corruption: str) -> nn.Module:
        """The model that was trained under a corruption."""
        return load_base(self.folder / robust_name(corruption)).model

    def signatures(self, **options: Any) -> Iterator[Signature]:
        """The extracted signature of each corruption, with options of `extract`."""
        base, start = self.base(), self.start()
        for name in self.corruptions:
            yield extract(self.robust(name), base, start, corruption=name, severity=self.severity, **options)
