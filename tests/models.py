"""Small models for the tests of the engine: a start, a standard and a robust model that differ everywhere."""

from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import timm
import torch
from torch import nn

import hf_rws.models

# name -> options; conv nets without and with batch norm, depthwise convs, attention
ARCHITECTURES: dict[str, dict[str, float]] = {
    "vgg16_gap": {"width": 0.05},
    "vgg16_bn_gap": {"width": 0.05},
    "resnet18": {},
    "mobilenetv3_small_050": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {},
}
# name -> options that make it small: what the engine must take, each with something that the others have not
MATRIX: dict[str, dict[str, object]] = {
    "vgg16_gap": {"width": 0.05},
    "vgg16_bn": {"cfg": [4, 4, "M", 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M"], "mlp_ratio": 0.005},
    "resnet18": {"channels": (8, 16, 24, 32)},
    "resnet50": {"channels": (8, 16, 24, 32), "layers": (2, 2, 3, 2)},
    "resnet26d": {"channels": (8, 16, 24, 32), "stem_width": 8},  # a deep stem, pooling in the shortcuts
    "wide_resnet50_2": {"channels": (8, 16, 24, 32), "layers": (2, 2, 3, 2)},
    "densenet121": {"growth_rate": 4, "block_config": (2, 3, 4, 2)},  # norms before convolutions
    "mobilenetv3_small_050": {},  # depthwise convolutions, squeeze and excitation, convolutions without a norm
    "efficientnet_b0": {},
    "regnety_002": {},  # grouped convolutions
    "convnext_atto": {"dims": (8, 16, 24, 32)},  # no batch norm, layer scales
    "vit_tiny_patch16_224": {"img_size": 32, "embed_dim": 24},  # tokens, position embeddings, fused qkv
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "embed_dim": 24},  # two heads
    "swin_tiny_patch4_window7_224": {"img_size": 56, "embed_dim": 12},  # tables of relative positions
    "mixer_s32_224": {"img_size": 64, "mlp_ratio": (0.5, 0.25)},
}
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
SHARED: list[nn.Module] = []  # models that tests have in common: those that change one take a copy
CONV_NETS = ("vgg16_gap", "vgg16_bn_gap", "resnet18")


@dataclass(frozen=True)
class Trio:
    """Three models of one architecture, as a study leaves them."""

    start: nn.Module
    standard: nn.Module
    robust: nn.Module

    @property
    def pair(self) -> tuple[nn.Module, nn.Module]:
        """The two that a signature tells apart."""
        return self.standard, self.robust

    def base(self) -> nn.Module:
        """A copy of the standard model, for patching."""
        return deepcopy(self.standard)


def create(name: str, seed: int = 0, options: dict[str, object] | None = None) -> nn.Module:
    torch.manual_seed(seed)
    options = {"num_classes": 10, **(ARCHITECTURES[name] if options is None else options)}
    cfg = options.pop("cfg", None)
    if cfg is None:
        model = timm.create_model(name, **options)
    else:  # timm's function takes the widths of the layers from the name
        model = timm.models.vgg.VGG(cfg, norm_layer=nn.BatchNorm2d, **options)
        model.pretrained_cfg = {**timm.get_pretrained_cfg(name).to_dict(), "architecture": name}
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif key.endswith("running_mean"):
                value.normal_(0, 0.5)
    return model.eval()


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


def make_trio(start: nn.Module) -> Trio:
    return Trio(start, moved(start, 1), moved(start, 2))


@cache
def trio(name: str) -> Trio:
    made = make_trio(create(name))
    SHARED.extend((made.start, made.standard, made.robust))
    return made


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
