r"""Where the time of a distillation goes, and what it is a multiple of.

    python scripts/bench_distill.py tf_efficientnet_lite0 --steps 20
    python scripts/bench_distill.py resnet50 --compile            # the network compiled, for GPUs

Random weights and random images of the model's own size: only times are of interest. Printed are the share of each part
of the run, the images a second of a training step (the median; the first two are slower) and of the whole run, and the
CPU time of the run (on a GPU: its time) as a multiple of what 6,000 images take through the whole network, forwards and
backwards, in the same process. With --compile the network that learns goes through `torch.compile`, which takes its
time in the first steps.
"""

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F

import hf_rws
from hf_rws._accelerator import resolve_device
from hf_rws.corruptions.mixing import Mixture
from hf_rws.data import Preprocessing
from hf_rws.data.preprocessing import Normalize
from hf_rws.distillation import Distiller
from hf_rws.study.provenance import about

PASS, TIMED = 6_000, 5


class Clock:
    """Seconds by part; of parts within parts the inner one counts."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.steps: list[float] = []
        self.device, self._inner = device, [0.0]

    def now(self) -> float:
        """Seconds, when what was begun on the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Within, time counts for this part."""
        began = self.now()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = self.now() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + took - self._inner.pop()
            self._inner[-1] += took

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time counted."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        return wrapped


def timed_loop(clock: Clock, compiled: bool) -> type[Distiller]:
    """The loop of a distillation with a clock on its parts."""
    learn = clock.timed("backward pass, and what else a step does", Distiller.learn)

    class Timed(Distiller):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.teacher: Any = clock.timed("answers of the base", self.teacher)
            self.optimizer.step = clock.timed("optimizer", self.optimizer.step)
            if compiled:
                self.model.compile()

        def learn(self, *arguments: Any, **options: Any) -> None:
            began = clock.now()
            learn(self, *arguments, **options)
            clock.steps.append(clock.now() - began)

        _loss = clock.timed("forward pass", Distiller._loss)
        _snapshot = clock.timed("looks at held-out images", Distiller._snapshot)

    return Timed


def pass_seconds(model: nn.Module, images: torch.Tensor, batch_size: int) -> float:
    """CPU seconds (on a GPU: seconds) of 6,000 images through the whole network, forwards and backwards."""
    model, device = copy.deepcopy(model).train(), images.device
    normalize, clock, seconds = Normalize.of(model).to(device), Clock(device), []
    for _ in range(TIMED):
        began = time.process_time() if device.type == "cpu" else clock.now()
        logits = model(normalize(images[:batch_size]))
        F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=device)).backward()
        seconds.append((time.process_time() if device.type == "cpu" else clock.now()) - began)
    return median(seconds) / batch_size * PASS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="timm name")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--corruption", default="fog")
    parser.add_argument("--num-layers", type=int)
    parser.add_argument("--mixed-precision", default="auto")
    parser.add_argument("--compile", action="store_true", help="the network that learns")
    options = parser.parse_args()
    device = resolve_device()
    clock = Clock(device)
    model = timm.create_model(options.model).eval()
    height, width = Preprocessing.of(model, use_test_size=False).size
    images = torch.randint(0, 256, (options.images, 3, height, width), dtype=torch.uint8)
    whole = pass_seconds(model.to(device), images.to(device), min(16, len(images)))
    model.cpu()
    Mixture.__call__ = clock.timed("corruption", Mixture.__call__)  # type: ignore[method-assign]
    began, cpu = clock.now(), time.process_time()
    with warnings.catch_warnings(), clock.part("the rest"):
        warnings.simplefilter("ignore")  # nothing is learnt from noise
        made = hf_rws.distill(
            model, images, corruption=options.corruption, steps=options.steps, batch_size=options.batch_size,
            num_layers=options.num_layers, mixed_precision=options.mixed_precision,
            loop=timed_loop(clock, options.compile), progress=False,
        )  # fmt: skip
    wall, cpu = clock.now() - began, time.process_time() - cpu
    training = made.config.method.training
    seen = training["steps"] * training["batch_size"]
    print("| part | share |\n|---|---|")
    for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        print(f"| {name} | {100 * seconds / wall:.0f} % |")
    taken = cpu if device.type == "cpu" else wall
    facts = about(0, model=options.model, device=str(device), precision=training["mixed_precision"])
    step = median(clock.steps[2:] or clock.steps)
    print(f"a step: {training['batch_size'] / step:.1f} images a second")
    print(f"{seen} images in {wall:.1f} s, {seen / wall:.1f} a second; {taken / whole:.3f} of a pass of {PASS:,}")
    print(json.dumps(facts | {"batch_size": training["batch_size"], "held_out": training["held_out"]}))


if __name__ == "__main__":
    main()
