"""Adversarial images: torchattacks is the oracle, and what must hold of any attack."""

import importlib
import importlib.util
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import timm
import torch
from torch.nn import functional as F

import hf_rws
from hf_rws.data.preprocessing import Normalize
from hf_rws.errors import OptionError
from hf_rws.evaluation import Adversary, Answers, accuracy, attack, compare, evaluate
from hf_rws.evaluation.adversary import _NORMS
from tests.helpers import image_set
from tests.helpers import model as created

ADVERSARIES = [Adversary("linf", 8), Adversary("l2", 128), Adversary("linf", 4, steps=3, step_size=2)]
BALLS = {"linf": lambda change: change.abs().amax((1, 2, 3)), "l2": lambda change: change.flatten(1).norm(dim=1)}


@pytest.fixture(scope="module")
def network():
    network = created("vgg16_bn_gap", width=0.1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def given():
    return image_set(12)


def scores(network, images):
    with torch.no_grad():
        return network(Normalize.of(network)(255 * images))


# --- the oracle ---


@pytest.fixture
def torchattacks(monkeypatch):
    """Its modules, without its face: that imports all attacks, some of which need scipy."""
    found = importlib.util.find_spec("torchattacks")
    if found is None:
        pytest.skip("torchattacks is not installed: pip install --no-deps torchattacks")
    for name in ("torchattacks", "torchattacks.attacks"):
        package = ModuleType(name)
        package.__path__ = [f"{found.submodule_search_locations[0]}/{name.partition('.')[2]}"]
        monkeypatch.setitem(sys.modules, name, package)
    kinds = {}
    for norm, (file, name) in {"linf": ("pgd", "PGD"), "l2": ("pgdl2", "PGDL2")}.items():
        kinds[norm] = getattr(importlib.import_module(f"torchattacks.attacks.{file}"), name)
    yield kinds
    for name in [name for name in sys.modules if name.startswith("torchattacks.")]:
        del sys.modules[name]


@pytest.mark.parametrize("adversary", ADVERSARIES, ids=str)
def test_it_is_that_of_torchattacks(adversary, network, given, torchattacks, monkeypatch):
    class FromPixels(torch.nn.Module):
        def __init__(self):
            super().__init__()
            config = network.pretrained_cfg
            self.network, self.mean, self.std = (
                network,
                *(torch.tensor(config[x]).view(3, 1, 1) for x in ("mean", "std")),
            )

        def forward(self, images):
            return self.network((images - self.mean) / self.std)

    clean, nearer = given.images / 255, replace(adversary, eps=1.0)
    source = hf_rws.corruptions.randomness.ImageSource(5, f"pgd-{adversary.norm}", 0, range(12), torch.device("cpu"))
    start = _NORMS[adversary.norm].start(source, (3, 32, 32))
    if adversary.norm == "linf":
        monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(start * high))
    else:  # a direction, then a length
        monkeypatch.setattr(torch.Tensor, "normal_", lambda self: self.copy_(start))
        monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(self_length(start)))
    theirs = torchattacks[adversary.norm](
        FromPixels().eval(), eps=adversary.eps / 255, alpha=adversary.step / 255, steps=adversary.steps
    )(clean, given.labels)
    monkeypatch.undo()
    ours = attack(network, given.images, given.labels, adversary, seed=5)
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)
    assert not torch.allclose(ours, attack(network, given.images, given.labels, nearer, seed=5), atol=1e-3)


def self_length(values):
    return values.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


# --- laws ---


@pytest.mark.parametrize("adversary", ADVERSARIES, ids=str)
def test_attacked_images_are_in_the_ball_and_worse(adversary, network, given):
    clean = given.images / 255
    found = attack(network, given.images, given.labels, adversary)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.min() >= 0
    assert found.max() <= 1
    reached = BALLS[adversary.norm](found - clean) * 255
    assert (reached <= adversary.eps + 1e-3).all()
    assert (reached >= 0.5 * adversary.eps).all()
    before, after = (F.cross_entropy(scores(network, x), given.labels, reduction="none") for x in (clean, found))
    assert (after > before).all()
    assert torch.equal(attack(network, clean, given.labels, adversary), found)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_room_is_no_change(norm, network, given):
    assert torch.equal(attack(network, given.images, given.labels, Adversary(norm, 0)), given.images / 255)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_image_becomes_the_same_in_any_batch(norm, network, given):
    adversary = Adversary(norm, 8, steps=2)
    whole = attack(network, given.images, given.labels, adversary, index=100, seed=1)
    rows = torch.tensor([7, 2])
    some = attack(network, given.images[rows], given.labels[rows], adversary, index=100 + rows, seed=1)
    assert ((some - whole[rows]).abs() > 1e-5).float().mean() < 0.002  # signs of gradients that are nearly 0
    other = attack(network, given.images, given.labels, adversary, index=100, seed=2)
    assert ((other - whole).abs() > 1e-5).float().mean() > 0.5


