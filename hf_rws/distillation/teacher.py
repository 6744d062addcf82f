"""What a model answers: to images in parts, and once to each image that comes again."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hf_rws._at_once import AskingInParts
from hf_rws.data.preprocessing import Normalize
from hf_rws.layers import check_scores

if TYPE_CHECKING:
    from accelerate import Accelerator


class Teacher:
    """What a model answers to clean images, plain and mirrored; it is asked once for each, when the answer is wanted.

    Args:
        ask: The model: uint8 images of shape (N, 3, H, W) to logits on the CPU.
        images: Those that it is asked about.
    """

    def __init__(self, ask: Callable[[Tensor], Tensor], images: Tensor) -> None:
        self._ask, self._images = ask, images
        self._places = torch.full((2, len(images)), -1, dtype=torch.int32)  # of the answers, by side and image
        self._answers, self._count = torch.empty(0), 0

    def __call__(self, rows: Tensor, mirrored: Tensor) -> Tensor:
        """Logits, float32 on the CPU, of the images of `rows`, those mirrored where `mirrored` says so."""
        for side in (False, True):
            wanted = rows[mirrored == side].unique()
            wanted = wanted[self._places[int(side)][wanted] < 0]
            if len(wanted):
                images = self._images[wanted]
                places = self._keep(self._ask(images.flip(3) if side else images))
                self._places[int(side), wanted] = places
        return self._answers[self._places[mirrored.long(), rows]]

    def _keep(self, answers: Tensor) -> Tensor:
        """Store answers; memory grows with how many were asked for, not with how many images there are."""
        needed = self._count + len(answers)
        if needed > len(self._answers):
            larger = torch.empty(max(needed, 2 * self._count), answers.shape[1], dtype=torch.float32)
            if self._count:
                larger[: self._count] = self._answers[: self._count]
            self._answers = larger
        self._answers[self._count : needed] = answers
        places = torch.arange(self._count, needed, dtype=torch.int32)
        self._count = needed
        return places


@torch.no_grad()
def ask(
    accelerator: "Accelerator", normalize: Normalize, in_parts: AskingInParts, model: nn.Module, images: Tensor
) -> Tensor:
    """A model's logits in eval mode to uint8 images, float32 on the CPU."""

    def logits(part: Tensor) -> Tensor:
        return check_scores(model, model(normalize(part.to(accelerator.device)))).float().cpu()

    model.eval()
    with accelerator.autocast():
        return torch.cat(in_parts(model, images, logits))
