r"""Several signatures at once: which way of combining them is worth what?

    python scripts/combining_table.py study-vgg16_bn_gap-0 --dataset uoft-cs/cifar10 --test-images 1000
    python scripts/combining_table.py study-vgg16_bn_gap-0 --signatures distilled --dataset uoft-cs/cifar10

For random sets of 2, 3, 5 and all corruptions of a study: TA, RA on the members (mean over the set's corruptions) and
RA on all corruptions, with the set's signatures (float32, 7 layers) combined by each rule, beside the unpatched model
and the best single member. "tuned" picks one common scale on 256 validation images per member (clean ones count as one
more member); the other rules need no data. TIES (Yadav et al., arXiv 2306.01708): keep the largest 20 % of each tensor,
elect a sign for each value by total mass, average what agrees with it.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn
from tqdm import tqdm

import hf_rws
from hf_rws.data.datasets import load_split
from hf_rws.signature.signature import Signature
from hf_rws.study.layout import StudyFolder
from hf_rws.study.measuring import StudyImages, patched
from hf_rws.study.provenance import about

Deltas = dict[str, Tensor]
TUNING_IMAGES = 256
TUNING_SCALES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
SETS = {2: 8, 3: 6, 5: 4}  # how many random sets of each size
KEPT_BY_TIES = 0.2


def scaled_sum(factor: Callable[[int], float]) -> Callable[[Sequence[Deltas]], Deltas]:
    return lambda members: {name: factor(len(members)) * sum(m[name] for m in members) for name in members[0]}


def norm_kept(members: Sequence[Deltas]) -> Deltas:
    """The sum, each tensor scaled so that its norm is the mean of the members' norms."""
    total = scaled_sum(lambda count: 1.0)(members)
    norms = {name: mean(float(m[name].norm()) for m in members) for name in total}
    return {name: value * (norms[name] / max(float(value.norm()), 1e-12)) for name, value in total.items()}


def ties(members: Sequence[Deltas]) -> Deltas:
    return {name: _ties(torch.stack([m[name] for m in members])) for name in members[0]}


def _ties(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    kept = max(1, round(KEPT_BY_TIES * flat.shape[1]))
    threshold = flat.abs().topk(kept, dim=1).values[:, -1:]
    flat = torch.where(flat.abs() >= threshold, flat, 0)
    agreeing = torch.where(flat.sign() == flat.sum(0).sign(), flat, 0)
    return (agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)).view(values.shape[1:])


RULES: dict[str, Callable[[Sequence[Deltas]], Deltas]] = {
    "sum": scaled_sum(lambda count: 1.0),
    "mean (1/n)": scaled_sum(lambda count: 1 / count),
    "1/sqrt(n)": scaled_sum(lambda count: count**-0.5),
    "sum, norm of a member": norm_kept,
    "TIES": ties,
}


@dataclass(frozen=True)
class Row:
    """One rule on one set; accuracies in [0, 1]."""

    members: tuple[str, ...]
    rule: str
    ta: float
    ra_members: float
    ra_all: float | None
    scale: float | None = None


