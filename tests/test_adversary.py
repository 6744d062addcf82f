"""Adversarial images: torchattacks is the oracle, and what must hold of any attack."""

import importlib
import importlib.util
import json
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import hf_rws
from hf_rws import cli
from hf_rws.data.preprocessing import Normalize
from hf_rws.data.sets import ImageSet
from hf_rws.errors import OptionError
from hf_rws.evaluation import Adversary, Answers, accuracy, attack, compare, evaluate
from hf_rws.evaluation.adversary import _NORMS, attacked
from hf_rws.study.layout import StudyFolder
from hf_rws.study.run import create_start, run_study
from hf_rws.timm_repo import save_timm_repo
from hf_rws.training.trainer import train
from tests.helpers import (
    CLASSES,
    arguments,
    datasets_cache,  # noqa: F401
    image_set,
    log_of,
    on_cpu,  # noqa: F401
    same,
    splits,
    toy_dataset,
)
from tests.helpers import model as created
from tests.test_cli import call  # noqa: F401
from tests.test_training import _interrupt

pytestmark = pytest.mark.usefixtures("on_cpu")

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


@pytest.mark.parametrize("adversary", ADVERSARIES, ids=str)
def test_it_is_pgd_by_its_definition(adversary, network, given):
    """Image by image; unlike torchattacks, this is always there."""
    mean, std = (torch.tensor(network.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    eps, step, inf = adversary.eps / 255, adversary.step / 255, adversary.norm == "linf"
    source = hf_rws.corruptions.randomness.ImageSource(5, f"pgd-{adversary.norm}", 0, range(3), torch.device("cpu"))
    starts = _NORMS[adversary.norm].start(source, (3, 32, 32)).split(1)
    expected = []
    for clean, label, start in zip((given.images[:3] / 255).split(1), given.labels[:3].split(1), starts, strict=True):
        image = (clean + eps * start).clamp(0, 1)
        for _ in range(adversary.steps):
            image = image.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(network((image - mean) / std), label), image)
            change = image.detach() + step * (gradient.sign() if inf else gradient / gradient.norm()) - clean
            change = change.clamp(-eps, eps) if inf else change * min(1.0, eps / float(change.norm()))
            image = (clean + change).clamp(0, 1)
        expected.append(image)
    found = attack(network, given.images[:3], given.labels[:3], adversary, seed=5)
    assert torch.allclose(found, torch.cat(expected), atol=1e-5, rtol=0)


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
    adversary = Adversary("linf", 8, steps=2)
    network.train()
    network.get_classifier().eval()
    frozen = next(network.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        with torch.no_grad(), torch.autocast("cpu"):
            found = attack(network, given.images, given.labels, adversary)
        with torch.inference_mode():
            assert torch.equal(attack(network, given.images, given.labels, adversary), found)
        assert network.training
        assert not network.get_classifier().training
        assert not frozen.requires_grad
        assert sum(not weight.requires_grad for weight in network.parameters()) == 1
        assert all(weight.grad is None for weight in network.parameters())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    finally:
        frozen.requires_grad_(True)
        network.eval()
    assert torch.equal(attack(network, given.images, given.labels, adversary), found)


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
    adversary = Adversary("linf", 8, steps=2)
    base, robust, model = (created("vgg16_bn_gap", seed=seed) for seed in (0, 1, 0))
    alone = evaluate(base, given, [], adversary=adversary)
    signature = hf_rws.extract(
        robust, base, None, projection=None, num_layers="all", corruption="pgd-linf-8", bits=None
    )
    hf_rws.patch(model, signature)
    found = compare(model, given, [], adversary=adversary)
    assert found.before["pgd-linf-8"] == alone["pgd-linf-8"]
    seen = []
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, args, output: seen.append(module.weight.detach().clone()))
    evaluate(model, given, [], clean=False, adversary=adversary)
    assert len(seen) == 3
    assert all(torch.allclose(weight, next(robust.parameters()), atol=1e-5) for weight in seen)


# --- training ---

ATTACKED = {"adversary": "linf", "eps": 16, "attack_steps": 2}
SMALL = splits(16, 4, 4)


def _trained(folder, network=None, data=None, **options):
    result = train(network or created(), data or SMALL, folder, arguments(**options))
    return result, load_file(folder / "model.safetensors")


def test_resumed_adversarial_training_equals_uninterrupted(tmp_path, monkeypatch):
    _, expected = _trained(tmp_path / "whole", created("vgg16_bn_gap", drop_rate=0.3), **ATTACKED)
    with monkeypatch.context() as patched:
        _interrupt(patched, 3)
        with pytest.raises(KeyboardInterrupt):
            _trained(tmp_path / "cut", created("vgg16_bn_gap", drop_rate=0.3), **ATTACKED)
    train(created("vgg16_bn_gap", drop_rate=0.3), SMALL, tmp_path / "cut", arguments(**ATTACKED), resume=True)
    assert same(load_file(tmp_path / "cut" / "model.safetensors"), expected)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_in_how_many_parts_a_batch_is_attacked_does_not_matter(tmp_path, monkeypatch):
    seen = {}
    for parts in (1, 2):
        shown = seen.setdefault(parts, [])

        def noted(*given, shown=shown, **options):
            shown.append(attacked(*given, **options))
            return shown[-1]

        monkeypatch.setattr("hf_rws.training.trainer.attacked", noted)
        _trained(tmp_path / str(parts), epochs=1, lr=1e-9, gradient_accumulation_steps=parts, **ATTACKED)
    one, two = (torch.cat(shown) for shown in seen.values())
    assert len(seen[2]) == 2 * len(seen[1]) == 4
    assert ((one - two).abs() > 1e-5).float().mean() < 0.002  # signs of gradients that are nearly 0


def test_the_best_epoch_and_the_result_are_those_under_pgd_10(tmp_path):
    network, data = created("vgg16_bn_gap"), SMALL
    result, saved = _trained(tmp_path / "run", network, data, epochs=1, **ATTACKED)
    network.load_state_dict(saved)
    measured = Adversary("linf", 16)
    assert result.test_accuracy == {
        "clean": accuracy(network, data.test),
        "pgd-linf-16": accuracy(network, data.test, adversary=measured),
    }
    assert result.validation_accuracy == pytest.approx(
        accuracy(network, data.validation, adversary=measured, seed=2), abs=1e-6
    )
    record = json.loads((tmp_path / "run" / "training_args.json").read_text())
    assert [record[name] for name in ("adversary", "eps", "attack_steps", "attack_step_size")] == ["linf", 16, 2, 20]


def test_a_standard_model_knows_of_no_adversary(tmp_path):
    _trained(tmp_path / "run", epochs=1, eps=3)
    record = json.loads((tmp_path / "run" / "training_args.json").read_text())
    assert not {"adversary", "eps", "attack_steps", "attack_step_size"} & record.keys()
    again = train(created(), SMALL, tmp_path / "run", arguments(epochs=1), resume=True)  # the same run
    assert again.test_accuracy.keys() == {"clean"}


def test_learning_from_attacked_images_makes_robust():
    """Two classes, told by a spot that eps does not hide and, all in all more clearly, by many pixels that it does."""
    labels = torch.arange(64) % 2
    side = (2 * labels - 1).view(-1, 1, 1, 1)
    images = 128 + 2 * torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 3 * side
    images[:, :, 4, 4] += 30 * side[:, :, 0, 0]
    data = ImageSet(images.round().to(torch.uint8), labels, ())
    ra = {}
    for name, eps in (("standard", 0), ("robust", 8)):
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        network.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
        torch.nn.init.zeros_(network[1].weight)
        optimizer, normalize = torch.optim.SGD(network.parameters(), lr=1.0), Normalize.of(network)
        for step in range(60):
            shown = attack(network, data.images, labels, Adversary("linf", eps, steps=2), seed=step)
            optimizer.zero_grad()
            F.cross_entropy(network(normalize(255 * shown)), labels).backward()
            optimizer.step()
        assert accuracy(network, data) == 1
        ra[name] = accuracy(network, data, adversary=Adversary("linf", 8))
    assert (ra["standard"] < 0.2, ra["robust"] > 0.8) == (True, True), ra


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"adversary": "l1"}, "adversary must be one of linf, l2"),
        ({"adversary": "linf", "eps": -8}, "eps"),
        ({"adversary": "linf", "corruption": ("fog",)}, "fog and linf: train one for each"),
    ],
)
def test_arguments_that_make_no_sense(options, match):
    with pytest.raises(OptionError, match=match):
        arguments(**options)


