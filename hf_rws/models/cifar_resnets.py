"""The field's ResNets for images of 32 pixels: `resnet20_cifar`, `resnet56_cifar` and `resnet26_gn_cifar`.

A 3x3 convolution, three stages of 16, 32 and 64 channels, the mean over the map, one linear layer (He et al., 2016,
section 4.2). The first two have batch norms behind their convolutions; `resnet26_gn_cifar` has group norms before them
(He et al., 2016b; the network of MEMO, Zhang et al., 2022). Parameters have the names that they have in the published
weights (akamaster/pytorch_resnet_cifar10; zhangmarvin/memo), as safetensors or state dicts:

    timm.create_model("resnet56_cifar", checkpoint_path="resnet56_cifar10.safetensors")
"""

from functools import partial
from typing import Any

from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from hf_rws.errors import OptionError

__all__ = ["CifarResNet", "default_cfgs"]  # timm adds the names of the models

_CHANNELS = (16, 32, 64)
_GROUPS = 8


class _Block(nn.Module):
    """Two convolutions, each with its norm behind it, added to the input; a larger map is subsampled."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        stride = out // channels
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.added = stride, out - channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.added:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added // 2, self.added // 2))
        return F.relu(y + x)


class _PreActivationBlock(nn.Module):
    """Two convolutions, each with its norm before it, added to the input; a larger map is averaged."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        stride = out // channels
        self.bn1 = nn.GroupNorm(_GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.GroupNorm(_GROUPS, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.stride, self.added = stride, out - channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        if self.added:
            x = F.pad(F.avg_pool2d(x, self.stride), (0, 0, 0, 0, 0, self.added))
        return y + x


class CifarResNet(nn.Module):
    """A ResNet of 6 n + 2 layers for small images.

    Args:
        blocks: n, the number of blocks of each of the three stages.
        pre_activation: Group norms before the convolutions, instead of batch norms behind them.
        classifier: Name of the linear layer.
        num_classes: Its outputs; 0 leaves it out.
        in_chans: Input channels.
        drop_rate: Dropout before the linear layer.
        global_pool: timm pooling name.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    global_pool: nn.Module

    def __init__(
        self,
        blocks: int,
        pre_activation: bool = False,
        classifier: str = "linear",
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self._classifier = classifier
        self.conv1 = nn.Conv2d(in_chans, _CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.Identity() if pre_activation else nn.BatchNorm2d(_CHANNELS[0])
        channels, self.feature_info = _CHANNELS[0], []
        block = _PreActivationBlock if pre_activation else _Block
        for stage, out in enumerate(_CHANNELS):
            name = f"layer{stage + 1}"
            self.add_module(name, nn.Sequential(block(channels, out), *(block(out, out) for _ in range(blocks - 1))))
            self.feature_info.append({"num_chs": out, "reduction": 2**stage, "module": name})
            channels = out
        self.bn = nn.GroupNorm(_GROUPS, channels) if pre_activation else nn.Identity()
        self.num_features = self.head_hidden_size = channels
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """One group per convolution, with its norm, or per block."""
        blocks = r"^layer(\d+)\.(\d+)" if coarse else r"^layer(\d+)\.(\d+)\.(?:conv|bn)(\d+)"
        return {"stem": r"^(?:conv1|bn1)\.", "blocks": [(blocks, None), (r"^bn\.", (99,))]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Part of timm's model interface; checkpointing is not supported."""
        if enable:
            raise OptionError("gradient checkpointing is not supported by the ResNets for CIFAR")

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return getattr(self, self._classifier)

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Put a freshly initialised linear layer with `num_classes` outputs on."""
        self.num_classes = num_classes
        self.global_pool, linear = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        setattr(self, self._classifier, linear)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features before pooling, shape (N, 64, H/4, W/4)."""
        x = self.conv1(x)
        if not isinstance(self.bn1, nn.Identity):
            x = F.relu(self.bn1(x))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        return x if isinstance(self.bn, nn.Identity) else F.relu(self.bn(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify features; with `pre_logits` pool only."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (N, num_classes) of images of shape (N, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))


def _cfg(classifier: str, mean: tuple[float, ...], std: tuple[float, ...], license: str) -> dict[str, Any]:
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": mean,
        "std": std,
        "first_conv": "conv1",
        "classifier": classifier,
        "license": license,
    }


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5,) * 3, (0.5,) * 3)

default_cfgs = generate_default_cfgs(
    {
        "resnet20_cifar": _cfg("linear", *_IMAGENET, license="bsd-2-clause"),
        "resnet56_cifar": _cfg("linear", *_IMAGENET, license="bsd-2-clause"),
        "resnet26_gn_cifar": _cfg("fc", *_HALF, license="mit"),
    }
)

_create = partial(build_model_with_cfg, CifarResNet, feature_cfg={"out_indices": (0, 1, 2)})


@register_model
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20 with batch norm."""
    return _create("resnet20_cifar", pretrained, blocks=3, **kwargs)


@register_model
def resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56 with batch norm."""
    return _create("resnet56_cifar", pretrained, blocks=9, **kwargs)


@register_model
def resnet26_gn_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-26 with group norm before its convolutions."""
    return _create("resnet26_gn_cifar", pretrained, blocks=4, pre_activation=True, classifier="fc", **kwargs)
