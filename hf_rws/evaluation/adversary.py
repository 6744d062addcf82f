"""Adversarial images by projected gradient descent (PGD; Madry et al., ICLR 2018, arXiv 1706.06083).

The perturbation lives in pixels in [0, 1], which the model then normalises. The attack is white-box: its gradients are
those of the very model that is given, a patched one with its patch. The model runs in eval mode, in training too, as in
TRADES (Zhang et al., 2019; Pang et al., ICLR 2021, compare the two ways): so what an image becomes depends on no other
image of its batch, and no running statistics of norms see the attack's passes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_rws._ambient import learning
from hf_rws._checks import check_numbers
from hf_rws._choices import ADVERSARIES
from hf_rws.corruptions.randomness import ImageSource, RandomSource
from hf_rws.data.preprocessing import Normalize
from hf_rws.errors import OptionError
from hf_rws.evaluation.tables import ATTACKED
from hf_rws.layers import check_scores, evaluating, first_weight, takes_images_of

# Madry et al. take steps of 2.5 eps / steps: over all of them an image can cross the ball. For eps 8 and 10 steps these
# are the 2/255 of TRADES, of Rice et al. (ICML 2020) and of torchattacks.
_CROSSING = 2.5
_SMALLEST = 1e-12  # of a norm that is divided by


@dataclass(frozen=True)
class Adversary:
    """How images are attacked: PGD from a random start.

    Attributes:
        norm: "linf" or "l2": in which norm the perturbation of an image is at most eps.
        eps: That bound, in 1/255 of the range of pixels; for l2 128 is usual.
        steps: How often the gradient is followed; 10 is PGD-10.
        step_size: How far each time, in 1/255; None: 2.5 eps / steps.

    Raises:
        OptionError: A value makes no sense.

    Example:
        >>> Adversary("linf", 8).label
        'pgd-linf-8'
        >>> str(Adversary("linf", 8))
        'PGD-10, linf 8/255, steps of 2/255'
    """

    norm: str = "linf"
    eps: float = 8.0
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.norm not in ADVERSARIES:
            raise OptionError(f"the norm of an adversary must be one of {', '.join(ADVERSARIES)}, got {self.norm!r}")
        check_numbers(self, whole=("steps",), real=("eps", "step_size"), optional=("step_size",))
        if not 0 <= self.eps < math.inf:
            raise OptionError(f"eps, in 1/255, must be at least 0 and finite, got {self.eps!r}")
        if self.steps < 1:
            raise OptionError(f"the steps of an adversary must be at least 1, got {self.steps!r}")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise OptionError(f"the step size of an adversary, in 1/255, must be above 0, got {self.step_size!r}")

    @property
    def label(self) -> str:
        """What it is called where corruptions are: by its norm and eps."""
        return f"{ATTACKED}{self.norm}-{self.eps:g}"

    @property
    def step(self) -> float:
        """How far a step goes, in 1/255."""
        return _CROSSING * self.eps / self.steps if self.step_size is None else self.step_size

    def __str__(self) -> str:
        """All of it, for tables."""
        return f"PGD-{self.steps}, {self.norm} {self.eps:g}/255, steps of {self.step:.3g}/255"


_Loss = Callable[[Tensor, Tensor], Tensor]  # from scores (N, classes) and labels (N,) to a sum over images


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    adversary: Adversary,
    *,
    seed: int = 0,
    index: int | Tensor = 0,
) -> Tensor:
    """Images on which a model's loss is as large as an adversary finds it near the given ones.

    The start of the i-th image depends on `(seed, index + i)` only, and its way on the image alone, so to rounding it
    is the same in every batch. The model is left as it was: its mode, its norms' statistics, its gradients.

    Args:
        model: A timm model, normalised for by its `pretrained_cfg`.
        images: Of shape (N, 3, H, W): uint8, or floating in [0, 1].
        labels: The right one of the model's classes for each, int64 of shape (N,).
        adversary: How.
        seed: Of the starts.
        index: Number of the first image; or those of all of them, an integer tensor of shape (N,).

    Returns:
        float32 in [0, 1] of shape (N, 3, H, W), on the model's device, at most `eps` from the images.

    Raises:
        OptionError: The images or labels are of another shape or kind, or the model cannot take them, or gives no
            scores of classes, or was made in `torch.inference_mode()`, where nothing has gradients.

    Example:
        >>> model = timm.create_model("resnet18", num_classes=10)
        >>> images, labels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.arange(4)
        >>> attacked = attack(model, images, labels, Adversary("linf", 8, steps=2))
        >>> bool(((attacked - images / 255).abs() <= 8 / 255 + 1e-6).all())
        True
    """
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise OptionError(
            f"images to attack must be uint8, or floating in [0, 1], of shape (N, 3, H, W), got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise OptionError(
            f"labels must be int64 of shape ({len(images)},), one an image, got {labels.dtype} {tuple(labels.shape)}"
        )
    numbers: range | Tensor
    if isinstance(index, Tensor):
        if index.shape != labels.shape or index.is_floating_point():
            raise OptionError(
                f"index must be a number, or one for each of {len(images)} images, got {tuple(index.shape)}"
            )
        numbers = index.cpu()
    else:
        numbers = range(index, index + len(images))
    with takes_images_of(images.shape):
        return attacked(model, images, labels, adversary, seed=seed, numbers=numbers)


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Summed, not averaged, so that the gradient of an image does not depend on how many there are."""
    return F.cross_entropy(scores, labels, reduction="sum")


