"""Time `hf_rws.corruptions` against per-image code and against other libraries, one thread, in one run.

    python scripts/bench_corruptions.py --size 32
    python scripts/bench_corruptions.py --device cuda --images 10000

The first needs scipy, scikit-image and opencv-python-headless for the per-image code (`per_image_corruptions.py`: the
same definitions and constants). `imagecorruptions-imaug` (which needs numba) and `corrupt-tta` are timed too where they
are installed. Both carry ImageNet-C's constants only, so below 128 px none of their rows is like for like, and from
there on those that do what is published; the table marks each with `=`.

Each round times all contestants in turn on the same images; shown are medians over the rounds of CPU time per image,
the mean change in grey levels (which tells whether two contestants do the same thing) and how many times ours the time
of the per-image code and of the fastest other contestant is. The result is written to scripts/results.

The second times whole batches on a device: images per second with the contract on seeds, and without it (`generator=`).
"""

import argparse
import importlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import torch

from hf_rws.corruptions import available, corrupt
from hf_rws.corruptions.batch import parameter_set
from hf_rws.corruptions.definition import IMAGENET
from hf_rws.corruptions.registry import find
from hf_rws.study.provenance import about

SEED = 0
OURS, PER_IMAGE = "hf_rws", "per image"
# The published scripts call ImageMagick for their motion blur; the per-image code does the same in NumPy.
NOT_THE_SAME_CALLS = {"motion_blur", "snow"}
# Module, and what it does otherwise than published: pictures of frost that are read each time, swaps for copies, a box
# for a Gaussian along the motion, a fog of one roughness, drops of its own, displacements of its own.
LIBRARIES = {
    "imagecorruptions-imaug": ("imagecorruptions", {"frost", "elastic_transform"}),
    "corrupt-tta": (
        "corrupt_tta",
        {"frost", "glass_blur", "motion_blur", "snow", "fog", "spatter", "elastic_transform"},
    ),
}


@dataclass(frozen=True)
class Contestant:
    """Corrupts (N, H, W, 3) uint8 images; whether as published and with the constants for this size."""

    label: str
    run: Callable[[np.ndarray], np.ndarray]
    like_for_like: bool


def smooth_images(count: int, size: int) -> np.ndarray:
    """(N, H, W, 3) uint8: blurred noise, as a stand-in for photographs."""
    coarse = torch.from_numpy(np.random.default_rng(SEED).random((count, 3, 9, 9)))
    images = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1) * 255
    return images.permute(0, 2, 3, 1).contiguous().to(torch.uint8).numpy()


