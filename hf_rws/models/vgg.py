"""The paper's VGG-16 for small images, registered with timm: `vgg16_gap` and `vgg16_bn_gap`.

Thirteen 3x3 convolutions, global average pooling and one linear layer (the released code's network; configuration D
of Simonyan & Zisserman, 2015, without the fully connected layers). Parameter names of the convolutions are those of
timm's `vgg16` / `vgg16_bn`, whose ImageNet weights `pretrained=True` takes.
"""

from typing import Any

import timm
from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from hf_rws.errors import OptionError

__all__ = ["VGG16GAP", "default_cfgs"]  # timm adds the names of the models

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16GAP(nn.Module):
    """VGG-16 with global average pooling.

    Args:
        num_classes: Outputs of the linear layer; 0 leaves it out.
        in_chans: Input channels.
        width: Factor on the number of channels of every convolution, in (0, 1] or above.
        batch_norm: Put a batch norm behind every convolution.
        drop_rate: Dropout before the linear layer.
        global_pool: timm pooling name.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        batch_norm: bool = False,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if not width > 0:
            raise OptionError(f"width must be above 0, got {width!r}")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.width = width
        layers: list[nn.Module] = []
        self.feature_info: list[dict[str, Any]] = []
        channels = in_chans
        for depth, stage in enumerate(_STAGES):
            for full_width in stage:
                out = max(1, round(full_width * width))
                layers.append(nn.Conv2d(channels, out, kernel_size=3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(out))
                layers.append(nn.ReLU(inplace=True))
                channels = out
            self.feature_info.append(
                {"num_chs": channels, "reduction": 2**depth, "module": f"features.{len(layers) - 1}"}
            )
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.num_features = self.head_hidden_size = channels
        self.head = ClassifierHead(channels, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.apply(_initialize)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """The groups of timm's own VGG: one per convolution, and one per norm."""
        return {"stem": r"^features\.0", "blocks": r"^features\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Part of timm's model interface; checkpointing is not supported."""
        if enable:
            raise OptionError("gradient checkpointing is not supported by vgg16_gap and vgg16_bn_gap")

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a freshly initialised linear layer with `num_classes` outputs on."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features before pooling, shape (N, num_features, H/32, W/32)."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify features; with `pre_logits` pool only."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (N, num_classes) of images of shape (N, in_chans, H, W), H and W at least 32."""
        return self.forward_head(self.forward_features(x))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _convolutions_of_imagenet_vgg(state_dict: dict[str, Tensor], model: VGG16GAP) -> dict[str, Tensor]:
    """Keep the convolutions of an ImageNet VGG-16; leave a checkpoint of our own as it is."""
    if not any(name.startswith(("pre_logits.", "classifier.")) for name in state_dict):
        return state_dict
    if model.width != 1.0:
        raise OptionError(f"the ImageNet weights fit width=1.0 only, not width={model.width}; use pretrained=False")
    features = {name: value for name, value in state_dict.items() if name.startswith("features.")}
    return features | {name: value for name, value in model.state_dict().items() if name.startswith("head.")}


def _cfg(source: str) -> dict[str, Any]:
    """The config of an ImageNet VGG-16 of timm, whose convolutions we take."""
    imagenet = timm.get_pretrained_cfg(source)
    kept = ("crop_pct", "interpolation", "mean", "std", "license")
    return {
        "hf_hub_id": f"timm/{source}",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "first_conv": "features.0",
        "classifier": "head.fc",
        **{name: getattr(imagenet, name) for name in kept},
    }


default_cfgs = generate_default_cfgs(
    {"vgg16_gap.tv_in1k": _cfg("vgg16.tv_in1k"), "vgg16_bn_gap.tv_in1k": _cfg("vgg16_bn.tv_in1k")}
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> VGG16GAP:
    return build_model_with_cfg(
        VGG16GAP,
        variant,
        pretrained,
        pretrained_filter_fn=_convolutions_of_imagenet_vgg,
        feature_cfg={"flatten_sequential": True, "out_indices": (0, 1, 2, 3, 4)},
        **kwargs,
    )


@register_model
def vgg16_gap(pretrained: bool = False, **kwargs: Any) -> VGG16GAP:
    """VGG-16, global average pooling, no batch norm."""
    return _create("vgg16_gap", pretrained, **kwargs)


@register_model
def vgg16_bn_gap(pretrained: bool = False, **kwargs: Any) -> VGG16GAP:
    """VGG-16, global average pooling, with batch norm."""
    return _create("vgg16_bn_gap", pretrained, batch_norm=True, **kwargs)
