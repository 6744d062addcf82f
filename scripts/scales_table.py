r"""Several distilled signatures at once, without data to choose scales by: 1/n, 1/sqrt(n) or 1 each?

    python scripts/train.py --model vgg16_bn_gap --model-arg width=0.25 --dataset uoft-cs/cifar10 --epochs 4 --lr 0.05 \
        --seed 0 --output-dir base-0
    python scripts/scales_table.py base-0 --seed 0 --dataset uoft-cs/cifar10 --output-dir scales-0 --output scales.json

All 19 corruptions at severity 5, or those that are not left out: a signature for each is distilled from the same few
training images, and random sets of 2, 3, 5 and all are put on together. "kept" is the RA on a member with the set on as
a share of the RA with that member alone, as the mean over the members and over the sets. What is distilled and what is
measured is kept in --output-dir, so an interrupted run goes on; rows of other seeds in --output stay.
`combining_table.py` is the one for extracted signatures.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import nn
from tqdm import tqdm

import hf_rws
from hf_rws.bases import load_base
from hf_rws.corruptions import CORRUPTIONS
from hf_rws.data.datasets import load_split
from hf_rws.data.sets import ImageSet
from hf_rws.signature.signature import Signature
from hf_rws.study.measuring import StudyImages, patched
from hf_rws.study.provenance import about

SEVERITY = 5
SETS = {2: 8, 3: 6, 5: 4}  # how many random sets of each size
EXPONENTS = {"1/n": 1.0, "1/sqrt(n)": 0.5, "1": 0.0}  # a rule is n ** -exponent


@dataclass(frozen=True)
class Row:
    """One set under one rule; accuracies in [0, 1]: `ra` of the members in order, `alone` with one of them on."""

    seed: int
    members: tuple[str, ...]
    rule: str
    ta: float
    ra: tuple[float, ...]
    alone: tuple[float, ...]

    @property
    def kept(self) -> float:
        """The mean share of the RA alone that the members have together."""
        return mean(together / alone for together, alone in zip(self.ra, self.alone, strict=True))


def distilled(
    base: nn.Module, names: Sequence[str], images: ImageSet, count: int, steps: int | None, seed: int, folder: Path
) -> list[Signature]:
    """A signature for each corruption, from the same images; those that are in the folder are taken from there."""
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    made = []
    for name in tqdm(names, desc="distilled", unit="signature"):
        where = folder / f"rws-{name}"
        if not (where / "config.json").is_file():
            signature = hf_rws.distill(
                base, images.images[chosen], corruption=name, severity=SEVERITY, steps=steps, seed=seed, progress=False
            )
            signature.save_pretrained(where)
        made.append(Signature.from_pretrained(where, name=name))
    return made


def measure(base: nn.Module, signatures: list[Signature], test: StudyImages, seed: int, kept: Path) -> list[Row]:
    """Every set under every rule, beside each signature alone and the unpatched model; what is in `kept` is done."""
    patcher, names = patched(base, signatures), tuple(signature.name for signature in signatures)
    found: dict[str, list[float]] = json.loads(kept.read_text()) if kept.is_file() else {}

    def accuracies(scales: dict[str, float], shown: tuple[str, ...]) -> list[float]:
        """TA, and RA under each of the corruptions that are shown."""
        key = json.dumps([scales, shown])
        if key not in found:
            patcher.set(scales)
            found[key] = [test.ta(base), *(test.ra(base, name) for name in shown)]
            kept.write_text(json.dumps(found))
        return found[key]

    generator = torch.Generator().manual_seed(seed)
    sets = [
        tuple(names[i] for i in sorted(torch.randperm(len(names), generator=generator)[:size].tolist()))
        for size, count in SETS.items()
        for _ in range(count)
    ]
    unpatched_ta, *unpatched = accuracies({}, names)
    clean = dict(zip(names, unpatched, strict=True))
    alone = {name: accuracies({name: 1.0}, (name,)) for name in tqdm(names, desc="alone")}
    rows = []
    for members in tqdm([*sets, names], desc="together"):
        own = tuple(alone[name][1] for name in members)
        rows.append(Row(seed, members, "unpatched", unpatched_ta, tuple(clean[name] for name in members), own))
        rows.append(Row(seed, members, "each alone", mean(alone[name][0] for name in members), own, own))
        for rule, exponent in EXPONENTS.items():
            ta, *ra = accuracies(dict.fromkeys(members, len(members) ** -exponent), members)
            rows.append(Row(seed, members, rule, ta, tuple(ra), own))
    return rows


def table(rows: list[Row]) -> str:
    """Means over the sets; a value for each seed."""
    lines = ["| signatures | sets | rule | TA | RA, members | kept | worst set |", "|---|---|---|---|---|---|---|"]
    seeds = sorted({row.seed for row in rows})
    for size in sorted({len(row.members) for row in rows}):
        for rule in dict.fromkeys(row.rule for row in rows):
            cells: list[list[str]] = [[], [], [], []]
            for seed in seeds:
                own = [row for row in rows if (len(row.members), row.rule, row.seed) == (size, rule, seed)]
                cells[0].append(f"{100 * mean(row.ta for row in own):.1f}")
                cells[1].append(f"{100 * mean(mean(row.ra) for row in own):.1f}")
                cells[2].append(f"{mean(row.kept for row in own):.3f}")
                cells[3].append(f"{min(row.kept for row in own):.3f}")
            lines.append(f"| {size} | {len(own)} | {rule} | {' | '.join(', '.join(cell) for cell in cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="folder or id of a base that was trained on the dataset")
    parser.add_argument("--dataset", default="uoft-cs/cifar10", help="training images without labels, and test images")
    parser.add_argument("--images", type=int, default=500, help="so many training images to distil from")
    parser.add_argument("--steps", type=int, help="of each distillation; default: by the number of images")
    parser.add_argument("--test-images", type=int, default=1000, help="use only the first so many")
    parser.add_argument("--leave-out", action="append", default=[], help="a corruption; frost needs an extra")
    parser.add_argument("--seed", type=int, default=0, help="of the sets, the training images and the distillations")
    parser.add_argument("--output-dir", type=Path, required=True, help="for the signatures and what is measured")
    parser.add_argument("--output", type=Path, help="JSON with every number")
    options = parser.parse_args()
    names = [name for name in CORRUPTIONS if name not in options.leave_out]
    test = StudyImages(load_split(options.dataset).subset(slice(options.test_images)), SEVERITY)
    base = load_base(options.base).model
    signatures = distilled(
        base,
        names,
        load_split(options.dataset, "train"),
        options.images,
        options.steps,
        options.seed,
        options.output_dir,
    )
    with torch.no_grad():
        rows = measure(base, signatures, test, options.seed, options.output_dir / f"measured-{len(test.clean)}.json")
    facts = [about(len(test.clean), seed=options.seed, images=options.images, steps=_steps(signatures))]
    if options.output and options.output.is_file():
        earlier = json.loads(options.output.read_text())
        rows = [Row(**row) for row in earlier["rows"] if row["seed"] != options.seed] + rows
        facts = [one for one in earlier["about"] if one["seed"] != options.seed] + facts
    print(table(rows))
    if options.output:
        record = {"about": facts, "rows": [asdict(row) for row in rows]}
        options.output.write_text(json.dumps(record, indent=1) + "\n")


def _steps(signatures: list[Signature]) -> list[int]:
    return sorted({signature.config.method.training["steps"] for signature in signatures})


if __name__ == "__main__":
    main()
