r"""How few bits does a signature need? The table behind the presets.

    python scripts/bits_table.py study-vgg16_bn_gap-0 study-resnet18-0 --dataset uoft-cs/cifar10 --test-images 2000

For each study (a folder that scripts/train_study.py left) the mean over its corruptions of TA and RA with the extracted
signature at every setting, the difference of its RA from that of float32 deltas of 7 layers, and the size that the same
setting has at the network's full width.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import timm
import torch
from tqdm import tqdm

import hf_rws
from hf_rws.data.datasets import load_split
from hf_rws.signature.signature import Signature
from hf_rws.study.layout import StudyFolder
from hf_rws.study.measuring import StudyImages, patched
from hf_rws.study.provenance import about

Settings = tuple[tuple[int, Any, str], ...]
# (layers, bits, codec); the first is what the others are compared with
SETTINGS: Settings = (
    (7, None, "symmetric"),
    (7, 8, "symmetric"),
    (7, 4, "symmetric"),
    (7, 3, "symmetric"),
    (7, 2, "symmetric"),
    (7, "ternary", "symmetric"),
    (7, 1, "symmetric"),
    (7, 3, "linear"),
    (7, 2, "linear"),
    (7, 4, "log"),
    (7, "small", "symmetric"),
    (7, "tiny", "symmetric"),
    (7, (6, 5, 4, 4, 3, "ternary", "ternary"), "symmetric"),
    (7, (8, 8, 4, 4, 3, 2, 2), "symmetric"),
    (7, (8, 8, 4, 4, "ternary", 1, 1), "symmetric"),
    (7, (8, 6, 4, 3, 1, 1, 1), "symmetric"),
    (6, (8, 8, 4, 4, "ternary", 1), "symmetric"),
    (6, (8, 6, 4, 3, "ternary", 1), "symmetric"),
    (5, (8, 8, 4, 4, 3), "symmetric"),
    (5, (8, 8, 4, 4, "ternary"), "symmetric"),
)
PRESETS = tuple(
    setting for setting in SETTINGS if setting[1] in (None, 4, "small", "tiny") and setting[2] == "symmetric"
)
SHORTCUTS_AT_8 = "symmetric, 1x1 convs of shortcuts at 8 bits"  # only where there are such


@dataclass(frozen=True)
class Row:
    """One setting on one study; accuracies in [0, 1], means over the corruptions; sizes in bytes at full width."""

    study: str
    architecture: str
    layers: int
    bits: Any
    codec: str
    ta: float
    ra: float
    per_corruption: dict[str, float]
    full_nbytes: int
    full_copy_nbytes: int


def full_width_sizes(architecture: str, settings: Settings) -> tuple[int, list[int]]:
    """Bytes of a full float32 copy, and of a signature at each setting."""
    model = timm.create_model(architecture, num_classes=10)
    copy = sum(4 * value.numel() for value in model.state_dict().values())
    sizes = []
    for layers, bits, codec in settings:
        zero = hf_rws.extract(model, model, None, corruption="x", projection=None, num_layers=layers, bits=None)
        sizes.append(stored(zero, bits, codec)[1])
    return copy, sizes


def stored(wide: Signature, bits: Any, codec: str) -> tuple[Signature, int]:
    """A float32 signature at a setting, and its bytes."""
    if bits is None:
        return wide, wide.nbytes
    if codec != SHORTCUTS_AT_8:
        signature = wide.quantize(bits, codec=codec)
        return signature, signature.nbytes
    narrow, eight = wide.quantize(bits), wide.quantize(8)
    shortcuts = [s for s in narrow.config.tensors if s.kind == "weight" and "downsample" in s.name]
    more = sum(s.numel - s.sizes("symmetric")["codes"] for s in shortcuts)
    deltas = narrow.deltas() | {s.name: eight.delta(s.name) for s in shortcuts}
    return Signature.from_deltas(deltas, wide.config.with_bits(None)), narrow.nbytes + more


def measure(study: StudyFolder, test: StudyImages, settings: Settings) -> list[Row]:
    base = study.base().to(test.clean.images.device)
    architecture = study.training["architecture"]
    if any("downsample" in name for name in base.state_dict()):
        settings += tuple((layers, bits, SHORTCUTS_AT_8) for layers, bits, _ in settings if bits in ("small", "tiny"))
    copy, sizes = full_width_sizes(architecture, settings)
    found: list[list[tuple[float, float]]] = [[] for _ in settings]
    wide = {layers: list(study.signatures(num_layers=layers, bits=None)) for layers, _, _ in settings}
    for index, name in enumerate(tqdm(study.corruptions, desc=study.folder.name)):
        for rows, (layers, bits, codec) in zip(found, settings, strict=True):
            signature, _ = stored(wide[layers][index], bits, codec)
            patcher = patched(base, [signature])
            patcher.set({name: 1.0})
            rows.append((test.ta(base), test.ra(base, name)))
            patcher.clear()
            patcher.bake()
    result = []
    for setting, size, rows in zip(settings, sizes, found, strict=True):
        tas, ras = zip(*rows, strict=True)
        by_name = dict(zip(study.corruptions, ras, strict=True))
        result.append(Row(study.folder.name, architecture, *setting, mean(tas), mean(ras), by_name, size, copy))
    return result


def table(rows: list[Row]) -> str:
    lines = [
        "| study | layers | bits | codec | TA | RA | RA - float32 | kB at full width | smaller by |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        reference = next(other for other in rows if other.study == row.study)
        lines.append(
            f"| {row.study} | {row.layers} | {_words(row.bits)} | {row.codec} | {100 * row.ta:.2f} | "
            f"{100 * row.ra:.2f} | {100 * (row.ra - reference.ra):+.2f} | {row.full_nbytes / 1000:.0f} | "
            f"{row.full_copy_nbytes / row.full_nbytes:.0f}x |"
        )
    return "\n".join(lines)


def _words(bits: Any) -> str:
    return (
        ",".join("t" if b == "ternary" else str(b) for b in bits) if isinstance(bits, tuple) else str(bits or "float32")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", help="folders that scripts/train_study.py left")
    parser.add_argument("--dataset", default="uoft-cs/cifar10", help="its test split is used")
    parser.add_argument("--test-images", type=int, help="use only the first so many")
    parser.add_argument("--presets-only", action="store_true", help="measure the presets and float32 only")
    parser.add_argument("--output", type=Path, help="JSON with every number")
    options = parser.parse_args()
    test = load_split(options.dataset).subset(slice(options.test_images))
    rows = []
    for folder in options.studies:
        study = StudyFolder(folder)
        rows += measure(study, StudyImages(test, study.severity), PRESETS if options.presets_only else SETTINGS)
    print(table(rows))
    if options.output:
        record = {"about": about(len(test)), "rows": [asdict(row) for row in rows]}
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
