"""From uint8 images to what a model expects."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_rws.errors import OptionError


class Normalize(nn.Module):
    """uint8 images to what a model expects: (x / 255 - mean) / std, float32, channels last."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means, deviations = (
            torch.tensor(values, dtype=torch.float32, device="cpu").view(1, -1, 1, 1) for values in (mean, std)
        )
        self.register_buffer("scale", 1 / (255 * deviations), persistent=False)
        self.register_buffer("shift", -means / deviations, persistent=False)

    @classmethod
    def of(cls, model: nn.Module) -> "Normalize":
        """The normalisation in a timm model's `pretrained_cfg`."""
        config: Any = getattr(model, "pretrained_cfg", None) or {}
        if config.get("mean") is None or config.get("std") is None:
            raise OptionError("the model has no pretrained_cfg with mean and std; give it one, as timm models have")
        return cls(config["mean"], config["std"])

    def forward(self, images: Tensor) -> Tensor:
        """Normalise uint8 images of shape (N, 3, H, W)."""
        images = images.to(torch.float32, memory_format=torch.channels_last)
        return torch.addcmul(self.shift, images, self.scale)


def input_side(model: nn.Module) -> int:
    """The side of the square images that a timm model was made for; OptionError if its config does not say."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    size = config.get("input_size")
    if not size or len(size) != 3 or size[0] != 3 or size[1] != size[2]:
        raise OptionError(f"the base's pretrained_cfg must give an input_size (3, side, side), it gives {size!r}")
    return size[1]