@learning
def attacked(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    adversary: Adversary,
    *,
    seed: int,
    numbers: range | Tensor,
    loss: _Loss = _cross_entropy,
) -> Tensor:
    """As `attack`, with nothing checked, and errors as torch has them; `loss` is what is made large."""
    weight = first_weight(model)
    if weight.is_inference():
        raise OptionError("the model was made in torch.inference_mode(), where nothing has gradients; make it outside")
    clean = images.to(weight.device, torch.float32)
    clean = clean if images.is_floating_point() else clean / 255
    labels, normalize, norm = labels.to(weight.device), Normalize.of(model).to(weight.device), _NORMS[adversary.norm]
    eps, step = adversary.eps / 255, adversary.step / 255
    source = ImageSource(seed, f"{ATTACKED}{adversary.norm}", 0, numbers, weight.device)
    shown = (clean + eps * norm.start(source, clean.shape[1:])).clamp(0, 1)
    with _fixed(model):
        for _ in range(adversary.steps):
            shown.requires_grad_()
            scores = check_scores(model, model(normalize(255 * shown).to(weight.dtype)))
            (gradient,) = torch.autograd.grad(loss(scores.float(), labels), shown)
            moved = shown.detach() + step * norm.direction(gradient)
            shown = (clean + norm.project(moved - clean, eps)).clamp(0, 1)
    return shown


@contextmanager
def _fixed(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, its weights without gradients, for a while."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with evaluating(model):
        try:
            for weight in weights:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(True)


class _Norm(NamedTuple):
    """What PGD does in a norm; perturbations and gradients are of shape (N, C, H, W).

    Attributes:
        start: A random point of each image's unit ball.
        direction: Of a gradient: the step of norm 1 along which the loss grows fastest.
        project: The nearest perturbation in the ball of a radius.
    """

    start: Callable[[RandomSource, Sequence[int]], Tensor]
    direction: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, float], Tensor]


def _length(values: Tensor) -> Tensor:
    """The l2 norm of each image, of shape (N, 1, 1, 1), never 0."""
    return values.flatten(1).norm(dim=1).clamp(min=_SMALLEST).view(-1, 1, 1, 1)


def _start_l2(source: RandomSource, shape: Sequence[int]) -> Tensor:
    direction = source.normal(*shape)
    return direction / _length(direction) * source.uniform(1, 1, 1)


_NORMS = {
    "linf": _Norm(
        start=lambda source, shape: 2 * source.uniform(*shape) - 1,
        direction=torch.sign,
        project=lambda values, radius: values.clamp(-radius, radius),
    ),
    "l2": _Norm(
        start=_start_l2,
        direction=lambda gradient: gradient / _length(gradient),
        project=lambda values, radius: values * (radius / _length(values)).clamp(max=1),
    ),
}
