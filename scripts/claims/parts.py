"""The parts of a plan: models and studies, each made by itself, each from what an earlier one left."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from hf_rws.bases import load_base
from hf_rws.corruptions import CORRUPTIONS
from hf_rws.data.datasets import drawn, load_splits
from hf_rws.data.sets import Splits
from hf_rws.errors import NotFoundError, OptionError
from hf_rws.study.layout import RESULTS_NAME
from hf_rws.study.run import create_start, run_study, write_base_card
from hf_rws.timm_repo import MODEL_NAME, TRAINING_NAME
from hf_rws.training.arguments import TrainingArguments
from hf_rws.training.trainer import train


@dataclass(frozen=True)
class PlannedImages:
    """Which images a model learns and is tested on.

    Attributes:
        dataset: Hub id; a run may say which folder stands for it.
        classes: Those of its classes that are kept, as in `load_splits`.
        half: 0 or 1: only that half of the training images, drawn at random; None for all.
    """

    dataset: str
    classes: str | None = None
    half: int | None = None

    def __str__(self) -> str:
        classes = "" if self.classes is None else f", classes {self.classes}"
        return f"{self.dataset.rpartition('/')[2]}{classes}"

    def load(
        self,
        folders: Mapping[str, str] | None = None,
        *,
        train_images: int | None = None,
        test_images: int | None = None,
    ) -> Splits:
        """The images, under the dataset's own name wherever they lie.

        Args:
            folders: Folders that stand for Hub ids.
            train_images: Only so many training images, and at most as many validation images, drawn at random.
            test_images: Only so many test images, drawn at random.
        """
        splits = load_splits((folders or {}).get(self.dataset, self.dataset), classes=self.classes)
        train, validation, test = (
            replace(part, name=self.dataset) for part in (splits.train, splits.validation, splits.test)
        )
        if self.half is not None:
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
            train = train.subset(order.tensor_split(2)[self.half].sort().values)
        if train_images is not None:
            train, validation = (part.subset(drawn(len(part), train_images, seed=0)) for part in (train, validation))
        if test_images is not None:
            test = test.subset(drawn(len(test), test_images, seed=0))
        return Splits(train, validation, test)


@dataclass(frozen=True)
class PlannedModel:
    """One training.

    Attributes:
        name: Of its folder.
        images: What it learns.
        arguments: How.
        start: What it starts from: a folder that an earlier part of the plan leaves ("start", "study-0/base"), or a
            timm name.
        pretrained: Of a timm name: whether timm's weights are the start.
        model_args: Of a timm name: options of `timm.create_model`.
        goes_on: Of a folder: whether its head is kept, for the same classes; else the head is a new one.
    """

    name: str
    images: PlannedImages
    arguments: TrainingArguments
    start: str
    pretrained: bool = False
    model_args: Mapping[str, Any] = field(default_factory=dict)
    goes_on: bool = False

    def base(self, folder: Path) -> Path:
        """Where the model lies once it is trained; of a study, its standard model."""
        return folder / self.name

    def finished(self, folder: Path) -> bool:
        """Whether it has been made."""
        return (folder / self.name / MODEL_NAME).is_file()

    def make(self, folder: Path, data: Splits, notes: Mapping[str, Any]) -> None:
        """Train it in a folder of its own; what was interrupted goes on.

        Args:
            folder: Of the whole plan.
            data: Its images.
            notes: More to record.

        Raises:
            NotFoundError: What it starts from has not been made.
            OptionError: It was begun with other settings.
        """
        where = folder / self.name
        resume = (where / TRAINING_NAME).is_file()
        start = self._start(folder, data)
        write_base_card(where, train(start, data, where, self.arguments, resume=resume, notes=dict(notes)))

    def _start(self, folder: Path, data: Splits) -> nn.Module:
        seed = self.arguments.seed
        if timm.is_model(self.start.partition(".")[0]):
            return create_start(self.start, data, seed=seed, pretrained=self.pretrained, **self.model_args)
        if not (folder / self.start / MODEL_NAME).is_file():
            needed = self.start.partition("/")[0]
            raise NotFoundError(f"{self.name} starts from {self.start}: make {needed} in {folder} first")
        if self.goes_on:
            return load_base(folder / self.start).model
        return create_start(folder / self.start, data, seed=seed)


@dataclass(frozen=True)
class PlannedStudy(PlannedModel):
    """One start, a standard model, robust models and their signatures, as `run_study` makes them.

    Attributes:
        corruptions: A robust model for each.
        varies: In an ablation what is unlike in the study it is compared with: ("epochs", 2).
    """

    corruptions: tuple[str, ...] = CORRUPTIONS
    varies: tuple[str, Any] | None = None

    def base(self, folder: Path) -> Path:
        """Where its standard model lies."""
        return folder / self.name / "base"

    def finished(self, folder: Path) -> bool:
        """Whether all of it has been made and measured."""
        return (folder / self.name / RESULTS_NAME).is_file()

    def make(self, folder: Path, data: Splits, notes: Mapping[str, Any]) -> None:
        """Make it in a folder of its own; see `PlannedModel.make`."""
        run_study(
            self._start(folder, data),
            data,
            folder / self.name,
            self.arguments,
            corruptions=self.corruptions,
            scale_curve=False,
            notes=notes,
        )


@dataclass(frozen=True)
class Plan:
    """Models and studies, in the order in which they can be made.

    Attributes:
        parts: Each starts from earlier ones, or from nothing of the plan.
        chain: A study, and the names of models that update its standard model one after another.
    """

    parts: tuple[PlannedModel, ...]
    chain: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> PlannedModel:
        for part in self.parts:
            if part.name == name:
                return part
        raise OptionError(f"the plan has no {name!r}; it has: {', '.join(part.name for part in self.parts)}")

    @property
    def studies(self) -> tuple[PlannedStudy, ...]:
        """All studies, ablations and the first of the chain included."""
        return tuple(part for part in self.parts if isinstance(part, PlannedStudy))

    def smaller(self, *, epochs: int | None = None, corruptions: tuple[str, ...] = ()) -> "Plan":
        """The same with so many epochs everywhere, and with no other corruptions than these: for a trial.

        Raises:
            OptionError: A study would be left without corruptions.
        """

        def kept(names: tuple[str, ...], owner: str) -> tuple[str, ...]:
            found = tuple(name for name in names if not corruptions or name in corruptions)
            if names and not found:
                raise OptionError(f"{owner} has none of the corruptions {', '.join(corruptions)}")
            return found

        parts: list[PlannedModel] = []
        for part in self.parts:
            arguments = replace(part.arguments, corruption=kept(part.arguments.corruption, part.name))
            part = replace(part, arguments=replace(arguments, epochs=epochs or arguments.epochs))
            if isinstance(part, PlannedStudy):
                part = replace(part, corruptions=kept(part.corruptions, part.name))
            parts.append(part)
        return replace(self, parts=tuple(parts))
