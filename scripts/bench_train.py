r"""Images a second of a training, where its time goes, and how many times those of a straightforward loop that is.

    python scripts/bench_train.py --dataset uoft-cs/cifar10
    python scripts/bench_train.py --device cuda --width 1 --images 12800 --compile

The network is `vgg16_bn_gap`. Contestants, of the same network, precision, batch, optimizer and augmentation (crops and
flips), which take turns in every round on the same images:

- hf_rws: our trainer with its default of one draw of the corruption per image.
- fresh draws: the same with new draws every epoch, as the loop has them.
- compiled: the first with the network through `torch.compile` (--compile).
- loop: a DataLoader whose workers corrupt each image, crop, flip, `ToTensor` and `Normalize` it with torchvision's
  transforms on PIL images, as the published code does, and a loop of forward, backward and step. Corruptions are those
  of `per_image_corruptions.py`, of which many need scipy, scikit-image and opencv-python-headless.

Timed is training itself: the epochs and the making of their images, not validation, test and checkpoints, which the
loop has not either, nor the start of its workers. Shown are medians over the rounds after a first one that does not
count, and the median of the ratios of each round; by the clock, and on a CPU also by the CPU time of all processes,
which says more on a busy machine. Shares are from a further run of our trainer that stops the time of each part.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import timm
import torch
from bench_distill import Clock
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from hf_rws._accelerator import resolve_device, resolve_precision, training_on
from hf_rws._choices import CORRUPTIONS, PRECISIONS
from hf_rws.corruptions.batch import parameter_set
from hf_rws.corruptions.registry import find
from hf_rws.data import load_splits
from hf_rws.data.preprocessing import Normalize
from hf_rws.data.sets import ImageSet, Splits
from hf_rws.study.provenance import about
from hf_rws.training import augmentation, trainer
from hf_rws.training import pixels as pixels_module
from hf_rws.training.arguments import TrainingArguments

SIZE, CLASSES, SEVERITY = 32, 10, 5
MODEL = "vgg16_bn_gap"
OURS, FRESH, COMPILED, LOOP = "hf_rws", "fresh draws", "compiled", "loop"


class Stopwatch:
    """Seconds by the clock and CPU seconds of this process and its children, of what runs within."""

    def __init__(self, device: torch.device) -> None:
        self.wall = self.cpu = 0.0
        self._device = device

    def _now(self) -> tuple[float, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        here = psutil.Process()
        spent = [process.cpu_times() for process in (here, *here.children(recursive=True))]
        return time.perf_counter(), sum(each.user + each.system for each in spent)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within, time counts."""
        wall, cpu = self._now()
        yield
        now = self._now()
        self.wall, self.cpu = self.wall + now[0] - wall, self.cpu + now[1] - cpu


@contextmanager
def replaced(changes: dict[tuple[Any, str], Callable[..., Any]]) -> Iterator[None]:
    """Within, attributes of modules and classes are others, made from what they were."""
    before = {place: getattr(*place) for place in changes}
    try:
        for (owner, name), change in changes.items():
            setattr(owner, name, change(before[owner, name]))
        yield
    finally:
        for (owner, name), value in before.items():
            setattr(owner, name, value)


