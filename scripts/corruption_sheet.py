"""Draw all corruptions: the picture of the guide, all severities of a small image, and one severity of a photograph.

    python scripts/corruption_sheet.py
    python scripts/corruption_sheet.py --dataset ../shared/data/photos --index 38 --size 224 --severity 5
    python scripts/corruption_sheet.py --family bar --output bar.png

The first writes scripts/results/corruptions.png, from the CIFAR-10 sample. The second writes
scripts/results/corruptions_photo.jpg: test image 38 of a dataset that is not part of this repository, a folder or an id
as `hf_rws` takes it, corrupted at 224 pixels with ImageNet-C's constants and then shrunk to a tile. The third draws the
corruptions of C-bar instead. A picture of your own: `--image photo.jpg --size 224`. Frost needs
`pip install "hf-rws[frost]"`; without it, there are 18.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hf_rws._choices import SEVERITIES
from hf_rws.corruptions import BAR, available, corrupt
from hf_rws.data.datasets import load_split
from hf_rws.data.pictures import as_array
from hf_rws.data.preprocessing import resolve
from hf_rws.plots import corruption_sheet

SCRIPTS = Path(__file__).resolve().parent
SAMPLE = SCRIPTS / "quickstart" / "cifar10-sample"
TILE, LINE, ACROSS = 160, 20, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default=str(SAMPLE), help="by default the CIFAR-10 sample")
    parser.add_argument("--index", type=int, default=857, help="which of its test images")
    parser.add_argument("--image", type=Path, help="a picture instead")
    parser.add_argument("--size", type=int, help="resize and crop the picture to this")
    parser.add_argument("--severity", type=int, choices=SEVERITIES, help="this one only, on tiles")
    parser.add_argument("--family", choices=("all", "bar"), default="all", help="the 19, or those of C-bar")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    names = BAR if arguments.family == "bar" else available()
    written = "corruptions_bar" if arguments.family == "bar" else "corruptions"
    if arguments.image:
        with Image.open(arguments.image) as picture:
            clean = torch.from_numpy(np.array(as_array(picture, resolve(None, arguments.size))))
    else:
        clean = load_split(arguments.dataset, image_size=arguments.size).images[arguments.index]
    if arguments.severity:
        output = arguments.output or SCRIPTS / "results" / f"{written}_photo.jpg"
        tiles(clean, names, arguments.severity).save(output, quality=88)
    else:
        output = arguments.output or SCRIPTS / "results" / f"{written}.png"
        corruption_sheet({name: row(clean, name) for name in names}, save=output)


def row(clean: Tensor, name: str) -> Tensor:
    """The clean image and one of each severity, (6, 3, H, W)."""
    return torch.stack([clean, *(corrupt(clean, name, severity) for severity in SEVERITIES)])


def tiles(clean: Tensor, corruptions: tuple[str, ...], severity: int) -> Image.Image:
    """The clean image and each corruption of it at one severity, side by side, each under its name."""
    names = ("clean", *corruptions)
    page = Image.new("RGB", (ACROSS * TILE, -(-len(names) // ACROSS) * (LINE + TILE)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for place, name in enumerate(names):
        left, top = place % ACROSS * TILE, place // ACROSS * (LINE + TILE)
        draw.text((left + TILE / 2, top + LINE / 2), name.replace("_", " "), "black", font, anchor="mm")
        shown = clean if name == "clean" else corrupt(clean, name, severity)
        picture = Image.fromarray(shown.permute(1, 2, 0).numpy()).resize((TILE - 2, TILE - 2), Image.Resampling.BICUBIC)
        page.paste(picture, (left + 1, top + LINE))
    return page


if __name__ == "__main__":
    main()
