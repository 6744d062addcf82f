r"""Distilled signatures beside the robust models of a study: accuracy, images and time.

    python scripts/distillation_table.py study-vgg16_bn_gap-0 --dataset uoft-cs/cifar10 --images 10000 \
        --output-dir distilled-10000

One signature for each corruption of the study, from so many unlabelled training images (drawn at random), float32;
with --joint one against all of them. TA and RA are of the study's standard model with the signature on, beside those
that the study measured of its robust models. Times are CPU times as multiples of one epoch: a training pass of the
whole network over 50,000 images, timed in the same run. What is in the output folder already is not made again.
"""

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from studies import StudyFolder, TestImages, about, patched
from torch.nn import functional as F

import hf_rws
from hf_rws.data import ImageSet, load_split
from hf_rws.evaluation import Normalize
from hf_rws.signature import Signature

EPOCH = 50_000
TIMED_STEPS, BATCH = 12, 128


@dataclass(frozen=True)
class Row:
    """One signature under one corruption; accuracies in [0, 1], time in epochs of the whole network."""

    corruption: str
    base_ta: float
    base_ra: float
    ta: float
    ra: float
    robust_ta: float
    robust_ra: float
    epochs: float
    training: dict[str, Any]


def epoch_seconds(study: StudyFolder, images: ImageSet) -> float:
    """CPU seconds of a training pass over 50,000 images: forward, backward, SGD."""
    model = study.base().train().to(memory_format=torch.channels_last)
    normalize, optimizer = Normalize.of(model), torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    seconds = []
    for step in range(TIMED_STEPS):
        rows = torch.arange(step * BATCH, (step + 1) * BATCH) % len(images)
        began = time.process_time()
        F.cross_entropy(model(normalize(images.images[rows])), images.labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - began)
    return sorted(seconds)[TIMED_STEPS // 2] / BATCH * EPOCH


def distilled(study: StudyFolder, label: str, images: torch.Tensor, folder: Path, **options: Any) -> Signature:
    """The signature in `folder`, made if it is not there."""
    if not (folder / "config.json").is_file():
        began = time.process_time()
        signature = hf_rws.distill(study.folder / "base", images, severity=study.severity, name=label, **options)
        results = {"metrics": {"seconds": time.process_time() - began}}
        signature.with_results(**results).save_pretrained(folder)
    return Signature.from_pretrained(folder, name=label)


def measure(study: StudyFolder, test: TestImages, images: ImageSet, options: argparse.Namespace) -> list[Row]:
    names = options.corruption or list(study.corruptions)
    epoch = epoch_seconds(study, images)
    base = study.base()
    with warnings.catch_warnings():  # one step does not help, but imports what the first distillation needs
        warnings.simplefilter("ignore")
        hf_rws.distill(base, images.images[:100], steps=1, progress=False)
    settings = {"bits": None, "seed": options.seed, "steps": options.steps, "num_layers": options.num_layers}
    rows = []
    for name in names:
        label = "joint" if options.joint else name
        made = distilled(
            study, label, images.images, options.output_dir / f"rws-{label}",
            corruption=names if options.joint else name, **settings,
        )  # fmt: skip
        off = (test.ta(base), test.ra(base, name))
        patcher = patched(base, [made])
        patcher.set(dict.fromkeys(patcher.scales, 1.0))
        on = (test.ta(base), test.ra(base, name))
        patcher.clear()
        patcher.bake()
        last = (study.folder / f"robust-{name}" / "metrics.jsonl").read_text().splitlines()[-1]
        robust = json.loads(last)["test_accuracy"]
        row = Row(
            name, *off, *on, robust["clean"], robust[f"{name}-{study.severity}"],
            made.config.metrics["seconds"] / epoch, dict(made.config.method.training),
        )  # fmt: skip
        print(_line(name, [row]), flush=True)
        rows.append(row)
    return rows


def _line(name: str, rows: Sequence[Row]) -> str:
    fields = ("base_ta", "ta", "robust_ta", "base_ra", "ra", "robust_ra")
    shares = (f"{100 * mean(getattr(row, field) for row in rows):.1f}" for field in fields)
    return f"| {name} | {' | '.join(shares)} | {mean(row.epochs for row in rows):.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder that scripts/train_study.py left")
    parser.add_argument(
        "--dataset", default="uoft-cs/cifar10", help="training images without labels, and its test split"
    )
    parser.add_argument("--images", type=int, default=10_000, help="how many")
    parser.add_argument("--corruption", action="append", help="only this one; repeatable")
    parser.add_argument("--joint", action="store_true", help="one signature against all of them")
    parser.add_argument("--num-layers", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-images", type=int, help="use only the first so many")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    study = StudyFolder(options.study)
    train = load_split(options.dataset, "train")
    drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(options.seed))[: options.images]
    test = TestImages(load_split(options.dataset).subset(slice(options.test_images)), study.severity)
    print("| corruption | TA base | TA distilled | TA robust | RA base | RA distilled | RA robust | epochs |")
    print("|---" * 8 + "|")
    rows = measure(study, test, train.subset(drawn.sort().values), options)
    print(_line("**mean**", rows))
    gained, gap = (mean(getattr(row, who) - row.base_ra for row in rows) for who in ("ra", "robust_ra"))
    print(f"\nrecovery {gained / gap:.3f} of {len(rows)} corruptions, n = {len(test.clean)}")
    record = {
        "about": about(len(test.clean), images=options.images, seed=options.seed, study=study.folder.name),
        "rows": [asdict(row) for row in rows],
    }
    (options.output_dir / "table.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