def within(context: Callable[[], Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, run in a context of its own each time."""

    def wrapped(*given: Any, **options: Any) -> Any:
        with context():
            return function(*given, **options)

    return wrapped


class Trainer:
    """Our trainer on a network that goes on from run to run."""

    def __init__(
        self, options: argparse.Namespace, data: Splits, *, fresh: bool = False, compiled: bool = False
    ) -> None:
        self.model, self.data, self.device = network(options, data), data, resolve_device(options.device)
        self.arguments = arguments(options, fresh_corruption=fresh)
        if compiled:
            self.model.compile()

    def train(self) -> None:
        """One run, in a folder that is not kept."""
        with tempfile.TemporaryDirectory() as folder, training_on(str(self.device)):
            trainer.train(self.model, self.data, Path(folder, "run"), self.arguments)

    def time(self) -> Stopwatch:
        """The time of the epochs and of their images in one run."""
        watch = Stopwatch(self.device)
        parts = ("train_epoch", "_training_pixels")
        depth = 0

        @contextmanager
        def counted() -> Iterator[None]:  # an epoch with fresh draws makes its images within
            nonlocal depth
            depth += 1
            try:
                with watch.running() if depth == 1 else _nothing():
                    yield
            finally:
                depth -= 1

        with replaced({(trainer._TrainingRun, name): partial(within, counted) for name in parts}):
            self.train()
        return watch

    def shares(self) -> dict[str, float]:
        """The share of each part of a run's epochs and the making of their images."""
        clock, counting = Clock(self.device), False

        @contextmanager
        def counted(name: str) -> Iterator[None]:
            nonlocal counting
            before, counting = counting, True
            try:
                with clock.part(name):
                    yield
            finally:
                counting = before

        def part(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            timed = clock.timed(name, function)
            return lambda *given, **options: (timed if counting else function)(*given, **options)

        run, pixels = trainer._TrainingRun, pixels_module.Pixels
        with replaced(
            {
                (run, "train_epoch"): partial(within, partial(counted, "network and optimizer")),
                (run, "_training_pixels"): partial(within, partial(counted, "images")),
                (pixels, "__call__"): partial(part, "images"),
                (pixels_module, "corrupt"): partial(part, "corruption"),
                (augmentation, "draw"): partial(part, "augmentation"),
                (augmentation, "apply"): partial(part, "augmentation"),
                (Normalize, "forward"): partial(part, "normalisation"),
            }
        ):
            self.train()
        total = sum(clock.seconds.values())
        return {name: seconds / total for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1])}


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class PerImage(Dataset[Any]):
    """Images one by one through PIL transforms."""

    def __init__(self, images: ImageSet, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images, self.labels = images.images.permute(0, 2, 3, 1).contiguous().numpy(), images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class Loop:
    """The straightforward loop."""

    def __init__(self, options: argparse.Namespace, data: Splits) -> None:
        self.model, self.device = network(options, data).train(), resolve_device(options.device)
        self.arguments = arguments(options)
        self.precision = resolve_precision(self.arguments.mixed_precision, self.device.type)
        self.model.to(self.device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=self.arguments.lr,
            momentum=self.arguments.momentum,
            nesterov=self.arguments.nesterov,
            weight_decay=self.arguments.weight_decay,
        )
        config: Any = self.model.pretrained_cfg
        steps = [
            *([transforms.Lambda(per_image(options.corruption))] if options.corruption != "none" else []),
            transforms.RandomCrop(SIZE, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(config["mean"], config["std"]),
        ]
        self.loader = DataLoader(
            PerImage(data.train, transforms.Compose(steps)),
            batch_size=options.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=options.workers,
            persistent_workers=options.workers > 0,
            pin_memory=self.device.type == "cuda",
        )

    def time(self) -> Stopwatch:
        """The time of as many epochs as our trainer's runs have."""
        watch = Stopwatch(self.device)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        with watch.running():
            for images, labels in (batch for _ in range(self.arguments.epochs) for batch in self.loader):
                images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
                with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
                    loss = F.cross_entropy(self.model(images), labels)
                scaler.scale(loss).backward()
                scaler.step(self.optimizer)
                scaler.update()
                self.optimizer.zero_grad()
        return watch


def per_image(name: str) -> Callable[[Image.Image], Image.Image]:
    """A corruption of one picture."""
    try:
        import per_image_corruptions as corruptions
    except ImportError:
        import per_image_plain as corruptions  # type: ignore[no-redef]
    function = getattr(corruptions, name, None)
    if function is None:
        raise SystemExit(f"{name} image by image needs scipy, scikit-image and opencv-python-headless, or --no-loop")
    constants = find(name).constants[parameter_set("auto", SIZE)][SEVERITY - 1]
    return lambda picture: Image.fromarray(function(np.asarray(picture), constants))


def network(options: argparse.Namespace, data: Splits) -> nn.Module:
    torch.manual_seed(0)
    model: Any = timm.create_model(MODEL, num_classes=len(data.train.classes), width=options.width)
    mean, std = data.train.mean_std()
    model.pretrained_cfg = dict(model.pretrained_cfg, input_size=(3, SIZE, SIZE), mean=mean, std=std, crop_pct=1.0)
    return model


def arguments(options: argparse.Namespace, **more: Any) -> TrainingArguments:
    corruption = () if options.corruption == "none" else (options.corruption,)
    return TrainingArguments.from_recipe(
        "short", corruption=corruption, severity=SEVERITY, epochs=options.epochs, batch_size=options.batch_size,
        mixed_precision=options.mixed_precision, augmentation="crop-flip", **more,
    )  # fmt: skip


def images_of(options: argparse.Namespace) -> Splits:
    if options.dataset is not None:
        data = load_splits(options.dataset, limit=options.images)
        return Splits(data.train, *(part.subset(torch.arange(100)) for part in (data.validation, data.test)))
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> ImageSet:
        pixels = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
        return ImageSet(pixels, torch.arange(count) % CLASSES, tuple(map(str, range(CLASSES))), "random")

    return Splits(drawn(options.images), drawn(100), drawn(100))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--width", type=float, default=0.25, help="of vgg16_bn_gap; 1 is VGG-16")
    parser.add_argument("--images", type=int, default=2560, help="of an epoch")
    parser.add_argument("--dataset", help="Hub id or folder of 32 px images, of which so many are drawn; else noise")
    parser.add_argument("--corruption", choices=(*CORRUPTIONS, "none"), default="fog")
    parser.add_argument("--epochs", type=int, default=2, help="of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--mixed-precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="of the loop's DataLoader")
    parser.add_argument("--compile", action="store_true", help="also with the network compiled")
    parser.add_argument("--no-loop", action="store_true", help="ours alone")
    parser.add_argument("--json", type=Path, help="add the result to the list in this file")
    options = parser.parse_args()
    data, device = images_of(options), resolve_device(options.device)
    contestants: dict[str, Trainer | Loop] = {OURS: Trainer(options, data)}
    if options.corruption != "none":
        contestants[FRESH] = Trainer(options, data, fresh=True)
    if options.compile:
        contestants[COMPILED] = Trainer(options, data, compiled=True)
    if not options.no_loop:
        contestants[LOOP] = Loop(options, data)
    rounds = [{name: each.time() for name, each in contestants.items()} for _ in range(options.rounds + 1)][1:]
    shares = Trainer(options, data).shares()
    seen = len(data.train) // options.batch_size * options.batch_size * options.epochs
    measures = ("wall", "cpu") if device.type == "cpu" else ("wall",)
    rows = {}
    print("| | images a second | " + " | ".join(f"times the loop's ({measure})" for measure in measures) + " |")
    print("|---" * (2 + len(measures)) + "|")
    for name in contestants:
        row: dict[str, Any] = {"images_per_second": seen / statistics.median(each[name].wall for each in rounds)}
        row["cpu_seconds"] = statistics.median(each[name].cpu for each in rounds)
        if not options.no_loop:
            for measure in measures:
                ratios = [getattr(each[LOOP], measure) / getattr(each[name], measure) for each in rounds]
                row[f"{measure}_ratio"] = statistics.median(ratios)
        rows[name] = row
        cells = [f"{row[f'{measure}_ratio']:.2f}" if not options.no_loop else "" for measure in measures]
        print(f"| {name} | {row['images_per_second']:,.0f} | {' | '.join(cells)} |")
    print("; ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
    facts = about(
        0, model=MODEL, width=options.width, device=str(device), images=len(data.train), dataset=data.train.name,
        corruption=options.corruption, severity=SEVERITY, epochs=options.epochs, rounds=options.rounds,
        batch_size=options.batch_size, precision=resolve_precision(options.mixed_precision, device.type),
        workers=options.workers,
    )  # fmt: skip
    if options.json is not None:
        earlier = json.loads(options.json.read_text()) if options.json.is_file() else []
        options.json.write_text(
            json.dumps([*earlier, {"about": facts, "rows": rows, "shares": shares}], indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
