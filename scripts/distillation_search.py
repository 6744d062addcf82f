r"""Which options of `distill` matter? One at a time is changed, and the signatures that come of it are measured.

    hf-rws train --init-from cifar50-vgg16_bn_gap --dataset uoft-cs/cifar10 --recipe short --output-dir base
    python scripts/distillation_search.py base --dataset uoft-cs/cifar10 --output-dir search-vgg16_bn_gap

For each setting of `SETTINGS` one float32 signature per corruption is distilled from unlabelled training images (2,000
unless the setting says otherwise, drawn at random) and put on the base: TA and RA on test images, TA with it on; the RA
of both members of all pairs with both signatures on at scale 1; and with --target the RA of another model of the
architecture, on its own images. `time` is CPU time as a multiple of the default setting's. Settings that are in the
output folder already are not made again; --setting picks some of them.

What is not an option of `distill`, because it did not help, lives here: objectives and subclasses of its loop.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hf_rws
from hf_rws.bases import load_base
from hf_rws.data.datasets import load_split
from hf_rws.data.sets import ImageSet
from hf_rws.distillation import Distiller
from hf_rws.distillation.arguments import OPTIMIZERS
from hf_rws.signature.signature import Signature
from hf_rws.study.measuring import StudyImages, patched
from hf_rws.study.provenance import about

CORRUPTIONS = ("gaussian_noise", "fog", "contrast")
PAIRS = tuple(combinations(CORRUPTIONS, 2))
IMAGES = 2_000
SEVERITY = 5


def usual_steps(images: int) -> int:
    """Steps of all settings but those that change them; the default of `distill` has become half as many again."""
    return math.ceil((8_000 + 3.2 * min(images, 10_000)) / 128)


def hard_answers(logits: Tensor, answers: Tensor) -> Tensor:
    """The base's class instead of its softened answer."""
    return F.cross_entropy(logits.float(), answers.argmax(1))


def squared_distance(logits: Tensor, answers: Tensor) -> Tensor:
    """Of the logits."""
    return (logits.float() - answers).square().mean(1).mean()


def is_statistic(name: str) -> bool:
    """Whether a tensor is a running statistic, not a parameter."""
    return name.rpartition(".")[2].startswith("running_")


class FrozenStatistics(Distiller):
    """Running statistics of batch norms stay as they are."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.norms = []


class Pulled(Distiller):
    """A penalty on the delta's norm: after a step the weights go back a little, by `pull` times the learning rate."""

    pull = 0.0

    def learn(self, images: Tensor, answers: Tensor, rate: float, **options: Any) -> None:
        """One step."""
        super().learn(images, answers, rate, **options)
        with torch.no_grad():
            for name, value in self._state().items():
                if not is_statistic(name):
                    value.lerp_(self.start[name].to(value.device), rate * self.pull)


class Accompanied(Distiller):
    """In half of the steps a signature of another corruption is on as well; its norms' statistics are left alone."""

    companions: tuple[Signature, ...] = ()

    def learn(self, images: Tensor, answers: Tensor, rate: float, **options: Any) -> None:
        """One step."""
        chosen = self.step % (2 * len(self.companions)) if self.companions else math.inf
        added = self.companions[chosen].deltas() if chosen < len(self.companions) else {}
        tensors = self._state()
        kept = {name: value.clone() for name, value in tensors.items() if added and is_statistic(name)}
        with torch.no_grad():
            for name in added:
                tensors[name].add_(added[name] if not is_statistic(name) else 0.0)
        super().learn(images, answers, rate, **options)
        with torch.no_grad():
            for name in added:
                tensors[name].sub_(added[name]) if not is_statistic(name) else tensors[name].copy_(kept[name])


