"""Draw all corruptions at all severities: the picture of the guide, scripts/results/corruptions.png.

    python scripts/corruption_sheet.py

Another picture, of any size: `--image photo.jpg --size 224`. Frost needs `pip install "hf-rws[frost]"`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hf_rws._choices import SEVERITIES
from hf_rws.corruptions import available, corrupt
from hf_rws.data.datasets import load_split
from hf_rws.data.pictures import as_array
from hf_rws.data.preprocessing import resolve
from hf_rws.plots import corruption_sheet

SCRIPTS = Path(__file__).resolve().parent
SAMPLE = SCRIPTS / "quickstart" / "cifar10-sample"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", type=int, default=857, help="which test image of the CIFAR-10 sample")
    parser.add_argument("--image", type=Path, help="a picture instead")
    parser.add_argument("--size", type=int, help="resize and crop the picture to this")
    parser.add_argument("--output", type=Path, default=SCRIPTS / "results" / "corruptions.png")
    arguments = parser.parse_args()
    if arguments.image:
        with Image.open(arguments.image) as picture:
            clean = torch.from_numpy(np.array(as_array(picture, resolve(None, arguments.size))))
    else:
        clean = load_split(str(SAMPLE)).images[arguments.index]
    corruption_sheet({name: row(clean, name) for name in available()}, save=arguments.output)


def row(clean: Tensor, name: str) -> Tensor:
    """The clean image and one of each severity, (6, 3, H, W)."""
    return torch.stack([clean, *(corrupt(clean, name, severity) for severity in SEVERITIES)])


if __name__ == "__main__":
    main()
