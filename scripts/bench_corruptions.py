"""Time `hf_rws.corruptions` against per-image code and against other libraries, one thread, in one run.

    python scripts/bench_corruptions.py --size 32 --output-dir outputs/bench

needs scipy, scikit-image and opencv-python-headless for the per-image code (`per_image_corruptions.py`: the same
definitions and constants, so like for like; but for motion blur and snow, where the published scripts call ImageMagick
and this one NumPy). `imagecorruptions-imaug` and `corrupt-tta` are timed too where they are installed: not like for
like, for they use the constants of ImageNet-C at every size.

Each round times all contestants in turn on the same images; printed are medians of CPU time per image over the rounds,
and the mean change in grey levels, which shows whether two contestants do the same thing.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import per_image_corruptions
import torch

import hf_rws
from hf_rws.corruptions import available, corrupt
from hf_rws.corruptions.batch import parameter_set
from hf_rws.corruptions.registry import find

OTHER_LIBRARIES = ("imagecorruptions", "corrupt_tta")
NOT_LIKE_FOR_LIKE = ("motion_blur", "snow")
OURS, PER_IMAGE = "hf_rws", "per image"
Contestant = Callable[[np.ndarray], np.ndarray]


def smooth_images(count: int, size: int) -> np.ndarray:
    """(N, H, W, 3) uint8: blurred noise, as a stand-in for photographs."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((count, 3, 9, 9)))
    images = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1) * 255
    return images.permute(0, 2, 3, 1).contiguous().to(torch.uint8).numpy()


def contestants(name: str, severity: int, size: int) -> dict[str, Contestant]:
    constants = find(name).constants[parameter_set("auto", size)][severity - 1]
    one_image = getattr(per_image_corruptions, name)
    result: dict[str, Contestant] = {
        OURS: lambda images: corrupt(images, name, severity),
        PER_IMAGE: lambda images: np.stack([one_image(image, constants) for image in images]),
    }
    for library in OTHER_LIBRARIES:
        try:
            theirs = importlib.import_module(library).corrupt
        except ImportError:
            continue
        result[library] = lambda images, theirs=theirs: np.stack(
            [theirs(image, severity=severity, corruption_name=name) for image in images]
        )
    return result


def measure(run: Contestant, images: np.ndarray, seconds: float) -> tuple[float, float]:
    """CPU milliseconds per image, and the mean change; of as many images as take about `seconds`."""
    count = 2
    while True:
        batch = images[:count]
        start = time.process_time()
        result = run(batch)
        elapsed = time.process_time() - start
        if elapsed > seconds / 3 or count >= len(images):
            return 1000 * elapsed / count, float(abs(result.astype(np.int16) - batch).mean())
        count = min(len(images), max(2 * count, int(count * seconds / max(elapsed, 1e-6))))


def compare(name: str, options: argparse.Namespace, images: np.ndarray) -> dict[str, dict[str, float]]:
    """For each contestant that works the medians of its time and its change."""
    runs = {}
    for label, run in contestants(name, options.severity, options.size).items():
        try:
            run(images[:2])
            runs[label] = run
        except Exception as error:  # other libraries fail in their own ways
            print(f"{label} fails at {name}: {type(error).__name__}: {error}")
    rounds = [
        {label: measure(run, images, options.seconds) for label, run in runs.items()} for _ in range(options.rounds)
    ]
    return {
        label: {
            "ms": statistics.median(found[label][0] for found in rounds),
            "change": statistics.median(found[label][1] for found in rounds),
        }
        for label in runs
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--severity", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="about how long one measurement takes")
    parser.add_argument("--output-dir", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    images = smooth_images(options.images, options.size)
    results = {name: compare(name, options, images) for name in available()}
    labels = list(dict.fromkeys(label for row in results.values() for label in row))

    print(f"\nms per image (mean change), {options.size} px, severity {options.severity}, {options.rounds} rounds")
    print("| corruption | " + " | ".join(labels) + " | per image / hf_rws | like for like |")
    print("|---|" + "---|" * (len(labels) + 2))
    for name, row in results.items():
        cells = [
            f"{row[label]['ms']:.4f} ({row[label]['change']:.1f})" if label in row else "fails" for label in labels
        ]
        like = "no: NumPy for ImageMagick" if name in NOT_LIKE_FOR_LIKE else "yes"
        print(f"| {name} | {' | '.join(cells)} | {row[PER_IMAGE]['ms'] / row[OURS]['ms']:.1f} | {like} |")
    for label in labels:
        shared = [row for row in results.values() if label in row]
        total, ours = (sum(row[which]["ms"] for row in shared) for which in (label, OURS))
        print(f"{label}: {total:.3f} ms for {len(shared)} corruptions, hf_rws {ours:.3f}: {total / ours:.1f} times")

    if options.output_dir:
        options.output_dir.mkdir(parents=True, exist_ok=True)
        versions = {"hf_rws": hf_rws.__version__, "torch": torch.__version__, "numpy": np.__version__}
        record = {
            "size": options.size,
            "severity": options.severity,
            "rounds": options.rounds,
            "machine": platform.machine(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "versions": {**versions, "opencv": cv2.__version__},
            "ms_per_image": results,
        }
        path = options.output_dir / f"corruptions_{options.size}.json"
        path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
