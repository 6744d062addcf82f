r"""Signatures for an ImageNet model of timm, made from a folder of photographs at the model's own input.

    python scripts/photos_table.py tf_efficientnet_lite0.in1k --photos PHOTOS --output-dir photos

PHOTOS is the Hub id or the folder of a dataset with the model's classes: its training split (without its labels) is
what signatures are distilled from, its test split what they are measured on. The published figures are of 1,000
photographs, one of each class of ImageNet, half of them for each; the model was probably trained on many of them, so
its accuracy is higher than on new photographs.

For each of `SETTINGS`, and each of its corruptions, a signature is distilled and put on: TA is the accuracy on the
clean test photographs with it on, RA that under the corruption. `way` is how much of the way from the base's RA to its
TA the signature brings: (RA patched - RA base) / (TA base - RA base), a ratio of means over the corruptions. `time`, on
a CPU, is the CPU time of a distillation as a multiple of what 6,000 photographs take through the whole network,
forwards and backwards, in the same run. What is in the output folder is not made again; --setting and --corruption
pick some of it, so that several processes can share the work.
"""

import argparse
import copy
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch.nn import functional as F

import hf_rws
from hf_rws import plots
from hf_rws._accelerator import resolve_device
from hf_rws.bases import load_base
from hf_rws.corruptions import CORRUPTIONS
from hf_rws.data import Preprocessing, load_split
from hf_rws.data.preprocessing import Normalize
from hf_rws.evaluation import predict
from hf_rws.signature.signature import Signature
from hf_rws.study.measuring import patched, recovery
from hf_rws.study.provenance import about

