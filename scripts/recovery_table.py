r"""How much of the robust models' gain do their signatures bring? A table of scripts/results.

    hf-rws train --model vgg16_gap --model-arg width=0.25 --dataset uoft-cs/cifar100 --recipe short --epochs 8 \
        --lr 0.05 --output-dir cifar100-vgg16_gap-first
    hf-rws train --init-from cifar100-vgg16_gap-first --dataset uoft-cs/cifar100 --recipe short --epochs 8 --lr 0.05 \
        --output-dir cifar100-vgg16_gap
    for seed in 0 1; do python scripts/train_study.py --init-from cifar100-vgg16_gap --dataset uoft-cs/cifar10 \
        --recipe short --epochs 2 --lr 0.01 --seed $seed --corruption gaussian_noise --corruption fog \
        --corruption contrast --corruption impulse_noise --corruption defocus_blur --no-scale-curve \
        --output-dir study-vgg16_gap-$seed; done
    python scripts/recovery_table.py study-vgg16_gap-0 study-vgg16_gap-1 --dataset uoft-cs/cifar10

and the same with vgg16_bn_gap, without the second training of the start and with --lr 0.02. A study's robust models and
its standard model are its reference: TA is the accuracy on clean test images, RA the one under the corruption, recovery
(RA patched - RA standard) / (RA robust - RA standard), as a ratio of means over the corruptions and, beside it, as a
mean of ratios.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import timm
import torch
from tqdm import tqdm

import hf_rws
from hf_rws.bases import load_base
from hf_rws.corruptions import corrupt
from hf_rws.data.datasets import load_split
from hf_rws.data.sets import ImageSet
from hf_rws.evaluation import accuracy
from hf_rws.study.measuring import measure_scales, recovery, recovery_cell
from hf_rws.training.arguments import TrainingArguments

# (name, projection, bits): what is measured of every study
SETTINGS = (
    ("projected, 32 bits", "weights", None),
    ("projected, 4 bits", "weights", 4),
    ("projected, small", "weights", "small"),
    ("not projected, 32 bits", None, None),
)


@dataclass(frozen=True)
class Measured:
    """One study under one setting; accuracies in [0, 1], in the order of the corruptions."""

    study: str
    recipe: str
    architecture: str
    seed: int
    setting: str
    corruptions: tuple[str, ...]
    standard_ta: float
    standard_ra: tuple[float, ...]
    patched_ta: tuple[float, ...]
    patched_ra: tuple[float, ...]
    robust_ta: tuple[float, ...]
    robust_ra: tuple[float, ...]
    signature_nbytes: int
    base_nbytes: int

    @property
    def recovery(self) -> float:
        """Ratio of means over the corruptions."""
        return recovery(self.standard_ra, self.patched_ra, self.robust_ra)

    @property
    def mean_of_ratios(self) -> float:
        """Mean over the corruptions of each one's ratio."""
        rows = zip(self.standard_ra, self.patched_ra, self.robust_ra, strict=True)
        return mean(recovery([standard], [patched], [robust]) for standard, patched, robust in rows)


