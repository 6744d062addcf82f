r"""Make what the quickstart needs: a sample of CIFAR-10 and a small start trained on CIFAR-100.

    hf-rws train --model vgg16_bn_gap --model-arg width=0.25 --dataset uoft-cs/cifar100 --recipe short --epochs 8 \
        --lr 0.05 --output-dir cifar100-start
    python scripts/make_quickstart_data.py --cifar10 uoft-cs/cifar10 --start cifar100-start

The sample keeps the first images of each class, in the dataset's own order and encoding (lossless). The start is kept
in float16, which halves the file.
"""

import argparse
import json
import shutil
from pathlib import Path

import datasets
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent / "quickstart"
PER_CLASS = {"train": 400, "test": 100}


def sample(split: datasets.Dataset, label: str, per_class: int) -> datasets.Dataset:
    """The first `per_class` images of each class, in the dataset's order."""
    seen: dict[int, int] = {}
    rows = []
    for row, value in enumerate(split[label]):
        seen[value] = seen.get(value, 0) + 1
        if seen[value] <= per_class:
            rows.append(row)
    return split.select(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", default="uoft-cs/cifar10", help="Hub id or folder")
    parser.add_argument("--start", type=Path, required=True, help="folder that `hf-rws train` left")
    arguments = parser.parse_args()
    loaded = datasets.load_dataset(arguments.cifar10)
    for name, per_class in PER_CLASS.items():
        rows = sample(loaded[name], "label", per_class)
        rows.to_parquet(str(_made(HERE / "cifar10-sample") / f"{name}-00000-of-00001.parquet"))
    start = _made(HERE / "start")
    weights = {
        name: v.half() if v.is_floating_point() else v
        for name, v in load_file(arguments.start / "model.safetensors").items()
    }
    save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(arguments.start / "config.json", start / "config.json")
    record = json.loads((arguments.start / "training_args.json").read_text())
    (start / "training_args.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