def one_by_one(corrupt_image: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    def run(images: np.ndarray) -> np.ndarray:
        result = np.empty_like(images)
        for image, place in zip(images, result, strict=True):
            place[...] = corrupt_image(image)
        return result

    return run


def contestants(name: str, severity: int, size: int) -> Iterator[Contestant]:
    import per_image_corruptions

    parameters = parameter_set("auto", size)
    constants = find(name).constants[parameters][severity - 1]
    corrupt_image = getattr(per_image_corruptions, name)
    yield Contestant(OURS, lambda images: corrupt(images, name, severity, seed=SEED), True)
    yield Contestant(
        PER_IMAGE, one_by_one(lambda image: corrupt_image(image, constants)), name not in NOT_THE_SAME_CALLS
    )
    for label, (module, differ) in LIBRARIES.items():
        try:
            theirs = importlib.import_module(module).corrupt
        except ImportError:
            continue
        call = one_by_one(lambda image, theirs=theirs: theirs(image, severity=severity, corruption_name=name))
        yield Contestant(label, call, parameters == IMAGENET and name not in differ)


def seconds_taken(contestant: Contestant, images: np.ndarray) -> float:
    start = time.process_time()
    contestant.run(images)
    return time.process_time() - start


def how_many(contestant: Contestant, images: np.ndarray, seconds: float) -> int:
    """Of how many images it takes about so long to corrupt them. The first call, which may compile, does not count."""
    contestant.run(images[:2])
    count = 2
    while (taken := seconds_taken(contestant, images[:count])) < seconds / 3 and count < len(images):
        count = min(len(images), max(2 * count, int(count * seconds / max(taken, 1e-6))))
    return count


def compare(name: str, options: argparse.Namespace, images: np.ndarray) -> dict[str, dict[str, float | bool]]:
    """For each contestant the median of its time, its change, and whether it is like for like."""
    racing = list(contestants(name, options.severity, options.size))
    counts = [how_many(contestant, images, options.seconds) for contestant in racing]
    rounds = [
        [
            1000 * seconds_taken(contestant, images[:count]) / count
            for contestant, count in zip(racing, counts, strict=True)
        ]
        for _ in range(options.rounds)
    ]
    times = [statistics.median(column) for column in zip(*rounds, strict=True)]
    shown = images[: max(2, min(counts))]
    changes = [float(abs(c.run(shown).astype(np.int16) - shown).mean()) for c in racing]
    return {
        contestant.label: {"ms": round(ms, 5), "change": round(change, 2), "like_for_like": contestant.like_for_like}
        for contestant, ms, change in zip(racing, times, changes, strict=True)
    }


def print_comparison(results: dict[str, dict[str, dict[str, float | bool]]]) -> None:
    labels = list(next(iter(results.values())))
    print("| corruption | " + " | ".join(labels) + " | per image / ours | fastest other / ours |")
    print("|---|" + "---|" * (len(labels) + 2))
    for name, row in results.items():
        ours = row[OURS]["ms"]
        cells = [
            f"{cell['ms']:.4f} ({cell['change']:.1f}{', =' if cell['like_for_like'] else ''})" for cell in row.values()
        ]
        fastest = min((cell["ms"], label) for label, cell in row.items() if label != OURS)
        print(
            f"| {name} | {' | '.join(cells)} | {row[PER_IMAGE]['ms'] / ours:.2f} "
            f"| {fastest[0] / ours:.2f} {fastest[1]} |"
        )
    totals = {label: sum(row[label]["ms"] for row in results.values()) for label in labels}
    for label, total in totals.items():
        print(f"{label}: {total:.3f} ms an image for all {len(results)}, {total / totals[OURS]:.1f} times ours")


def throughput(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Images per second of each corruption on a device, wall-clock medians, after one call to warm up."""
    device = torch.device(options.device)
    images = torch.from_numpy(smooth_images(options.images, options.size)).permute(0, 3, 1, 2).contiguous().to(device)
    generator = torch.Generator(device).manual_seed(SEED)
    synchronize = torch.get_device_module(device).synchronize

    def per_second(name: str, **how: object) -> float:
        times = []
        for _ in range(options.rounds + 1):
            synchronize()
            start = time.perf_counter()
            corrupt(images, name, options.severity, **how)
            synchronize()
            times.append(time.perf_counter() - start)
        return len(images) / statistics.median(times[1:])

    return {
        name: {"seeded": per_second(name, seed=SEED), "generator": per_second(name, generator=generator)}
        for name in available()
    }


def print_throughput(results: dict[str, dict[str, float]], count: int) -> None:
    print("| corruption | images/s, seeded | images/s, generator |\n|---|---|---|")
    for name, row in results.items():
        print(f"| {name} | {row['seeded']:,.0f} | {row['generator']:,.0f} |")
    for way in ("seeded", "generator"):
        seconds = sum(count / row[way] for row in results.values())
        print(f"{way}: {seconds:.2f} s for {len(results)} corruptions of {count} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--severity", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000, help="the most that one measurement takes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="about how long one measurement takes")
    parser.add_argument("--device", help="time whole batches on this device instead")
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()

    described = {"size": options.size, "severity": options.severity, "seed": SEED, "rounds": options.rounds}
    if options.device:
        results = throughput(options)
        print_throughput(results, options.images)
        device = torch.device(options.device)
        described["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        described["unit"] = "images per second"
    else:
        import cv2
        import scipy
        import skimage

        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        images = smooth_images(options.images, options.size)
        results = {name: compare(name, options, images) for name in available()}
        print_comparison(results)
        modules = {"numpy": np, "scipy": scipy, "scikit-image": skimage, "opencv": cv2}
        described |= {label: module.__version__ for label, module in modules.items()}
        described |= {label: version(label) for label in LIBRARIES if find_spec(LIBRARIES[label][0])}
        described["unit"] = "CPU milliseconds per image, medians"

    name = f"corruptions_{options.size}{'_' + options.device.replace(':', '') if options.device else ''}.json"
    options.output_dir.mkdir(parents=True, exist_ok=True)
    record = {"about": about(options.images, **described), "rows": results}
    (options.output_dir / name).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