THREE = ("gaussian_noise", "fog", "motion_blur")
SIX = (*THREE, "contrast", "snow", "pixelate")
SHOWN, SCALES = 5, (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
PASS, TIMED_STEPS, TIMED_BATCH = 6_000, 5, 16


@dataclass(frozen=True)
class Setting:
    """What is changed of the defaults, and for which corruptions and seeds."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    corruptions: tuple[str, ...] = THREE
    severity: int = 5
    photos: int | None = None  # None is all
    of: str | None = None  # the setting whose signatures are quantized to `bits`
    bits: str | int = "default"
    joint: bool = False  # one signature for all the corruptions, instead of one for each


SETTINGS = (
    Setting("base", corruptions=CORRUPTIONS),
    Setting("base, severity 3", corruptions=SIX, severity=3),
    Setting("defaults", corruptions=CORRUPTIONS),
    Setting("defaults, seed 1", {"seed": 1}),
    Setting("small", corruptions=CORRUPTIONS, of="defaults", bits="small"),
    Setting("tiny", corruptions=CORRUPTIONS, of="defaults", bits="tiny"),
    Setting("severity 3", corruptions=SIX, severity=3),
    Setting("joint, all 19", corruptions=CORRUPTIONS, joint=True),
    Setting("50 photographs", photos=50),
    Setting("150 photographs", photos=150),
    *(Setting(f"{n} layers", {"num_layers": n}) for n in (3, 5, 9, 12, "all")),
    Setting("2 minutes", {"minutes": 2}),
    *(Setting(f"batches of {n}", {"batch_size": n}) for n in (16, 32, 64, 128)),
    *(Setting(f"steps x{factor:g}", {"steps": factor}) for factor in (0.5, 2)),
    *(Setting(f"lr x{factor:g}", {"lr": factor}) for factor in (0.5, 2, 4)),
    Setting("the other optimizer", {"optimizer": "other"}),
    Setting("statistics of norms learnt", {"norm_statistics": "learn"}),
    *(Setting(f"clean fraction {share:g}", {"clean_fraction": share}) for share in (0.1, 0.5)),
    Setting("temperature 1", {"temperature": 1.0}),
    *(Setting(f"{n} layers, steps x2", {"num_layers": n, "steps": 2}) for n in (12, "all")),
    Setting("all layers, lr x0.5", {"num_layers": "all", "lr": 0.5}),
    Setting("all layers, clean fraction 0.1", {"num_layers": "all", "clean_fraction": 0.1}),
)


@dataclass(frozen=True)
class Row:
    """A signature, or with `setting` "base" none; accuracies in [0, 1]."""

    setting: str
    corruption: str
    severity: int
    ta: float
    ra: float
    time: float | None = None
    nbytes: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


class Table:
    """A base, photographs, and a folder with what was made of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.folder = options.output_dir
        self.base = load_base(options.base).model.to(resolve_device())
        shown = Preprocessing.of(self.base, use_test_size=False)
        with warnings.catch_warnings():  # of ImageNet's names, which do not differ all
            warnings.simplefilter("ignore")
            self.photos = load_split(options.photos, "train", preprocessing=shown)
            self.test = load_split(options.photos, preprocessing=shown, limit=options.test_photos)

    def rows(self, setting: Setting, names: Sequence[str]) -> Iterator[Row]:
        """Those of a setting, measured where they are not in the folder yet."""
        for name in ["joint"] if setting.joint else [name for name in setting.corruptions if name in names]:
            path = self.folder / "rows" / f"{setting.name} {name}.json".replace(" ", "-")
            if not path.is_file():
                found = [asdict(row) for row in self._measured(setting, name)]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(found, indent=1) + "\n")
            yield from (Row(**row) for row in json.loads(path.read_text()))

    def _measured(self, setting: Setting, name: str) -> Iterator[Row]:
        made = None if setting.name.startswith("base") else self._signature(setting, name)
        shown = setting.corruptions if setting.joint else (name,)
        patcher = None if made is None else patched(self.base, [made])
        if patcher is not None:
            patcher.set(dict.fromkeys(patcher.signatures, 1.0))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                clean = self.clean if made is None else None
                found = hf_rws.evaluate(self.base, self.test, shown, severities=[setting.severity], clean=clean is None)
            clean = found["clean"] if clean is None else clean
        finally:
            if patcher is not None:
                patcher.clear()
                patcher.bake()
        facts = about(len(self.test), train=len(self.photos))
        for one in shown:
            if made is None:
                yield Row(setting.name, one, setting.severity, clean, found[one], about=facts)
            else:
                metrics, training = made.config.metrics or {}, made.config.method.training
                yield Row(
                    setting.name, one, setting.severity, clean, found[one], metrics.get("time"), made.nbytes,
                    dict(training), facts,
                )  # fmt: skip

    @cached_property
    def clean(self) -> float:
        """Accuracy of the base on the clean test photographs."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return hf_rws.evaluate(self.base, self.test, ())["clean"]

    def _signature(self, setting: Setting, name: str) -> Signature:
        if setting.of is not None:
            source = _setting(setting.of)
            return self._signature(source, name).quantize(bits=setting.bits)
        where = self.folder / "signatures" / setting.name.replace(" ", "-") / f"rws-{name}"
        if not (where / "config.json").is_file():
            options = dict(setting.options)
            order = torch.randperm(len(self.photos), generator=torch.Generator().manual_seed(options.get("seed", 0)))
            photos = self.photos.images[order[: setting.photos].sort().values]
            if setting.options.keys() & {"lr", "steps", "optimizer"}:
                usual = self._signature(_setting("defaults"), name).config.method.training
                if "optimizer" in options:
                    options["optimizer"] = "adamw" if usual["optimizer"] == "sgd" else "sgd"
                for key in options.keys() & {"lr", "steps"}:
                    options[key] *= usual[key]
                    options[key] = round(options[key]) if key == "steps" else options[key]
            began = time.process_time()
            made = hf_rws.distill(
                self.base, photos, corruption=setting.corruptions if setting.joint else name, name=name,
                severity=setting.severity, progress=False, **options,
            )  # fmt: skip
            taken = time.process_time() - began
            if resolve_device().type == "cpu":  # CPU time says little of a GPU
                made = made.with_results(metrics={"time": taken / self.pass_seconds})
            made.save_pretrained(where)
        return Signature.from_pretrained(where, name=name)

    @cached_property
    def pass_seconds(self) -> float:
        """CPU seconds of 6,000 photographs through the whole network, forwards and backwards, as in a training."""
        model = copy.deepcopy(self.base).train()
        normalize, seconds = Normalize.of(model), []
        for step in range(TIMED_STEPS):
            rows = torch.arange(step * TIMED_BATCH, (step + 1) * TIMED_BATCH) % len(self.photos)
            began = time.process_time()
            logits = model(normalize(self.photos.images[rows]))
            F.cross_entropy(logits, self.photos.labels[rows]).backward()
            seconds.append(time.process_time() - began)
        return median(seconds) / TIMED_BATCH * PASS

    def picture(self, name: str) -> None:
        """Photographs under a corruption, what the base takes them for before and after, and the curve."""
        made = self._signature(_setting("defaults"), name)
        shown, patcher = self.test.subset(slice(0, None, len(self.test) // SHOWN)), patched(self.base, [made])
        foggy = hf_rws.corrupt(shown.images, name)
        path, found, names = self.folder / f"{name}.json", [], {}
        for scale in SCALES:
            patcher.set({name: scale})
            names[scale] = [self._names(images) for images in (shown.images, foggy)]
            if not path.is_file():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    measured = hf_rws.evaluate(self.base, self.test, name)
                found.append({"scale": scale, "ta": measured["clean"], "ra": measured[name]})
        patcher.clear()
        patcher.bake()
        if not path.is_file():
            path.write_text(json.dumps({"about": about(len(self.test)), "curve": found}, indent=1) + "\n")
        row = plots.OverviewRow(name, foggy, names[0.0][1], names[1.0][1], json.loads(path.read_text())["curve"])
        labels = [self.test.classes[label] for label in shown.labels.tolist()]
        plots.overview(shown.images, labels, names[0.0][0], [row], save=self.folder / f"{name}.png")

    def _names(self, images: torch.Tensor) -> list[str]:
        return [self.test.classes[label].split(",")[0] for label in predict(self.base, images).tolist()]


def _setting(name: str) -> Setting:
    return next(setting for setting in SETTINGS if setting.name == name)


def lines(rows: Sequence[Row]) -> list[str]:
    """Means over the corruptions of each setting; the base's are those of the same corruptions."""
    base = {(row.corruption, row.severity): row for row in rows if row.setting.startswith("base")}
    result = ["| | corruptions | TA | RA | base: TA | RA | way | mean of ways | kB | time |", "|---" * 10 + "|"]
    for name in dict.fromkeys(row.setting for row in rows if not row.setting.startswith("base")):
        mine = [row for row in rows if row.setting == name and (row.corruption, row.severity) in base]
        if not mine:
            continue
        theirs = [base[row.corruption, row.severity] for row in mine]
        each = [[row.ra for row in theirs], [row.ra for row in mine], [row.ta for row in theirs]]
        ways = [recovery([a], [b], [c]) for a, b, c in zip(*each, strict=True)]
        shares = [mean(row.ta for row in mine), mean(each[1]), mean(each[2]), mean(each[0])]
        times = [row.time for row in mine if row.time is not None]
        cells = [name, str(len(mine)), *(f"{100 * share:.1f}" for share in shares)]
        cells += [f"{recovery(*each):.2f}", f"{mean(ways):.2f}", f"{mean(row.nbytes or 0 for row in mine) / 1000:.0f}"]
        result.append(f"| {' | '.join([*cells, f'{mean(times):.2f}' if times else ''])} |")
    return result


