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
        self._known = torch.zeros(2, len(images), dtype=torch.bool)
        self._answers = torch.empty(0)

    def __call__(self, rows: Tensor, mirrored: Tensor) -> Tensor:
        """Logits, float32 on the CPU, of the images of `rows`, those mirrored where `mirrored` says so."""
        for side in (False, True):
            wanted = rows[mirrored == side].unique()
            wanted = wanted[~self._known[int(side)][wanted]]
            if len(wanted):
                images = self._images[wanted]
                found = self._ask(images.flip(3) if side else images)
                if not len(self._answers):
                    self._answers = torch.empty(2, len(self._images), found.shape[1], dtype=torch.float32)
                self._answers[int(side), wanted] = found
                self._known[int(side), wanted] = True
        return self._answers[mirrored.long(), rows]


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