def measure(folder: Path, test: ImageSet, num_layers: int | None) -> list[Measured]:
    """All settings on one study."""
    robust_folders = sorted(folder.glob("robust-*"))
    corruptions = tuple(path.name.removeprefix("robust-") for path in robust_folders)
    start, base = load_base(folder / "pretrained").model, load_base(folder / "base")
    severity = base.training["severity"]
    standard_ta = accuracy(base.model, test)
    reference: list[tuple[float, float, float]] = []  # RA of the standard model, TA and RA of the robust one
    patched: dict[str, list[tuple[float, float]]] = {setting: [] for setting, _, _ in SETTINGS}  # TA and RA
    nbytes: dict[str, int] = {}
    for path, name in zip(tqdm(robust_folders, desc=folder.name), corruptions, strict=True):
        shown = replace(test, images=corrupt(test.images, name, severity))
        last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])["test_accuracy"]
        reference.append((accuracy(base.model, shown), last["clean"], last[f"{name}-{severity}"]))
        robust = load_base(path).model
        for setting, projection, bits in SETTINGS:
            signature = hf_rws.extract(
                robust, base.model, start,
                corruption=name, severity=severity, num_layers=num_layers, projection=projection, bits=bits,
            )  # fmt: skip
            (on,) = measure_scales(base.model, signature, test, shown, (1.0,))
            patched[setting].append((on["ta"], on["ra"]))
            nbytes[setting] = signature.nbytes
    fields = {key: value for key, value in base.training.items() if key in TrainingArguments.__dataclass_fields__}
    recipe = TrainingArguments(**fields).summary()
    standard_ra, robust_ta, robust_ra = zip(*reference, strict=True)
    base_nbytes = (folder / "base" / "model.safetensors").stat().st_size
    architecture, seed = base.training["architecture"], base.training["seed"]
    measured = []
    for setting, rows in patched.items():
        patched_ta, patched_ra = zip(*rows, strict=True)
        measured.append(
            Measured(
                folder.name,
                recipe,
                architecture,
                seed,
                setting,
                corruptions,
                standard_ta,
                standard_ra,
                patched_ta,
                patched_ra,
                robust_ta,
                robust_ra,
                nbytes[setting],
                base_nbytes,
            )
        )
    return measured


def table(measured: Sequence[Measured]) -> str:
    """Mean over the seeds ± half of their spread (largest minus smallest), per architecture and setting."""
    lines = [
        "| network | signature | seeds | TA | RA | recovery | mean of ratios | kB | smaller by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for architecture in dict.fromkeys(m.architecture for m in measured):
        own = [m for m in measured if m.architecture == architecture]
        first = [m for m in own if m.setting == own[0].setting]
        lines.append(_row(architecture, "none: standard model", first, "standard", [m.standard_ta for m in first]))
        lines.append(_row(architecture, "none: robust models", first, "robust", [mean(m.robust_ta) for m in first]))
        for setting in dict.fromkeys(m.setting for m in own):
            rows = [m for m in own if m.setting == setting]
            lines.append(_row(architecture, setting, rows, "patched", [mean(m.patched_ta) for m in rows]))
    return "\n".join(lines)


def _row(architecture: str, name: str, rows: Sequence[Measured], who: str, ta: Sequence[float]) -> str:
    cells = [architecture, name, str(len(rows)), _percent(ta), _percent([mean(getattr(m, f"{who}_ra")) for m in rows])]
    if who == "patched":
        size, base = rows[0].signature_nbytes, rows[0].base_nbytes
        gains = [m.recovery for m in rows], [m.mean_of_ratios for m in rows]
        cells += [recovery_cell(values, _spread(values)) for values in gains]
        cells += [f"{size / 1000:.0f}", f"{base / size:.0f}x"]
    else:
        cells += [""] * 4
    return f"| {' | '.join(cells)} |"


def _percent(values: Sequence[float]) -> str:
    return f"{100 * mean(values):.1f} ± {100 * (max(values) - min(values)) / 2:.1f}"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.2f} ± {(max(values) - min(values)) / 2:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", help="folders that scripts/train_study.py left")
    parser.add_argument("--dataset", default="uoft-cs/cifar10", help="its test split is used")
    parser.add_argument("--num-layers", type=int, help="default: 7")
    parser.add_argument("--output", type=Path, help="JSON with every number")
    arguments = parser.parse_args()
    test = load_split(arguments.dataset)
    measured = [row for folder in arguments.studies for row in measure(folder, test, arguments.num_layers)]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    cpu = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else None
    about = {
        "n": len(test), "commit": commit, "cpu": cpu, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "timm": timm.__version__, "hf_rws": hf_rws.__version__,
    }  # fmt: skip
    print(table(measured))
    for recipe in dict.fromkeys(f"{m.architecture}: {m.recipe}" for m in measured):
        print(f"\n{recipe}")
    print("\n± is half of the spread between seeds;", ", ".join(f"{key} {value}" for key, value in about.items()))
    if arguments.output:
        rows = [asdict(m) | {"recovery": m.recovery, "mean_of_ratios": m.mean_of_ratios} for m in measured]
        arguments.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
