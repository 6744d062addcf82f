"""Networks for small images that timm does not have: importing this registers them with timm.

`vgg16_gap` and `vgg16_bn_gap` are the paper's; `resnet20_cifar`, `resnet56_cifar` and `resnet26_gn_cifar` are those of
the field's figures for CIFAR. Every other model is used as timm has it, and every model is saved by `save_timm_repo`.
"""

import timm

from hf_rws.models.cifar_resnets import CifarResNet, resnet20_cifar, resnet26_gn_cifar, resnet56_cifar
from hf_rws.models.vgg import VGG16GAP, vgg16_bn_gap, vgg16_gap

__all__ = [
    "VGG16GAP",
    "CifarResNet",
    "is_ours",
    "resnet20_cifar",
    "resnet26_gn_cifar",
    "resnet56_cifar",
    "vgg16_bn_gap",
    "vgg16_gap",
]


def is_ours(architecture: str) -> bool:
    """Whether timm knows an architecture only after `import hf_rws.models`."""
    return timm.is_model(architecture) and timm.model_entrypoint(architecture).__module__.startswith(f"{__name__}.")
