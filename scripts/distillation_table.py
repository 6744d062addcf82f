r"""Distilled signatures beside the robust models of a study: accuracy, images, time and bits.

    python scripts/train_study.py --init-from cifar50-vgg16_bn_gap --dataset uoft-cs/cifar10 --recipe short \
        --corruption fog ... --output-dir study-0              # all 19, for base/ and robust-*/
    hf-rws train --init-from cifar50-vgg16_bn_gap --dataset uoft-cs/cifar10 --recipe short --seed 1 \
        --output-dir study-1/base                              # a second base needs no robust models
    python scripts/distillation_table.py study-0 study-1 --dataset uoft-cs/cifar10 --output-dir distilled

The i-th study is measured with seed i: its base, and signatures distilled with that seed from so many unlabelled
training images, drawn with it. The settings are in `SETTINGS`; a signature against one corruption is measured under
that one, a joint one under all. TA is the accuracy on the clean test images with the signature on, RA that under the
corruption. `epochs` is the CPU time of one distillation as a multiple of an epoch: a training pass of the whole network
over 50,000 images with the same precision, timed in the same run. What is in the output folder is not made again.
"""

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import hf_rws
from hf_rws._accelerator import create_accelerator
from hf_rws.corruptions import BENCHMARK, CORRUPTIONS
from hf_rws.data.datasets import load_split
from hf_rws.data.preprocessing import Normalize
from hf_rws.data.sets import ImageSet
from hf_rws.signature.signature import Signature
from hf_rws.study.layout import StudyFolder
from hf_rws.study.measuring import StudyImages, patched, recovery, recovery_cell
from hf_rws.study.provenance import about

EPOCH, TIMED_STEPS, BATCH = 50_000, 12, 128


@dataclass(frozen=True)
class Setting:
    """How signatures are made: images, options of `distill`, and what is done to them afterwards."""

    name: str
    images: int = 10_000
    joint: tuple[str, ...] = ()  # one signature against all of these, instead of one against each
    options: dict[str, Any] = field(default_factory=dict)
    of: str | None = None  # the setting whose signatures are quantized to `bits`
    bits: str | int | None = None


SETTINGS = (
    Setting("10,000 images"),
    Setting("500 images", 500),
    Setting("joint, all 19", 20_000, CORRUPTIONS),
    Setting("joint, all 19, all layers", 20_000, CORRUPTIONS, {"num_layers": "all"}),
    Setting("joint, the benchmark's 15", 20_000, BENCHMARK),
    Setting("joint, the benchmark's 15, all layers", 20_000, BENCHMARK, {"num_layers": "all"}),
    Setting("10,000 images, default", of="10,000 images", bits="default"),
    Setting("10,000 images, small", of="10,000 images", bits="small"),
    Setting("10,000 images, tiny", of="10,000 images", bits="tiny"),
    Setting("500 images, small", of="500 images", bits="small"),
    Setting("500 images, tiny", of="500 images", bits="tiny"),
    Setting("500 images, 1 bit", of="500 images", bits=1),
    Setting("500 images, small, aware", 500, options={"bits": "small"}),
    Setting("500 images, tiny, aware", 500, options={"bits": "tiny"}),
    Setting("500 images, 1 bit, aware", 500, options={"bits": 1}),
)


@dataclass(frozen=True)
class Row:
    """One setting on one base; accuracies in [0, 1] by corruption, time in epochs per signature, size in bytes."""

    setting: str
    seed: int
    ta: dict[str, float]
    ra: dict[str, float]
    epochs: float | None = None
    nbytes: int | None = None
    commit: str | None = None  # that it was measured at


def epoch_seconds(model: nn.Module, images: ImageSet) -> float:
    """CPU seconds of a training pass over 50,000 images: forward, backward, SGD, precision "auto"."""
    model = model.train().to(memory_format=torch.channels_last)
    accelerator = create_accelerator("auto")
    normalize, optimizer = Normalize.of(model), torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    seconds = []
    for step in range(TIMED_STEPS):
        rows = torch.arange(step * BATCH, (step + 1) * BATCH) % len(images)
        began = time.process_time()
        with accelerator.autocast():
            logits = model(normalize(images.images[rows]))
        F.cross_entropy(logits.float(), images.labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - began)
    return median(seconds) / BATCH * EPOCH


