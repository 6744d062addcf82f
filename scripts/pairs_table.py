r"""Two distilled signatures at once: how much of each is left?

    python scripts/pairs_table.py study-0 distilled/seed-0/10000-images study-1 distilled/seed-1/10000-images \
        --dataset uoft-cs/cifar10 --output pairs.json

For all pairs of a set of corruptions: RA on both members with both signatures on, by each rule, beside the RA of each
alone and of the unpatched model, and TA. The folders are those that scripts/distillation_table.py left. "kept" is the
mean RA in pairs as a share of the mean RA alone. The rule "tuned" takes the best of a few common scales on the
last 256 test images, which are not among those measured on, under each member; the others need no data.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean

import torch

from hf_rws.data.datasets import load_split
from hf_rws.signature.signature import Signature
from hf_rws.study.layout import StudyFolder
from hf_rws.study.measuring import StudyImages, patched
from hf_rws.study.provenance import about

CORRUPTIONS = ("gaussian_noise", "glass_blur", "motion_blur", "snow", "fog", "contrast")
RULES = {"sum": 1.0, "1/sqrt(2)": 2**-0.5, "mean": 0.5}
TUNING_IMAGES, TUNING_SCALES = 256, (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)


@dataclass(frozen=True)
class Row:
    """One pair under one rule; accuracies in [0, 1], `ra` of its members in order."""

    seed: int
    pair: tuple[str, str]
    rule: str
    ta: float
    ra: tuple[float, float]
    scale: float | None = None


def measure(study: StudyFolder, folder: Path, test: StudyImages, tuning: StudyImages, seed: int) -> list[Row]:
    """All pairs under all rules, each member alone (rule "alone") and the unpatched model."""
    base = study.base()
    patcher = patched(base, [Signature.from_pretrained(folder / f"rws-{name}") for name in CORRUPTIONS])

    def on(*names: str, scale: float = 1.0) -> None:
        patcher.set(dict.fromkeys(names, scale))

    rows, clean, alone, ta = [], {}, {}, {}
    for name in CORRUPTIONS:
        patcher.clear()
        clean[name] = test.ra(base, name)
        on(name)
        alone[name], ta[name] = test.ra(base, name), test.ta(base)
    patcher.clear()
    clean_ta = test.ta(base)
    for pair in combinations(CORRUPTIONS, 2):
        one, two = pair
        rows.append(Row(seed, pair, "unpatched", clean_ta, (clean[one], clean[two])))
        rows.append(Row(seed, pair, "each alone", (ta[one] + ta[two]) / 2, (alone[one], alone[two])))
        scores = {}
        for scale in TUNING_SCALES:
            on(*pair, scale=scale)
            scores[scale] = tuning.ta(base) + tuning.ra(base, one) + tuning.ra(base, two)
        for rule, scale in {**RULES, "tuned": max(scores, key=scores.__getitem__)}.items():
            on(*pair, scale=scale)
            rows.append(Row(seed, pair, rule, test.ta(base), (test.ra(base, one), test.ra(base, two)), scale))
    return rows


def table(rows: list[Row]) -> str:
    """Means over the pairs; a value for each seed."""
    lines = ["| | TA | RA of the members | kept | worst pair |", "|---|---|---|---|---|"]
    seeds = sorted({row.seed for row in rows})
    alone = {(row.seed, tuple(row.pair)): mean(row.ra) for row in rows if row.rule == "each alone"}
    for rule in dict.fromkeys(row.rule for row in rows):
        cells: list[list[str]] = [[], [], [], []]
        for seed in seeds:
            own = [row for row in rows if (row.rule, row.seed) == (rule, seed)]
            shares = [mean(row.ra) / alone[seed, tuple(row.pair)] for row in own]
            kept = mean(mean(row.ra) for row in own) / mean(alone[seed, tuple(row.pair)] for row in own)
            cells[0].append(f"{100 * mean(row.ta for row in own):.1f}")
            cells[1].append(f"{100 * mean(mean(row.ra) for row in own):.1f}")
            cells[2].append(f"{kept:.3f}")
            cells[3].append(f"{min(shares):.3f}")
        lines.append(f"| {rule} | {' | '.join(', '.join(cell) for cell in cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="study and signatures, study and signatures, ...")
    parser.add_argument("--dataset", default="uoft-cs/cifar10", help="its test split is used")
    parser.add_argument("--test-images", type=int, help="use only the first so many")
    parser.add_argument("--output", type=Path, help="JSON with every number")
    options = parser.parse_args()
    found = load_split(options.dataset)
    tuning = StudyImages(found.subset(slice(len(found) - TUNING_IMAGES, None)), 5)  # not among those measured on
    test = StudyImages(found.subset(slice(min(options.test_images or len(found), len(found) - TUNING_IMAGES))), 5)
    rows = []
    for seed, (study, signatures) in enumerate(zip(options.folders[::2], options.folders[1::2], strict=True)):
        rows += measure(StudyFolder(study), signatures, test, tuning, seed)
    print(table(rows))
    if options.output:
        record = {"about": about(len(test.clean)), "rows": [asdict(row) for row in rows]}
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