# --- a study ---


def test_a_study_has_a_row_for_an_adversary(tmp_path):
    data = splits(8, 4, 8)
    start = create_start("vgg16_gap", data, width=0.05)
    weights = {name: value.clone() for name, value in start.state_dict().items()}
    with pytest.raises(OptionError, match=r"pgd-linf-16 is extracted from a robust model, not distilled"):
        run_study(start, data, tmp_path, arguments(epochs=1, **ATTACKED), corruptions=(), distilled=8)
    train(start, data, tmp_path / "base", arguments(epochs=1))  # which is the base also of a study with an adversary
    start.load_state_dict(weights)
    save_timm_repo(create_start("vgg16_gap", data, width=0.05), tmp_path / "pretrained")
    study = run_study(start, data, tmp_path, arguments(epochs=1, **ATTACKED), corruptions=(), scale_curve=False)
    (row,), folder = study.rows, tmp_path / "rws-pgd-linf-16"
    assert (row.corruption, row.severity, row.title) == ("pgd-linf-16", 0, "pgd-linf-16")
    patched = hf_rws.load_patched(tmp_path / "base", folder, strict=True)
    assert row.ra["extracted"] == accuracy(patched, data.test, adversary=Adversary("linf", 16))
    last = log_of(tmp_path / "robust-pgd-linf-16")[-1]["test_accuracy"]
    assert last == {"clean": row.ta["robust"], "pgd-linf-16": row.ra["robust"]}
    config = json.loads((folder / "config.json").read_text())
    assert config["corruption"]["name"] == "pgd-linf-16"
    assert config["corruption"].get("severity") is None
    assert config["metrics"]["attack"] == "PGD-10, linf 16/255, steps of 4/255"
    assert config["method"]["training"]["training_attack"] == "PGD-2, linf 16/255, steps of 20/255"
    card = (folder / "README.md").read_text()
    assert "corruption:pgd-linf-16" in card
    assert "severity" not in card
    assert "pgd-linf-16, PGD-10, linf 16/255, steps of 4/255 (RA)" in card
    assert "| pgd-linf-16 |" in study.to_markdown()
    assert StudyFolder(tmp_path).corruptions == ()  # what scripts can corrupt images by


