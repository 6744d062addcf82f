"""Small models for the tests of the engine: a start, a standard and a robust model that differ everywhere."""

from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import timm
import torch
from torch import nn

import hf_rws

# name -> options; conv nets without and with batch norm, depthwise convs, attention
ARCHITECTURES: dict[str, dict[str, float]] = {
    "vgg16_gap": {"width": 0.05},
    "vgg16_bn_gap": {"width": 0.05},
    "resnet18": {},
    "mobilenetv3_small_050": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {},
}
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
CONV_NETS = ("vgg16_gap", "vgg16_bn_gap", "resnet18")


@dataclass(frozen=True)
class Trio:
    """Three models of one architecture, as a study leaves them."""

    start: nn.Module
    standard: nn.Module
    robust: nn.Module

    def base(self) -> nn.Module:
        """A copy of the standard model, for patching."""
        return deepcopy(self.standard)


def create(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=10, **ARCHITECTURES[name]).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif key.endswith("running_mean"):
                value.normal_(0, 0.5)
    return model


def moved(model: nn.Module, seed: int, size: float = 0.02) -> nn.Module:
    """A copy with every weight and statistic changed a little, as by fine-tuning."""
    copy = deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in copy.state_dict().items():
            if not value.is_floating_point():
                value.add_(1)
            elif key.endswith("running_var"):
                value.mul_(torch.empty_like(value).normal_(0, 0.2, generator=generator).exp())
            else:
                value.add_(torch.empty_like(value).normal_(0, size, generator=generator))
    return copy


@cache
def trio(name: str) -> Trio:
    start = create(name)
    return Trio(start, moved(start, 1), moved(start, 2))


@cache
def signature(name: str, label: str = "fog", bits: object = 4, **options: object) -> "hf_rws.Signature":
    models = trio(name)
    robust = moved(models.start, sum(label.encode()))
    return hf_rws.extract(robust, models.standard, models.start, corruption=label, severity=5, bits=bits, **options)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def identical(model: nn.Module, expected: dict[str, torch.Tensor]) -> bool:
    found = model.state_dict()
    return found.keys() == expected.keys() and all(
        torch.equal(value, expected[name]) and value.dtype == expected[name].dtype for name, value in found.items()
    )
