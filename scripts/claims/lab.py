"""What has been trained of a plan, and what it is measured with."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import scales_table
from torch import nn

import hf_rws
from claims.judging import Row
from claims.parts import Plan, PlannedImages, PlannedModel, PlannedStudy
from claims.rows import ROBUST, STANDARD
from hf_rws._accelerator import resolve_device
from hf_rws.bases import load_base
from hf_rws.data.sets import Splits
from hf_rws.signature.signature import Signature
from hf_rws.study.layout import RESULTS_NAME, START, StudyFolder, robust_name
from hf_rws.study.measuring import StudyImages, measure_each, patched
from hf_rws.timm_repo import MODEL_NAME

_FIVE = ("gaussian_noise", "fog", "contrast", "impulse_noise", "defocus_blur")
_SEVERITY = 5  # that of the paper


@dataclass(frozen=True)
class Job:
    """A row to be measured: what tells it from others, and what fills it."""

    key: Row
    measure: Callable[[], Row]


class Lab:
    """What there is of a plan, with test images, on the GPU where there is one; all is loaded and corrupted once.

    Args:
        plan: What was to be trained.
        folder: Where it was.
        folders: Folders that stand for datasets of the Hub.
        test_images: Only so many test images, drawn at random.
        distil_images: Distil signatures from so many training images.
        only: Names of the studies that are measured; all if empty.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        folders: dict[str, str] | None = None,
        test_images: int | None = None,
        distil_images: int = 500,
        only: Sequence[str] = (),
    ) -> None:
        self.plan, self.folder, self.distil_images, self.only = plan, folder, distil_images, only
        self.device = resolve_device("auto")
        self.data: Callable[[PlannedImages], Splits] = cache(
            partial(PlannedImages.load, folders=folders, test_images=test_images)
        )
        self.images: Callable[[PlannedImages], StudyImages] = cache(self._images)
        self.study: Callable[[str], StudyFolder] = cache(lambda name: StudyFolder(folder / name))
        self._model: Callable[[Path], nn.Module] = cache(lambda path: load_base(path).model.to(self.device))
        self._references: dict[str, dict[str, Row]] = {}
        self._extracted: dict[tuple[Any, ...], dict[str, Signature]] = {}

    # what there is

    def has(self, part: PlannedModel) -> bool:
        """Whether a model is finished; of a study, its standard model."""
        return (part.base(self.folder) / MODEL_NAME).is_file()

    @property
    def trained(self) -> list[PlannedStudy]:
        """Studies with a standard model and a robust one at least, ablations and the first of the chain included."""
        wanted = [self.plan[name] for name in self.only] or self.plan.studies
        return [study for study in self.plan.studies if study in wanted and self.corruptions(study)]

    @property
    def studies(self) -> list[PlannedStudy]:
        """Those that stand for themselves."""
        return [study for study in self.trained if study.varies is None and study.name not in self.plan.chain]

    @property
    def seeds(self) -> list[list[PlannedStudy]]:
        """The same, those that differ in the seed only together."""
        groups: dict[str, list[PlannedStudy]] = {}
        for study in self.studies:
            alike = (study.start, study.images, study.model_args, replace(study.arguments, seed=0))
            groups.setdefault(repr(alike), []).append(study)
        return list(groups.values())

    @property
    def firsts(self) -> list[PlannedStudy]:
        """One of each group of seeds."""
        return [group[0] for group in self.seeds]

    def corruptions(self, study: PlannedStudy) -> tuple[str, ...]:
        """Those whose robust model is finished, of the plan's; none without a standard model."""
        if not self.has(study):
            return ()
        return tuple(name for name in study.corruptions if name in self.study(study.name).corruptions)

    def five(self, study: PlannedStudy) -> tuple[str, ...]:
        """Five of its corruptions, where all would take too long; all if it has none of these five."""
        found = self.corruptions(study)
        return tuple(name for name in found if name in _FIVE) or found

    # what it is measured with

    def _images(self, images: PlannedImages) -> StudyImages:
        if images.half is not None:
            return self.images(replace(images, half=None))
        test = self.data(images).test
        return StudyImages(replace(test, images=test.images.to(self.device)), _SEVERITY)

    def base(self, part: PlannedModel) -> nn.Module:
        """A trained model of the plan, or a study's standard model, for patching."""
        return self._model(part.base(self.folder))

    def start(self, study: PlannedStudy) -> nn.Module:
        """What a study started from."""
        return self._model(self.folder / study.name / START)

    def robust(self, study: PlannedStudy, name: str) -> nn.Module:
        """A study's model that was trained under a corruption."""
        return self._model(self.folder / study.name / robust_name(name))

    def signatures(self, study: PlannedStudy, *, from_start: bool = False, **options: Any) -> dict[str, Signature]:
        """Extracted signatures by corruption, with options of `extract`; `from_start`: robust minus start."""
        options = {"bits": None, "severity": _SEVERITY, **options}
        key = (study.name, from_start, *sorted(options.items()))
        if key not in self._extracted:
            others = (self.start(study), None) if from_start else (self.base(study), self.start(study))
            self._extracted[key] = {
                name: hf_rws.extract(self.robust(study, name), *others, corruption=name, **options)
                for name in self.corruptions(study)
            }
        return self._extracted[key]

    def distilled(self, part: PlannedModel, names: Sequence[str]) -> list[Signature]:
        """Signatures that are distilled from a model's own training images; they are kept beside what was trained."""
        train, seed = self.data(part.images).train, part.arguments.seed
        where = self.folder / f"distilled-{self.distil_images}" / part.name
        return scales_table.distilled(self.base(part), names, train, self.distil_images, None, seed, where)

    # what is measured

    def _reference(self, study: PlannedStudy) -> dict[str, Row]:
        """The standard and the robust models of a study: as it measured them itself, where on as many images."""
        images, names = self.images(study.images), self.corruptions(study)
        path = self.folder / study.name / RESULTS_NAME
        own = {row["corruption"]: row for row in json.loads(path.read_text())} if path.is_file() else {}
        if all(own.get(name, {}).get("n") == len(images.clean) for name in names):
            return {
                model: {what: {name: own[name][f"{column}_{what}"] for name in names} for what in ("ta", "ra")}
                for model, column in ((STANDARD, "standard"), (ROBUST, "robust"))
            }
        robust = {name: self.robust(study, name) for name in names}
        return {
            STANDARD: accuracies(self.base(study), images, names),
            ROBUST: {
                "ta": {name: images.ta(model) for name, model in robust.items()},
                "ra": {name: images.ra(model, name) for name, model in robust.items()},
            },
        }

    def references(self, study: PlannedStudy, names: Sequence[str]) -> Iterator[Job]:
        """The rows of the standard and the robust models, on these corruptions."""
        for model in (STANDARD, ROBUST):
            yield Job({"study": study.name, "model": model}, partial(self._referred, study, model, tuple(names)))

    def _referred(self, study: PlannedStudy, model: str, names: Sequence[str]) -> Row:
        if study.name not in self._references:
            self._references[study.name] = self._reference(study)
        row = self._references[study.name][model]
        chosen = {what: {name: row[what][name] for name in names} for what in ("ta", "ra")}
        size = (study.base(self.folder) / MODEL_NAME).stat().st_size
        return {**chosen, "nbytes": size}

    def each(self, part: PlannedModel, signatures: Iterable[Signature]) -> Row:
        """A model with each of these signatures on, under its own corruption."""
        made = list(signatures)
        ta, ra = measure_each(self.base(part), made, self.images(part.images))
        return {"ta": ta, "ra": ra, "nbytes": made[0].nbytes}

    def everywhere(self, part: PlannedModel, signature: Signature, names: Sequence[str]) -> Row:
        """A model with one signature on, under each of these corruptions."""
        base = self.base(part)
        patcher = patched(base, [signature])
        patcher.set(dict.fromkeys(patcher.scales, 1.0))
        found = accuracies(base, self.images(part.images), names)
        patcher.clear()
        patcher.bake()
        return {**found, "nbytes": signature.nbytes}

    def extracted(self, study: PlannedStudy, names: Sequence[str], **options: Any) -> Row:
        """A study's standard model with its own signatures, with options of `extract`."""
        made = self.signatures(study, **options)
        return self.each(study, [made[name] for name in names])


def accuracies(model: nn.Module, images: StudyImages, names: Sequence[str]) -> Row:
    """One model under each corruption."""
    return {"ta": dict.fromkeys(names, images.ta(model)), "ra": {name: images.ra(model, name) for name in names}}
