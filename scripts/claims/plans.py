"""What is trained for the claims: the paper's studies, smaller ones for a machine with a CPU or one GPU, a fixture.

Every plan has studies of several seeds (discriminative), of two datasets from one start that is neither (consistent),
with and without batch norm, a chain of updates, a model of all corruptions, and ablations of the recovery.
"""

from dataclasses import replace
from typing import Any

from claims.parts import Plan, PlannedImages, PlannedModel, PlannedStudy
from hf_rws.corruptions import CORRUPTIONS
from hf_rws.training.arguments import TrainingArguments

CIFAR10, CIFAR100, TINY_IMAGENET = "uoft-cs/cifar10", "uoft-cs/cifar100", "zh-plus/tiny-imagenet"
FIVE = ("gaussian_noise", "fog", "contrast", "impulse_noise", "defocus_blur")
TEN = (*FIVE, "motion_blur", "snow", "elastic_transform", "jpeg_compression", "saturate")  # of every family


def _chain(dataset: str, few: str, start: str, arguments: TrainingArguments, **options: Any) -> list[PlannedModel]:
    """A study on a few classes and half of the images, and three updates: more epochs, more classes, other images."""
    some, more, other = (
        PlannedImages(dataset, few, half=0),
        PlannedImages(dataset, half=0),
        PlannedImages(dataset, half=1),
    )
    gently = replace(arguments, lr=arguments.lr / 4)
    names = options.pop("corruptions", FIVE)
    return [
        PlannedStudy("chain-0", some, arguments, start, corruptions=names, **options),
        PlannedModel("chain-1-more-epochs", some, gently, "chain-0/base", goes_on=True),
        PlannedModel("chain-2-more-classes", more, arguments, "chain-1-more-epochs"),
        PlannedModel("chain-3-other-images", other, gently, "chain-2-more-classes", goes_on=True),
    ]


def _paper() -> Plan:
    """From torchvision's ImageNet weights, 50 epochs each, as the released code has it."""
    vgg = TrainingArguments.from_recipe("paper-vgg16")
    resnet = TrainingArguments.from_recipe("paper-resnet50")
    start, resnet_start, imagenet = "vgg16_gap.tv_in1k", "resnet50.tv_in1k", {"pretrained": True}
    cifar10, cifar100, tiny = (PlannedImages(dataset) for dataset in (CIFAR10, CIFAR100, TINY_IMAGENET))
    chain = _chain(CIFAR10, "0-4", start, vgg, **imagenet)
    parts = [
        *(PlannedStudy(f"cifar10-{seed}", cifar10, replace(vgg, seed=seed), start, **imagenet) for seed in range(3)),
        PlannedStudy("cifar100-0", cifar100, vgg, start, **imagenet),
        PlannedStudy("tiny-imagenet-0", tiny, vgg, start, **imagenet),
        PlannedStudy("tiny-imagenet-resnet50-0", tiny, resnet, resnet_start, **imagenet),
        PlannedStudy("cifar10-bn-0", cifar10, vgg, "vgg16_bn_gap.tv_in1k", **imagenet),
        PlannedModel("all-corruptions", cifar10, replace(vgg, corruption=CORRUPTIONS), start, **imagenet),
        *chain,
        *(
            PlannedStudy(
                f"recovery-epochs-{epochs}", cifar10, replace(vgg, epochs=epochs, milestones=(epochs // 2,)), start,
                corruptions=FIVE, varies=("epochs", epochs), **imagenet,
            )
            for epochs in (10, 25)
        ),
    ]  # fmt: skip
    return Plan(tuple(parts), tuple(part.name for part in chain))


def _small() -> Plan:
    """VGG-16 at a quarter of the width from half of CIFAR-100's classes, 4 epochs each; a few of full width."""
    short = TrainingArguments.from_recipe("short", mixed_precision="no")
    long = replace(short, epochs=16, lr=0.05)
    half, other_half, whole = PlannedImages(CIFAR100, "0-49"), PlannedImages(CIFAR100, "50-99"), PlannedImages(CIFAR100)
    cifar10, quarter = PlannedImages(CIFAR10), {"width": 0.25}
    chain = _chain(CIFAR10, "0-4", "start-bn", short)

    def ablation(name: str, arguments: TrainingArguments, start: str, varies: tuple[str, Any]) -> PlannedStudy:
        return PlannedStudy(f"recovery-{name}", cifar10, arguments, start, corruptions=FIVE, varies=varies)

    parts = [
        PlannedModel("start-bn", half, long, "vgg16_bn_gap", model_args=quarter),
        PlannedModel("start", half, long, "vgg16_gap", model_args=quarter),
        PlannedStudy("cifar10-bn-0", cifar10, short, "start-bn"),
        PlannedStudy("cifar10-bn-1", cifar10, replace(short, seed=1), "start-bn"),
        PlannedStudy("cifar10-bn-2", cifar10, replace(short, seed=2), "start-bn", corruptions=TEN),
        PlannedStudy("cifar10-0", cifar10, replace(short, lr=0.01), "start"),
        PlannedStudy("cifar50-bn-0", other_half, short, "start-bn"),
        PlannedModel("start-wide", half, long, "vgg16_bn_gap"),
        PlannedStudy("cifar10-wide-0", cifar10, short, "start-wide"),
        *(
            ablation(f"epochs-{epochs}", replace(short, epochs=epochs), "start-bn", ("epochs", epochs))
            for epochs in (1, 2, 8)
        ),
        PlannedModel("start-bn-100", whole, long, "vgg16_bn_gap", model_args=quarter),
        ablation("start-100", short, "start-bn-100", ("classes of the start", 100)),
        PlannedModel("all-corruptions", cifar10, replace(short, corruption=CORRUPTIONS), "start-bn"),
        *chain,
        PlannedModel("start-resnet18", half, long, "resnet18"),
        PlannedStudy("cifar10-resnet18-0", cifar10, short, "start-resnet18", corruptions=FIVE),
    ]
    return Plan(tuple(parts), tuple(part.name for part in chain))


def _fixture() -> Plan:
    """Minutes of the others in seconds, on a dataset of four classes: what is measured means nothing."""
    once = TrainingArguments.from_recipe("short", epochs=1, batch_size=16, mixed_precision="no")
    few = {"corruptions": ("contrast", "fog")}
    tiny, some, others = {"width": 0.05}, PlannedImages("fixture", "0-2"), PlannedImages("fixture", "1-3")
    chain = _chain("fixture", "0-1", "start", once, **few)
    parts = [
        PlannedModel("start", PlannedImages("fixture"), once, "vgg16_bn_gap", model_args=tiny),
        PlannedStudy("study-0", some, once, "start", **few),
        PlannedStudy("study-1", some, replace(once, seed=1), "start", **few),
        PlannedStudy("others-0", others, once, "start", **few),
        PlannedStudy("longer", some, replace(once, epochs=2), "start", varies=("epochs", 2), **few),
        PlannedModel("all-corruptions", some, replace(once, corruption=few["corruptions"]), "start"),
        *chain,
    ]
    return Plan(tuple(parts), tuple(part.name for part in chain))


PLANS = {"paper": _paper(), "small": _small(), "fixture": _fixture()}