class Table:
    """One study, and the signatures that are distilled from its base."""

    def __init__(self, folder: Path, seed: int, train: ImageSet, test: StudyImages, output_dir: Path) -> None:
        self.study, self.seed, self.test = StudyFolder(folder), seed, test
        self.base, self.folder = self.study.base(), output_dir / f"seed-{seed}"
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        self.images = train.subset(order[:20_000])
        self.epoch = epoch_seconds(self.study.base(), train)
        with warnings.catch_warnings():  # one step does not help, but imports what the first distillation needs
            warnings.simplefilter("ignore")
            hf_rws.distill(self.base, self.images.images[:100], steps=1, progress=False)

    def unpatched(self) -> Row:
        """The base alone."""
        ta = self.test.ta(self.base)
        return Row(
            "base", self.seed, dict.fromkeys(CORRUPTIONS, ta), {c: self.test.ra(self.base, c) for c in CORRUPTIONS}
        )

    def robust(self) -> Row | None:
        """The study's robust models, each under its own corruption, as the study measured them."""
        if len(self.study.corruptions) < len(CORRUPTIONS):
            return None
        lines = {
            name: (self.study.folder / f"robust-{name}" / "metrics.jsonl").read_text().splitlines()[-1]
            for name in CORRUPTIONS
        }
        found = {name: json.loads(line)["test_accuracy"] for name, line in lines.items()}
        return Row(
            "robust models", self.seed, {name: f["clean"] for name, f in found.items()},
            {name: f[f"{name}-5"] for name, f in found.items()},
        )  # fmt: skip

    def extracted(self) -> Row | None:
        """The signatures of the study's robust models."""
        if len(self.study.corruptions) < len(CORRUPTIONS):
            return None
        return self._measure("extracted from them", list(self.study.signatures(bits=None)))

    def distilled(self, setting: Setting) -> Row:
        """Signatures made by a setting."""
        return self._measure(setting.name, self._signatures(setting), setting.joint)

    def _signatures(self, setting: Setting) -> list[Signature]:
        if setting.of is not None:
            source = next(one for one in SETTINGS if one.name == setting.of)
            return [made.quantize(bits=setting.bits) for made in self._signatures(source)]
        names = ("joint",) if setting.joint else CORRUPTIONS
        return [self._signature(setting, name) for name in names]

    def _signature(self, setting: Setting, name: str) -> Signature:
        where = self.folder / setting.name.replace(" ", "-").replace(",", "") / f"rws-{name}"
        if not (where / "config.json").is_file():
            began = time.process_time()
            made = hf_rws.distill(
                self.base, self.images.images[: setting.images], corruption=setting.joint or name, name=name,
                seed=self.seed, progress=False, **{"bits": None, **setting.options},
            )  # fmt: skip
            metrics = {"epochs": (time.process_time() - began) / self.epoch}
            made.with_results(metrics=metrics).save_pretrained(where)
        return Signature.from_pretrained(where, name=name)

    def _measure(self, setting: str, made: list[Signature], joint: Sequence[str] = ()) -> Row:
        ta, ra = {}, {}
        patcher = patched(self.base, made)
        for signature in made:
            label = signature.config.corruption.label
            patcher.set({label: 1.0})
            shown = CORRUPTIONS if joint else (label,)
            ta |= dict.fromkeys(shown, self.test.ta(self.base))
            ra |= {name: self.test.ra(self.base, name) for name in shown}
        patcher.clear()
        patcher.bake()
        times = [made.config.metrics["epochs"] for made in made if "epochs" in (made.config.metrics or {})]
        return Row(setting, self.seed, ta, ra, mean(times) if times else None, made[0].nbytes)


def lines(rows: Sequence[Row]) -> list[str]:
    """The table: means over the corruptions, a value for each seed."""
    result = ["| | TA | RA | recovery | mean of ratios | epochs |", "|---|---|---|---|---|---|"]
    by_seed = {(row.setting, row.seed): row for row in rows}
    for name in dict.fromkeys(row.setting for row in rows):
        mine = [row for row in rows if row.setting == name]
        cells = [_join(mean(row.ta.values()) for row in mine), _join(mean(row.ra.values()) for row in mine)]
        robust, base = by_seed.get(("robust models", 0)), by_seed.get(("base", 0))
        own = by_seed.get((name, 0))
        if robust and base and own and name != "base":
            each = [[row.ra[c] for c in CORRUPTIONS] for row in (base, own, robust)]
            ratios = [recovery([a], [b], [c]) for a, b, c in zip(*each, strict=True)]
            cells += [recovery_cell([value], f"{value:.3f}") for value in (recovery(*each), mean(ratios))]
        else:
            cells += ["", ""]
        cells.append(", ".join(f"{row.epochs:.2f}" for row in mine if row.epochs is not None))
        result.append(f"| {name} | {' | '.join(cells)} |")
        if "15" in name:
            extra = [mean(v for c, v in row.ra.items() if c not in BENCHMARK) for row in mine]
            result.append(f"| - on the 4 that it was not shown | | {_join(extra)} | | | |")
    return result


def _join(shares: Any) -> str:
    return ", ".join(f"{100 * share:.1f}" for share in shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, help="a study, then bases of other seeds (folders with base/)")
    parser.add_argument("--dataset", default="uoft-cs/cifar10", help="training images without labels, and test images")
    parser.add_argument("--setting", action="append", help="only this one of SETTINGS; repeatable")
    parser.add_argument("--seed", type=int, help="only the study of this seed")
    parser.add_argument("--test-images", type=int, help="use only the first so many")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    train = load_split(options.dataset, "train")
    test = StudyImages(load_split(options.dataset).subset(slice(options.test_images)), severity=5)
    for seed, folder in enumerate(options.studies):
        if options.seed in (None, seed):
            _fill(Table(folder, seed, train, test, options.output_dir), options)
    found = [json.loads(path.read_text()) for path in sorted(options.output_dir.glob("seed-*/table.json"))]
    print("\n".join(lines([Row(**row) for record in found for row in record["rows"]])))


def _fill(table: Table, options: argparse.Namespace) -> None:
    """Measure what is not in the table yet, and write it down line by line."""
    path = table.folder / "table.json"
    rows = {row["setting"]: Row(**row) for row in json.loads(path.read_text())["rows"]} if path.is_file() else {}
    jobs: list[tuple[str, Any]] = [
        ("base", table.unpatched), ("robust models", table.robust), ("extracted from them", table.extracted)
    ]  # fmt: skip
    jobs += [(s.name, lambda s=s: table.distilled(s)) for s in SETTINGS if s.name in (options.setting or [s.name])]
    for name, job in jobs:
        if name not in rows and (row := job()) is not None:
            facts = about(len(table.test.clean), seed=table.seed, study=table.study.folder.name, epoch=table.epoch)
            rows[name] = replace(row, commit=facts.pop("commit"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps({"about": facts, "rows": [asdict(row) for row in rows.values()]}, indent=1) + "\n"
            )
            print("\n".join(lines([row])[2:]), flush=True)


if __name__ == "__main__":
    main()