def test_the_model_is_left_as_it_was(network, given):
    network.train()
    network.get_classifier().eval()
    frozen = next(network.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        with torch.no_grad(), torch.autocast("cpu"):
            found = attack(network, given.images, given.labels, ADVERSARIES[0])
        with torch.inference_mode():
            assert torch.equal(attack(network, given.images, given.labels, ADVERSARIES[0]), found)
        assert network.training
        assert not network.get_classifier().training
        assert not frozen.requires_grad
        assert sum(not weight.requires_grad for weight in network.parameters()) == 1
        assert all(weight.grad is None for weight in network.parameters())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    finally:
        frozen.requires_grad_(True)
        network.eval()
    assert torch.equal(attack(network, given.images, given.labels, ADVERSARIES[0]), found)


def test_a_model_of_grey_images_is_attacked_through_its_grey(given):
    torch.manual_seed(0)
    grey = timm.create_model("resnet18", num_classes=10, in_chans=1).eval()
    found = attack(grey, given.images[:2], given.labels[:2], Adversary("linf", 8, steps=2))
    assert (found - given.images[:2] / 255).abs().max() > 7 / 255


@pytest.mark.parametrize("right", [None, tuple((label,) for label in range(10))], ids=["by number", "listed"])
def test_what_is_made_large_is_the_cross_entropy(right):
    given, labels = torch.randn(5, 10, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    wanted = F.cross_entropy(given, labels, reduction="sum")
    assert torch.allclose(Answers(right).loss(given, labels), wanted)


def test_of_several_right_answers_any_counts():
    given = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]], requires_grad=True)
    loss = Answers(((0, 2), (1,))).loss(given, torch.tensor([0, 1, 2]))  # the last is no class that has an answer
    shares = given.softmax(1)
    assert torch.allclose(loss, -(shares[0, 0] + shares[0, 2]).log() - shares[1, 1].log())
    loss.backward()
    assert torch.isfinite(given.grad).all()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"norm": "l1"}, "linf, l2"),
        ({"eps": -1}, "at least 0"),
        ({"eps": True}, "eps must be a number"),
        ({"steps": 0}, "at least 1"),
        ({"step_size": 0}, "above 0"),
    ],
)
def test_settings_that_make_no_sense(settings, match):
    with pytest.raises(OptionError, match=match):
        Adversary(**settings)


def test_what_cannot_be_attacked(network, given):
    adversary = ADVERSARIES[0]
    for images, labels in [
        (given.images[0], given.labels[:1]),
        (given.images.long(), given.labels),
        (given.images, given.labels[:3]),
        (given.images, given.labels.float()),
        (given.images[:, :2], given.labels),
    ]:
        with pytest.raises(OptionError, match="image"):
            attack(network, images, labels, adversary)
    with torch.inference_mode():
        inner = timm.create_model("vgg16_bn_gap", num_classes=10, width=0.05)
    with pytest.raises(OptionError, match="inference_mode"):
        attack(inner, given.images, given.labels, adversary)


# --- measuring ---


def test_a_row_says_how_accurate_a_model_is_under_attack(network, given):
    adversary = Adversary("linf", 8, steps=2)
    table = evaluate(network, given, ["contrast"], adversary=adversary, seed=3)
    assert [(row.corruption, row.severity) for row in table.rows] == [("clean", 0), ("contrast", 5), ("pgd-linf-8", 0)]
    images = attack(network, given.images, given.labels, adversary, seed=3)
    wanted = (scores(network, images).argmax(1) == given.labels).float().mean()
    assert table["pgd-linf-8"] == accuracy(network, given, adversary=adversary, seed=3) == pytest.approx(float(wanted))
    assert table["clean"] == accuracy(network, given)
    assert table.mean() == table["contrast"]
    assert "pgd-linf-8: PGD-2, linf 8/255, steps of 10/255, white-box" in str(table)
    for batch_size in (5, 1):
        parts = evaluate(network, given, [], adversary=adversary, seed=3, batch_size=batch_size)
        assert abs(parts["pgd-linf-8"] - table["pgd-linf-8"]) <= 1 / 12


def test_a_patched_model_is_attacked_with_its_patch(given):
    base, robust, model = (created("vgg16_bn_gap", seed=seed) for seed in (0, 1, 0))
    alone = {}
    for name, model in (("base", base), ("robust", robust)):
        alone[name] = evaluate(model, given, [], adversary=ADVERSARIES[0])["pgd-linf-8"]
    signature = hf_rws.extract(
        robust, base, None, projection=None, num_layers="all", corruption="pgd-linf-8", bits=None
    )
    hf_rws.patch(model, signature)
    found = compare(model, given, [], adversary=ADVERSARIES[0])
    assert found.before["pgd-linf-8"] == alone["base"]
    seen = []
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, args, output: seen.append(module.weight.detach().clone()))
    evaluate(model, given, [], clean=False, adversary=ADVERSARIES[0])
    assert len(seen) == 11
    assert all(torch.allclose(weight, next(robust.parameters()), atol=1e-5) for weight in seen)
