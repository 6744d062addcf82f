r"""Signatures made on one dataset, on a model of another: extracted ones, distilled ones, and the target's own.

    hf-rws train --model vgg16_bn_gap --model-arg width=0.25 --dataset uoft-cs/cifar100 --classes 0-49 \
        --recipe short --epochs 16 --lr 0.05 --output-dir cifar50-vgg16_bn_gap             # the start, which is neither
    hf-rws train --init-from cifar50-vgg16_bn_gap --dataset uoft-cs/cifar100 --classes 50-99 --recipe short \
        --epochs 4 --output-dir target/base
    python scripts/transfer_table.py target study-0 distilled/seed-0/10000-images \
        --dataset uoft-cs/cifar100 --classes 50-99 --output-dir transfer

The source is a study on CIFAR-10 from the same start (see scripts/distillation_table.py, which also leaves the
distilled signatures). All signatures are in float32 and of 7 layers, at scale 1. The target's own are distilled from as
many of its unlabelled training images. TA and RA are those of the target on its test images.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch

import hf_rws
from hf_rws.corruptions import CORRUPTIONS
from hf_rws.data.datasets import load_split
from hf_rws.data.sets import ImageSet
from hf_rws.signature.signature import Signature
from hf_rws.study.layout import StudyFolder
from hf_rws.study.measuring import StudyImages, measure_each
from hf_rws.study.provenance import about


@dataclass(frozen=True)
class Row:
    """One kind of signature; accuracies of the target in [0, 1] by corruption."""

    signatures: str
    ta: dict[str, float]
    ra: dict[str, float]


class Transfer:
    """A target, and signatures for it from elsewhere."""

    def __init__(self, target: StudyFolder, source: StudyFolder, test: StudyImages) -> None:
        self.target, self.source, self.test = target, source, test
        self.model = target.base()

    def unpatched(self) -> Row:
        """The target alone."""
        ta = self.test.ta(self.model)
        return Row("none", dict.fromkeys(CORRUPTIONS, ta), {c: self.test.ra(self.model, c) for c in CORRUPTIONS})

    def row(self, name: str, signatures: Sequence[Signature]) -> Row:
        """The target with each signature on."""
        ta, ra = measure_each(self.model, signatures, self.test)
        return Row(name, ta, ra)

    def own(self, images: ImageSet, folder: Path, seed: int) -> list[Signature]:
        """Distilled from the target itself; those that are in the folder are not made again."""
        found = []
        for name in CORRUPTIONS:
            where = folder / f"rws-{name}"
            if not (where / "config.json").is_file():
                made = hf_rws.distill(self.model, images, corruption=name, bits=None, seed=seed, progress=False)
                made.save_pretrained(where)
            found.append(Signature.from_pretrained(where, name=name))
        return found


def table(rows: Sequence[Row]) -> str:
    lines = ["| signatures | TA | RA |", "|---|---|---|"]
    for row in rows:
        lines.append(f"| {row.signatures} | {100 * mean(row.ta.values()):.1f} | {100 * mean(row.ra.values()):.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="folder with the target's base/")
    parser.add_argument("source", type=Path, help="study on the other dataset, from the same start")
    parser.add_argument("distilled", type=Path, help="folder of signatures distilled from the source")
    parser.add_argument("--dataset", default="uoft-cs/cifar100", help="the target's")
    parser.add_argument("--classes", default="50-99")
    parser.add_argument("--images", type=int, default=10_000, help="unlabelled images for the target's own signatures")
    parser.add_argument("--test-images", type=int, help="use only the first so many")
    parser.add_argument("--seed", type=int, default=0, help="of the target's own signatures")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    test = load_split(options.dataset, classes=options.classes).subset(slice(options.test_images))
    train = load_split(options.dataset, "train", classes=options.classes)
    drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(options.seed))[: options.images]
    transfer = Transfer(StudyFolder(options.target), StudyFolder(options.source), StudyImages(test, 5))
    source = transfer.source
    if missing := sorted(set(CORRUPTIONS) - set(source.corruptions)):  # a mean over the others would not compare
        raise SystemExit(f"{options.source} lacks robust models: {', '.join(missing)}")
    jobs: dict[str, Callable[[], list[Signature]]] = {
        "extracted, weights projected": lambda: list(source.signatures(bits=None)),
        "extracted, everything projected": lambda: list(source.signatures(bits=None, projection="all")),
        "extracted, nothing projected": lambda: list(source.signatures(bits=None, projection=None)),
        "distilled": lambda: [Signature.from_pretrained(options.distilled / f"rws-{c}", name=c) for c in CORRUPTIONS],
        "the target's own, distilled": lambda: transfer.own(train.subset(drawn), options.output_dir, options.seed),
    }
    rows = [transfer.unpatched()] + [transfer.row(name, job()) for name, job in jobs.items()]
    print(table(rows))
    facts = {"target": options.target.name, "source": options.source.name, "distilled": str(options.distilled)}
    record = {"about": about(len(test), seed=options.seed, images=options.images, **facts)}
    path = options.output_dir / "transfer.json"
    path.write_text(json.dumps({**record, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
