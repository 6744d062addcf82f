"""Measure how much memory corrupting many images takes beyond them and the result.

    python scripts/memory_corruptions.py

For each corruption a process of its own makes the images, lets the kernel forget the peak so far, corrupts all of them
in one call and reads the peak (Linux only). The numbers include what torch loads and allocates at the first use of an
operation. They are written to scripts/results/corruptions_memory.json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from hf_rws.corruptions import available, corrupt
from hf_rws.study.provenance import about

MEGABYTE = 1e6


def status(field: str) -> float:
    """Megabytes of a field of /proc/self/status: VmRSS, what is in use now, or VmHWM, the peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / MEGABYTE


def extra_megabytes(name: str, count: int, size: int, severity: int) -> float:
    """Peak of one call in this process, beyond the images and the result."""
    torch.set_num_threads(1)
    images = np.empty((count, size, size, 3), np.uint8)
    for image in images:
        image[...] = np.arange(size * size * 3).reshape(image.shape) % 251
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    before = status("VmRSS")
    result = corrupt(images, name, severity)
    return status("VmHWM") - before - result.nbytes / MEGABYTE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--severity", type=int, default=5)
    parser.add_argument("--one", metavar="CORRUPTION", help="measure this one, in this process")
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.one:
        print(extra_megabytes(options.one, options.images, options.size, options.severity))
        return

    size = [f"--{key}={getattr(options, key)}" for key in ("images", "size", "severity")]
    rows = {}
    for name in available():
        command = [sys.executable, __file__, f"--one={name}", *size]
        rows[name] = round(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout), 1)
        print(f"{name}: {rows[name]} MB", flush=True)
    print(f"most: {max(rows.values())} MB")
    described = {"size": options.size, "severity": options.severity, "unit": "MB beyond images and result"}
    record = {"about": about(options.images, **described), "rows": rows}
    (options.output_dir / "corruptions_memory.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
