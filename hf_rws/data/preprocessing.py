"""From pictures to what a model expects: of its size, as timm's `validate.py` brings them there, and normalised."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import timm.data
import torch
from PIL import Image
from timm.models import get_model_input_config
from torch import Tensor, nn

from hf_rws.errors import OptionError

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
# Weights of red, green and blue in grey, in 1/65536, as Pillow has them (ITU-R 601-2).
_LUMA = (19595, 38470, 7471)
_CROP_MODES = ("center", "squash", "border")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture comes to the size that a model takes: by timm's own evaluation transforms, to the pixel.

    Attributes:
        size: Height and width of the result.
        crop_pct: Share of the resized picture's side that is kept: it is resized to `size / crop_pct` first.
        interpolation: "bicubic", "bilinear", "nearest", "box", "hamming" or "lanczos".
        crop_mode: "center" (the shorter side is resized, the centre cut), "squash" (both sides are resized, whatever
            the shape) or "border" (the longer side is resized, the rest filled).
        fill: Colour of that rest; timm's is the mean that the model is normalised by.

    Raises:
        OptionError: A value makes no sense.

    Example:
        >>> str(Preprocessing((224, 224), 0.875))
        '224 px, bicubic, crop 0.875'
    """

    size: tuple[int, int]
    crop_pct: float = 1.0
    interpolation: str = "bicubic"
    crop_mode: str = "center"
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(_is_number(side, int) and side >= 1 for side in self.size):
            raise OptionError(f"size must be a height and a width of at least 1, got {self.size!r}")
        if not (_is_number(self.crop_pct, int | float) and self.crop_pct > 0):
            raise OptionError(f"crop_pct must be a number above 0, got {self.crop_pct!r}")
        for name, known in (("interpolation", _INTERPOLATIONS), ("crop_mode", _CROP_MODES)):
            if getattr(self, name) not in known:
                raise OptionError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if len(self.fill) != 3 or not all(_is_number(value, int) and 0 <= value <= 255 for value in self.fill):
            raise OptionError(f"fill must be three numbers from 0 to 255, got {self.fill!r}")

    @classmethod
    def of(cls, model: nn.Module, *, use_test_size: bool = True) -> "Preprocessing":
        """What a timm model's `pretrained_cfg` says, as `timm.data.resolve_data_config` reads it.

        Args:
            model: A timm model.
            use_test_size: Take the larger images that some models are tested with, as `validate.py` does; else those
                that they were trained with.

        Raises:
            OptionError: The model has no `pretrained_cfg` with the size of images of 3 channels or 1, or one that makes
                no sense.
        """
        config: Any = getattr(model, "pretrained_cfg", None) or {}
        found: dict[str, Any] = {}
        if config.get("input_size"):
            found = timm.data.resolve_data_config(pretrained_cfg=dict(config), use_test_size=use_test_size)
        size = found.get("input_size")
        if not isinstance(size, Sequence) or len(size) != 3 or size[0] not in (1, 3):
            raise OptionError(
                f"the model's pretrained_cfg must give an input_size (3, height, width), it gives {size!r}"
            )
        crop_mode, mean = found["crop_mode"], found["mean"]
        if crop_mode != "border":
            mean = (0, 0, 0)
        elif not isinstance(mean, Sequence) or not all(_is_number(value, int | float) for value in mean):
            raise OptionError(f"the model's pretrained_cfg must give a mean of three numbers, it gives {mean!r}")
        fill: Any = tuple(round(255 * value) for value in ([*mean] * 3 if len(mean) == size[0] == 1 else mean))
        height, width = size[1:]
        return cls((height, width), found["crop_pct"], found["interpolation"], crop_mode, fill)

    def __call__(self, image: Image.Image) -> Image.Image:
        """An RGB picture of that size; one that has it already, where nothing is cut, is given back as it is."""
        height, width = self.size
        if image.size == (width, height) and self.crop_pct == 1:
            return image
        return _transform(self)(image)

    def __str__(self) -> str:
        """Short, for tables; height before width where they differ."""
        height, width = self.size
        side = f"{height} px" if height == width else f"{height}x{width} px"
        mode = "" if self.crop_mode == "center" else f", {self.crop_mode}"
        return f"{side}, {self.interpolation}, crop {self.crop_pct:g}{mode}"


def resolve(preprocessing: Preprocessing | None, image_size: int | None) -> Preprocessing | None:
    """Which of two options is given; `image_size` resizes the shorter side to it and cuts the centre to a square.

    Raises:
        OptionError: Both are given, or `image_size` makes no sense.
    """
    if image_size is None:
        return preprocessing
    if preprocessing is not None:
        raise OptionError("give either image_size or preprocessing, not both")
    if image_size < 1:
        raise OptionError(f"image_size must be at least 1, got {image_size!r}")
    return Preprocessing((image_size, image_size))


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


@lru_cache(maxsize=16)
def _transform(preprocessing: Preprocessing) -> Callable[[Image.Image], Image.Image]:
    """The evaluation transform of timm, but for its last step, which makes a tensor."""
    steps = timm.data.create_transform(
        preprocessing.size,
        crop_pct=preprocessing.crop_pct,
        interpolation=preprocessing.interpolation,
        crop_mode=preprocessing.crop_mode,
        mean=tuple(value / 255 for value in preprocessing.fill),
        normalize=False,
    )
    return type(steps)(steps.transforms[:-1])


class Normalize(nn.Module):
    """Images in [0, 255] to what a model expects: (x / 255 - mean) / std, float32, channels last."""

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
        """The normalisation in a timm model's `pretrained_cfg`; for a model of one channel after making images grey."""
        config: Any = getattr(model, "pretrained_cfg", None) or {}
        if config.get("mean") is None or config.get("std") is None:
            raise OptionError("the model has no pretrained_cfg with mean and std; give it one, as timm models have")
        channels = _channels(model)
        if channels not in (1, 3):
            raise OptionError(
                f"this {type(model).__name__} takes images of {channels} channels; only models for 3 or 1 can be used"
            )
        kind = cls if channels == 3 else _Grey
        return kind(config["mean"], config["std"])

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images of shape (N, 3, H, W), uint8 or floating."""
        images = images.to(torch.float32, memory_format=torch.channels_last)
        return torch.addcmul(self.shift, images, self.scale)


class _Grey(Normalize):
    """For models of one channel: Pillow's grey, normalised by the mean over the channels, as timm's loader does it."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(*([sum(values) / len(values)] for values in (mean, std)))

    def forward(self, images: Tensor) -> Tensor:
        """Make images of shape (N, 3, H, W) grey, and normalise them; only those that are uint8 are rounded."""
        if images.is_floating_point():  # they may have gradients
            weights = torch.tensor(_LUMA, dtype=torch.float32, device=images.device) / sum(_LUMA)
            return super().forward(torch.einsum("nchw,c->nhw", images.float(), weights).unsqueeze(1))
        red, green, blue = (images[:, channel].to(torch.int32) * weight for channel, weight in enumerate(_LUMA))
        return super().forward(((red + green + blue + 0x8000) >> 16).to(torch.uint8).unsqueeze(1))


def _channels(model: nn.Module) -> int:
    """How many channels the images have that a timm model takes; 3 where it does not say."""
    try:
        channels = get_model_input_config(model)["input_size"][0]
    except (TypeError, LookupError):  # a pretrained_cfg without a size
        return 3
    return channels if isinstance(channels, int) else 3