def test_the_command_line_takes_an_adversary(tmp_path, call, datasets_cache):  # noqa: F811
    folder = toy_dataset(tmp_path / "toy", train=20, test_images=8)
    save_timm_repo(created(), tmp_path / "base", label_names=CLASSES)
    asked = ["evaluate", tmp_path / "base", "--dataset", folder, "--device", "cpu"]
    code, out, _ = call(cli.cli, *asked, "--adversary", "l2", "--eps", "128", "--attack-steps", "2", "--json")
    assert code == 0
    assert [row["corruption"] for row in json.loads(out)] == ["clean", "pgd-l2-128"]
    code, _, err = call(cli.cli, *asked, "--eps", "8")
    assert code == 2
    assert "--eps goes with --adversary" in err


@pytest.mark.parametrize("index", [torch.tensor(3), torch.arange(5), torch.zeros(12)], ids=["one", "few", "floats"])
def test_numbers_that_do_not_fit_the_images_are_refused(network, given, index):
    with pytest.raises(OptionError, match="index must be a number, or one for each of 12 images"):
        attack(network, given.images, given.labels, ADVERSARIES[0], index=index)


def test_the_name_of_a_norm_is_no_adversary(network, given):
    with pytest.raises(OptionError, match=r"adversary must be an hf_rws\.evaluation\.Adversary.*got 'linf'"):
        evaluate(network, given, [], adversary="linf")
