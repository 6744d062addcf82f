"""What a distillation minimises: functions of the copy's and the base's answers to the same images."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.nn import functional as F

# Logits of the copy and of the base, both of shape (N, classes), on one device -> a scalar to go down.
Objective: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def softened_divergence(temperature: float) -> Objective:
    """Kullback-Leibler divergence of softened answers (Hinton et al., arXiv 1503.02531), mean over the images.

    Args:
        temperature: Of the softmax of both answers; gradients are of one size whatever it is.
    """

    def divergence(logits: Tensor, answers: Tensor) -> Tensor:
        given, wanted = (F.log_softmax(values.float() / temperature, 1) for values in (logits, answers))
        return temperature**2 * F.kl_div(given, wanted, log_target=True, reduction="batchmean")

    return divergence