def by_corruption(rows: Sequence[Row], setting: str = "defaults") -> list[str]:
    """A line for each corruption."""
    result = [f"| | base: RA | {setting}: TA | RA | way |", "|---" * 5 + "|"]
    base = {(row.corruption, row.severity): row for row in rows if row.setting.startswith("base")}
    for row in rows:
        if row.setting == setting and (there := base.get((row.corruption, row.severity))):
            way = recovery([there.ra], [row.ra], [there.ta])
            shares = " | ".join(f"{100 * share:.1f}" for share in (there.ra, row.ta, row.ra))
            result.append(f"| {row.corruption} | {shares} | {way:.2f} |")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="folder, Hub id or timm name of the model")
    parser.add_argument("--photos", required=True, help="Hub id or folder of the photographs")
    parser.add_argument("--setting", action="append", help="only this one of SETTINGS; repeatable; 'none' only prints")
    parser.add_argument("--corruption", action="append", help="only this one; repeatable")
    parser.add_argument("--test-photos", type=int, help="use only so many, drawn at random")
    parser.add_argument("--picture", help="of this corruption, with the signature of the defaults")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    table = Table(options)
    for setting in SETTINGS:
        if options.setting is None or setting.name in options.setting:
            for row in table.rows(setting, options.corruption or CORRUPTIONS):
                print(f"{row.setting}, {row.corruption}: TA {100 * row.ta:.1f}, RA {100 * row.ra:.1f}", flush=True)
    if options.picture:
        table.picture(options.picture)
    found = [
        Row(**row) for path in (options.output_dir / "rows").glob("*.json") for row in json.loads(path.read_text())
    ]
    order = {setting.name: number for number, setting in enumerate(SETTINGS)}
    found.sort(key=lambda row: (order[row.setting], CORRUPTIONS.index(row.corruption)))
    (options.output_dir / "photos.json").write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")
    print("\n".join([*lines(found), "", *by_corruption(found)]))


if __name__ == "__main__":
    main()