class Bench:
    """A base, its signatures and test images."""

    def __init__(self, study: StudyFolder, signatures: dict[str, Signature], test: StudyImages, tuning: StudyImages):
        self.base: nn.Module = study.base().to(test.clean.images.device)
        self.signatures, self.test, self.tuning = signatures, test, tuning
        self.deltas = {name: signature.deltas() for name, signature in signatures.items()}
        self.alone = cache(self._alone)

    def row(self, members: tuple[str, ...], rule: str, deltas: Deltas | None, scale: float = 1.0) -> Row:
        """What `deltas` at `scale` are worth."""
        patcher = self._on(deltas, scale)
        found = {name: self.test.ra(self.base, name) for name in self.signatures}
        ta = self.test.ta(self.base)
        self._off(patcher)
        return Row(members, rule, ta, mean(found[name] for name in members), mean(found.values()))

    def _alone(self, name: str | None) -> dict[str, float]:
        """With one signature or none: RA by corruption, and TA under ""."""
        patcher = self._on(None if name is None else self.deltas[name], 1.0)
        found = {other: self.test.ra(self.base, other) for other in self.signatures}
        found[""] = self.test.ta(self.base)
        self._off(patcher)
        return found

    def rows(self, members: tuple[str, ...]) -> list[Row]:
        """Every rule on one set, beside the unpatched model and what single signatures do."""
        clean, alone = self.alone(None), {name: self.alone(name) for name in members}
        best = max(members, key=lambda name: mean(alone[name][other] for other in members))
        found = []
        for rule, ras in (("unpatched", clean), ("best single", alone[best])):
            everywhere = mean(ras[name] for name in self.signatures)
            found.append(Row(members, rule, ras[""], mean(ras[name] for name in members), everywhere))
        ta, own = mean(alone[name][""] for name in members), mean(alone[name][name] for name in members)
        found.append(Row(members, "each one's own", ta, own, None))
        deltas = [self.deltas[name] for name in members]
        found += [self.row(members, rule, combine(deltas)) for rule, combine in RULES.items()]
        return [*found, self.tuned(members)]

    def tuned(self, members: tuple[str, ...]) -> Row:
        """The common scale that is best on the validation images."""
        total = RULES["sum"]([self.deltas[name] for name in members])
        scores = {}
        for scale in TUNING_SCALES:
            patcher = self._on(total, scale)
            scores[scale] = self.tuning.ta(self.base) + sum(self.tuning.ra(self.base, name) for name in members)
            self._off(patcher)
        best = max(scores, key=scores.__getitem__)
        found = self.row(members, "tuned", total, best)
        return Row(found.members, found.rule, found.ta, found.ra_members, found.ra_all, best)

    def _on(self, deltas: Deltas | None, scale: float) -> hf_rws.patching.Patcher | None:
        if deltas is None:
            return None
        config = next(iter(self.signatures.values())).config
        patcher = patched(self.base, [Signature.from_deltas(deltas, config.with_bits(None))])
        patcher.set({config.corruption.label: scale})
        return patcher

    def _off(self, patcher: hf_rws.patching.Patcher | None) -> None:
        if patcher is not None:
            patcher.clear()
            patcher.bake()


def random_sets(names: tuple[str, ...], seed: int) -> list[tuple[str, ...]]:
    """Sets of the sizes of `SETS`, as far as there are so many names, and the set of all."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        tuple(names[i] for i in sorted(torch.randperm(len(names), generator=generator)[:size].tolist()))
        for size, count in SETS.items()
        if size < len(names)
        for _ in range(count)
    ]
    return [*drawn, names]


def table(rows: Sequence[Row]) -> str:
    lines = ["| signatures | sets | rule | TA | RA, members | RA, all |", "|---|---|---|---|---|---|"]
    for size in sorted({len(row.members) for row in rows}):
        for rule in dict.fromkeys(row.rule for row in rows):
            own = [row for row in rows if len(row.members) == size and row.rule == rule]
            ta, members = (mean(getattr(row, field) for row in own) for field in ("ta", "ra_members"))
            everything = "" if own[0].ra_all is None else f"{100 * mean(row.ra_all or 0 for row in own):.1f}"
            note = ""
            if own[0].scale is not None:
                note = f" (scales {min(r.scale or 0 for r in own):g} to {max(r.scale or 0 for r in own):g})"
            lines.append(
                f"| {size} | {len(own)} | {rule}{note} | {100 * ta:.1f} | {100 * members:.1f} | {everything} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder that scripts/train_study.py left")
    parser.add_argument("--signatures", type=Path, help="folder of distilled signatures; default: extract the study's")
    parser.add_argument("--dataset", default="uoft-cs/cifar10", help="its test split is used")
    parser.add_argument("--test-images", type=int, help="use only the first so many")
    parser.add_argument("--seed", type=int, default=0, help="of the random sets")
    parser.add_argument("--output", type=Path, help="JSON with every number")
    options = parser.parse_args()
    study = StudyFolder(options.study)
    if options.signatures:
        found = [Signature.from_pretrained(path) for path in sorted(options.signatures.glob("rws-*"))]
    else:
        found = list(study.signatures(bits=None))
    test = load_split(options.dataset)
    tuning = test.subset(slice(len(test) - TUNING_IMAGES, None))  # not among those that are measured on
    shown = test.subset(slice(min(options.test_images or len(test), len(test) - TUNING_IMAGES)))
    bench = Bench(
        study,
        {signature.config.corruption.label: signature for signature in found},
        StudyImages(shown, study.severity),
        StudyImages(tuning, study.severity),
    )
    sets = random_sets(tuple(bench.signatures), options.seed)
    rows = [row for members in tqdm(sets, desc="sets") for row in bench.rows(members)]
    print(table(rows))
    if options.output:
        record = {"about": about(len(shown), study=options.study.name), "rows": [asdict(row) for row in rows]}
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