@dataclass(frozen=True)
class Setting:
    """What is changed, and how: options of `distill`, how many images, and a loop in place of the usual one."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    images: int = IMAGES
    loop: type[Distiller] = Distiller
    pull: float = 0.0
    steps: float = 1.0  # times the default number


SETTINGS = (
    Setting("default"),
    Setting("default, seed 1", {"seed": 1}),
    *(Setting(f"{n} layers", {"num_layers": n}) for n in (1, 3, 5, 9, "all")),
    *(Setting(f"lr x{f:g}", {"lr": f}) for f in (1 / 3, 2, 4)),
    *(Setting(f"steps x{f:g}", steps=f) for f in (0.5, 2, 4)),
    *(Setting(f"clean fraction {f:g}", {"clean_fraction": f}) for f in (0.0, 0.1, 0.5)),
    *(Setting(f"temperature {t:g}", {"temperature": t}) for t in (1, 4)),
    Setting("the other optimizer", {"optimizer": "other"}),
    Setting("loss: hard answers", {"objective": hard_answers}),
    Setting("loss: squared distance of logits", {"objective": squared_distance}),
    *(Setting(f"{n} images", images=n) for n in (100, 500, 10_000, 45_000)),
    Setting("statistics frozen", loop=FrozenStatistics),
    *(Setting(f"pulled back, {p:g}", loop=Pulled, pull=p) for p in (0.1, 1, 10)),
    Setting("in company", loop=Accompanied),
    Setting("not mirrored", {"flip": False}),
    *(Setting(f"batches of {n}", {"batch_size": n}) for n in (64, 256)),
)


@dataclass(frozen=True)
class Row:
    """One setting; accuracies in [0, 1] by corruption, CPU seconds of all its distillations."""

    setting: str
    ta: dict[str, float]
    ra: dict[str, float]
    pairs: dict[str, float]
    target_ra: dict[str, float]
    seconds: float


class Search:
    """A base, images, and what is measured on them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, options.output_dir
        self.names = tuple(options.corruption or CORRUPTIONS)
        self.base = load_base(options.base).model
        train = load_split(options.dataset, "train", image_size=options.image_size)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        self.images = train.images[order]
        self.test = self._test(options.dataset, None)
        self.target = load_base(options.target).model if options.target else None
        self.target_test = self._test(options.target_dataset, options.target_classes) if self.target else None

    def _test(self, dataset: str, classes: str | None) -> StudyImages:
        found: ImageSet = load_split(dataset, classes=classes, image_size=self.options.image_size)
        return StudyImages(found.subset(slice(self.options.test_images)), SEVERITY)

    def signatures(self, setting: Setting) -> Iterator[Signature]:
        """Made where they are not in the folder yet."""
        for name in self.names:
            where = self.folder / setting.name.replace(" ", "-") / f"rws-{name}"
            if not (where / "config.json").is_file():
                began = time.process_time()
                made = self._distill(setting, name)
                made.with_results(metrics={"seconds": time.process_time() - began}).save_pretrained(where)
            yield Signature.from_pretrained(where, name=name)

    def _distill(self, setting: Setting, name: str) -> Signature:
        images = self.images[: setting.images]
        options = dict(setting.options)
        if options.get("optimizer") == "other":
            options["optimizer"] = "adamw" if self._usual() == "sgd" else "sgd"
        if "lr" in options:
            options["lr"] *= OPTIMIZERS[self._usual()]["lr"]
        options["steps"] = round(setting.steps * usual_steps(round(0.9 * len(images))))
        loop = type("Loop", (setting.loop,), {"pull": setting.pull, "companions": self._companions(setting, name)})
        return hf_rws.distill(self.base, images, corruption=name, bits=None, loop=loop, progress=False, **options)

    def _companions(self, setting: Setting, name: str) -> tuple[Signature, ...]:
        if setting.loop is not Accompanied:
            return ()
        return tuple(made for made in self.signatures(SETTINGS[0]) if made.name != name)

    def _usual(self) -> str:
        made = next(self.signatures(SETTINGS[0])) if self.folder.joinpath("default").is_dir() else None
        return made.config.method.training["optimizer"] if made else "sgd"

    def measure(self, setting: Setting) -> Row:
        """Its signatures, on the base alone and in pairs, and on the target."""
        made = list(self.signatures(setting))
        ta, ra = _each(self.base, made, self.test)
        pairs = {}
        patcher = patched(self.base, made)
        for pair in PAIRS:
            if set(pair) <= set(self.names):
                patcher.set(dict.fromkeys(pair, 1.0))
                pairs |= {f"{name} of {'+'.join(pair)}": self.test.ra(self.base, name) for name in pair}
        patcher.clear()
        patcher.bake()
        target = _each(self.target, made, self.target_test)[1] if self.target is not None else {}
        return Row(setting.name, ta, ra, pairs, target, sum(m.config.metrics["seconds"] for m in made))


def _each(model: nn.Module, made: list[Signature], test: StudyImages) -> tuple[dict[str, float], dict[str, float]]:
    """TA and RA of a model with each signature on, by corruption."""
    patcher, ta, ra = patched(model, made), {}, {}
    for signature in made:
        patcher.set({signature.name: 1.0})
        ta[signature.name], ra[signature.name] = test.ta(model), test.ra(model, signature.name)
    patcher.clear()
    patcher.bake()
    return ta, ra


def _percent(values: dict[str, float]) -> str:
    return f"{100 * mean(values.values()):.1f}" if values else ""


def line(row: Row, usual: float) -> str:
    shares = (row.ta, row.ra, row.pairs, row.target_ra)
    return f"| {row.setting} | {' | '.join(map(_percent, shares))} | {row.seconds / usual:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="folder or Hub id of the model")
    parser.add_argument("--dataset", default="uoft-cs/cifar10", help="its training and test images")
    parser.add_argument("--image-size", type=int, help="resize them to this")
    parser.add_argument("--target", help="another model of the architecture")
    parser.add_argument("--target-dataset", default="uoft-cs/cifar100")
    parser.add_argument("--target-classes", help="e.g. 50-99")
    parser.add_argument("--corruption", action="append", help="instead of the usual three; repeatable")
    parser.add_argument("--setting", action="append", help="only this one, and the default; repeatable")
    parser.add_argument("--test-images", type=int, default=1_000, help="the first so many")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    path, search = options.output_dir / "search.json", Search(options)
    record = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    known = {row["setting"]: Row(**row) for row in record["rows"]}
    test, base = search.test, search.base
    off = {
        "ta": test.ta(base),
        "ra": {name: test.ra(base, name) for name in search.names},
        "target_ra": {name: search.target_test.ra(search.target, name) for name in search.names}
        if search.target is not None
        else {},
    }
    print("| setting | TA | RA | RA in pairs | RA of the target | time |")
    print("|---" * 6 + "|")
    print(f"| base | {100 * off['ta']:.1f} | {_percent(off['ra'])} | | {_percent(off['target_ra'])} | |")
    for setting in SETTINGS:
        if setting.name not in known:
            if options.setting and setting.name not in (SETTINGS[0].name, *options.setting):  # it gives the time
                continue
            known[setting.name] = search.measure(setting)
        facts = about(len(test.clean), images=IMAGES, base=Path(options.base).name, corruptions=search.names)
        record = {"about": facts, "base": off, "rows": [asdict(row) for row in known.values()]}
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(line(known[setting.name], known[SETTINGS[0].name].seconds), flush=True)


if __name__ == "__main__":
    main()
