"""Write the golden data of the corruption tests: `python scripts/make_golden.py` from the repository's root.

`tests/data/corruptions.npz` holds two clean images and what the definitions in `tests/corruptions/reference.py` (not
the library) make of them at severity 5, with the library's random draws for seed 0; `corruptions_bar.npz` the same of
one image for the corruptions of C-bar.
`tests/data/corruption_digests.json` holds sha256 digests of the library's results for those corruptions that are
computed in integers, or decided by thresholds that no rounding comes near.

Run it only when random streams or definitions change on purpose, and say so in the changelog: results published with
earlier versions cannot be compared with later ones.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hf_rws.corruptions import BAR, CORRUPTIONS, corrupt  # noqa: E402
from hf_rws.corruptions.frost import FOLDER_VARIABLE  # noqa: E402
from tests.corruptions.by_definition import by_definition  # noqa: E402
from tests.corruptions.pictures import pictures, write_frost  # noqa: E402

INTEGER = ("shot_noise", "impulse_noise", "contrast", "pixelate", "jpeg_compression")
THRESHOLDS = ("blue_noise_sample", "checkerboard_cutout")


def main() -> None:
    clean = pictures(2, seed=7)
    golden = {"clean": clean}
    with tempfile.TemporaryDirectory() as folder:
        write_frost(Path(folder))
        os.environ[FOLDER_VARIABLE] = folder
        for name in CORRUPTIONS:
            golden[name] = by_definition(name, clean, severity=5, parameters="cifar")
    data = ROOT / "tests" / "data"
    np.savez_compressed(data / "corruptions.npz", **golden)
    bar = {name: by_definition(name, clean[:1], severity=5, parameters="cifar") for name in BAR}
    np.savez_compressed(data / "corruptions_bar.npz", **bar)
    digests = {
        name: hashlib.sha256(corrupt(torch.from_numpy(clean), name).numpy().tobytes()).hexdigest()
        for name in INTEGER + THRESHOLDS
    }
    (data / "corruption_digests.json").write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    main()
