"""How a model is trained: the recipes of the paper and a short one, and the arguments that they fill in."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from hf_rws._checks import check_numbers
from hf_rws._choices import ADVERSARIES, AUGMENTATION_NAMES, CORRUPTIONS, PRECISIONS, SCHEDULES
from hf_rws.corruptions.batch import check_severity
from hf_rws.errors import OptionError
from hf_rws.evaluation.adversary import Adversary

# Learning rates are the paper's; the rest of the two "paper" recipes is its released code's.
RECIPES: dict[str, dict[str, Any]] = {
    "paper-vgg16": {"epochs": 50, "lr": 0.01, "schedule": "step", "milestones": (20, 40), "nesterov": False},
    "paper-resnet50": {"epochs": 50, "lr": 0.001, "schedule": "step", "milestones": (20, 40), "nesterov": False},
    "short": {"epochs": 4, "lr": 0.02, "schedule": "one-cycle", "milestones": (), "nesterov": True},
}


class _Attacks(NamedTuple):
    """How images are attacked in training, and in measuring accuracy: there by PGD-10, to be comparable."""

    training: Adversary
    measuring: Adversary


@dataclass(frozen=True)
class TrainingArguments:
    """How a model is trained; written to training_args.json as it is.

    Attributes:
        corruption: Names of corruptions to be robust to; empty for a standard model.
        severity: Severity of the corruption, 1 to 5.
        adversary: Train on adversarial images instead (PGD, Madry et al.): the norm of `Adversary`, "linf" or "l2".
        eps: As in `Adversary`; without an adversary this and the next two mean nothing.
        attack_steps: Of the attack in training; accuracy is always measured under PGD-10.
        attack_step_size: As in `Adversary`, in training.
        fresh_corruption: Draw the corruption anew every epoch instead of once per image.
        epochs: Passes over the training images.
        lr: Learning rate (the peak of the one-cycle schedule).
        schedule: One of `SCHEDULES`.
        milestones: Epochs after which the "step" schedule multiplies the rate by `gamma`.
        gamma: That factor.
        batch_size: Images per optimizer step, over all processes and accumulation steps.
        momentum: Of SGD.
        nesterov: Nesterov's form of it.
        weight_decay: On all parameters, as in the released code.
        augmentation: One of `AUGMENTATION_NAMES`, or "auto" for the released code's choice by image size.
        seed: Seed of the head, the order, the augmentation and the corruption.
        mixed_precision: One of `PRECISIONS`; "auto" asks the hardware what it computes fast.
        gradient_accumulation_steps: Parts in which a batch is computed, at least: memory may ask for more.
        log_with: Trackers of Accelerate to report to, e.g. ("tensorboard",).
    """

    corruption: tuple[str, ...] = ()
    severity: int = 5
    adversary: str | None = None
    eps: float = 8.0
    attack_steps: int = 10
    attack_step_size: float | None = None
    fresh_corruption: bool = False
    epochs: int = 50
    lr: float = 0.01
    schedule: str = "step"
    milestones: tuple[int, ...] = (20, 40)
    gamma: float = 0.1
    batch_size: int = 128
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    augmentation: str = "auto"
    seed: int = 0
    mixed_precision: str = "auto"
    gradient_accumulation_steps: int = 1
    log_with: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_numbers(
            self,
            whole=("epochs", "batch_size", "seed", "gradient_accumulation_steps"),
            real=("lr", "gamma", "momentum", "weight_decay"),
        )
        for name, kind, what in (("corruption", str, "names"), ("log_with", str, "names"),
                                 ("milestones", int, "whole numbers")):  # fmt: skip
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or not all(isinstance(value, kind) for value in values):
                raise OptionError(f"{name} must be a tuple of {what}, got {values!r}")
        for name in ("fresh_corruption", "nesterov"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name, value, choices in (
            ("schedule", self.schedule, SCHEDULES),
            ("augmentation", self.augmentation, ("auto", *AUGMENTATION_NAMES)),
            ("mixed_precision", self.mixed_precision, PRECISIONS),
            *(("corruption", name, CORRUPTIONS) for name in self.corruption),
            *([("adversary", self.adversary, ADVERSARIES)] if self.adversary is not None else []),
        ):
            if value not in choices:
                raise OptionError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        object.__setattr__(self, "severity", check_severity(self.severity))  # NumPy's integers are no JSON
        if len(set(self.corruption)) != len(self.corruption):
            raise OptionError(f"corruption must name each one once, got {', '.join(self.corruption)}")
        if self.adversary and self.corruption:
            raise OptionError(
                f"a model is trained against corruptions or against an adversary, got {', '.join(self.corruption)} and "
                f"{self.adversary}: train one for each"
            )
        Adversary(self.adversary or ADVERSARIES[0], self.eps, self.attack_steps, self.attack_step_size)  # it checks
        for name in ("epochs", "lr", "gamma", "batch_size", "gradient_accumulation_steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise OptionError(f"{name} must be above 0 and finite, got {getattr(self, name)!r}")
        if not 0 <= self.momentum < 1 or (self.nesterov and not self.momentum):
            raise OptionError(f"momentum must be in [0, 1), and above 0 with nesterov, got {self.momentum!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise OptionError(f"weight_decay must be at least 0 and finite, got {self.weight_decay!r}")
        if not 0 <= self.seed < 2**32:
            raise OptionError(f"seed must be at least 0 and below 2**32, got {self.seed!r}")

    @property
    def attacks(self) -> _Attacks | None:
        """How the adversary attacks; None without one."""
        if self.adversary is None:
            return None
        training = Adversary(self.adversary, self.eps, self.attack_steps, self.attack_step_size)
        return _Attacks(training, Adversary(self.adversary, self.eps))

    @classmethod
    def from_recipe(cls, recipe: str, **overrides: Any) -> "TrainingArguments":
        """The arguments of a recipe of `RECIPES`, with some of them replaced."""
        if recipe not in RECIPES:
            raise OptionError(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
        return cls(**{**RECIPES[recipe], **overrides})

    def summary(self) -> str:
        """The recipe in one line, for tables."""
        schedule = f"{self.schedule} learning rate {self.lr:g}"
        if self.schedule == "step":
            schedule += f" x{self.gamma:g} after {', '.join(map(str, self.milestones))}"
        momentum = f"{'Nesterov ' if self.nesterov else ''}momentum {self.momentum:g}"
        return (
            f"SGD, {momentum}, weight decay {self.weight_decay:g}, {schedule}, {self.epochs} epochs, batch "
            f"{self.batch_size}, augmentation {self.augmentation}, "
            f"{'fresh draws' if self.fresh_corruption else 'one draw per image'}, seed {self.seed}"
            + (f"; adversarial training: {self.attacks.training}" if self.attacks else "")
        )


def create_scheduler(optimizer: Optimizer, arguments: TrainingArguments, steps: int) -> LRScheduler:
    """The learning rate of every optimizer step; `steps` is their number in an epoch."""
    total = arguments.epochs * steps
    if arguments.schedule == "one-cycle":
        return OneCycleLR(optimizer, arguments.lr, total_steps=total + 1, cycle_momentum=False)
    if arguments.schedule == "cosine":
        return CosineAnnealingLR(optimizer, total)
    milestones = [epoch * steps for epoch in arguments.milestones] if arguments.schedule == "step" else []
    return MultiStepLR(optimizer, milestones, arguments.gamma)
