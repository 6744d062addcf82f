import json
import stat

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import load_model_config_from_hf, save_for_hf
from torch import nn
from torch.nn import functional as F

import hf_rws
from hf_rws.errors import OptionError
from hf_rws.layers import find_layers
from hf_rws.models import is_ours
from hf_rws.timm_repo import save_timm_repo
from tests.helpers import CLASSES, model, same, weights
from tests.hub import hub_fixture  # noqa: F401
from tests.models import moved

NAMES = {"vgg16_gap": "vgg16", "vgg16_bn_gap": "vgg16_bn"}  # ours -> timm's own with the same convolutions
CHANNELS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]

RESNETS = {"resnet20_cifar": 3, "resnet56_cifar": 9, "resnet26_gn_cifar": 4}  # blocks of a stage

both = pytest.mark.parametrize("name", NAMES)


def _convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def _meta(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


def _save(network, folder):
    save_timm_repo(network, folder, label_names=CLASSES)
    return timm.create_model(f"local-dir:{folder}", pretrained=True)


@both
def test_timm_knows_it(name):
    network = timm.create_model(name, num_classes=10, width=0.25)
    assert timm.is_model(name)
    assert [conv.out_channels for conv in _convolutions(network)] == [channels // 4 for channels in CHANNELS]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == (13 if "bn" in name else 0)
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert network.num_features == 128


@both
def test_convolutions_are_those_of_timms_vgg(name):
    """Names and shapes at full width: the ImageNet weights fit."""
    ours, theirs = (
        {key: value.shape for key, value in _meta(network).state_dict().items() if key.startswith("features.")}
        for network in (name, NAMES[name])
    )
    assert ours == theirs
    assert [conv.out_channels for conv in _convolutions(_meta(name))] == CHANNELS
    assert not hasattr(_meta(name), "pre_logits")


@both
def test_hub_ids_of_the_imagenet_weights(name):
    config = _meta(name).pretrained_cfg
    assert config["hf_hub_id"] == f"timm/{NAMES[name]}.tv_in1k"
    source = timm.get_pretrained_cfg(f"{NAMES[name]}.tv_in1k")
    assert (config["mean"], config["std"]) == (source.mean, source.std)


def test_the_parts_that_timm_asks_for():
    network = model().eval()
    images = torch.zeros(1, 3, 64, 64)
    assert network.forward_features(images).shape == (1, network.num_features, 2, 2)
    assert network.forward_head(network.forward_features(images), pre_logits=True).shape == (1, network.num_features)
    assert network.get_classifier() is network.head.fc
    network.reset_classifier(7)
    assert network(images).shape == (1, 7)
    network.reset_classifier(0)
    assert network(images).shape == (1, network.num_features)
    network.set_grad_checkpointing(False)
    with pytest.raises(OptionError, match="not supported"):
        network.set_grad_checkpointing()
    features = timm.create_model("vgg16_bn_gap", features_only=True, width=0.05).eval()(torch.zeros(1, 3, 32, 32))
    assert [feature.shape[2] for feature in features] == [32, 16, 8, 4, 2]


def test_grey_images_and_dropout():
    network = timm.create_model("vgg16_gap", num_classes=3, in_chans=1, width=0.05, drop_rate=0.5)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
    assert network.head.drop.p == 0.5


@pytest.mark.parametrize("width", [0, -1.0, float("nan")])
def test_width_must_be_positive(width):
    with pytest.raises(OptionError, match="width must be above 0"):
        timm.create_model("vgg16_gap", width=width)


@pytest.mark.parametrize("name", [*NAMES, *RESNETS, "resnet18"])
def test_saved_and_loaded_alike(name, tmp_path):
    options = {"width": 0.05} if name in NAMES else {}
    network = timm.create_model(name, num_classes=4, **options).eval()
    network.pretrained_cfg = dict(
        network.pretrained_cfg, input_size=(3, 32, 32), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
    )
    loaded = _save(network, tmp_path / "repo").eval()
    assert same(weights(loaded), weights(network))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), network(images))
    data = timm.data.resolve_model_data_config(loaded)
    assert data["input_size"] == (3, 32, 32)
    assert (tuple(data["mean"]), tuple(data["std"])) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert loaded.pretrained_cfg["label_names"] == list(CLASSES)


def _by_the_description(state, x):
    """A ResNet for CIFAR, in eval mode, from its tensors."""

    def norm(name, x):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        if f"{name}.running_mean" not in state:
            return F.group_norm(x, 8, weight, bias)
        return F.batch_norm(x, state[f"{name}.running_mean"], state[f"{name}.running_var"], weight, bias)

    before = "bn1.weight" not in state
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    x = x if before else F.relu(norm("bn1", x))
    for name in sorted({key.rsplit(".", 2)[0] for key in state if key.startswith("layer")}):
        first, second = (state[f"{name}.conv{number}.weight"] for number in (1, 2))
        stride = len(first) // first.shape[1]
        y = F.relu(norm(f"{name}.bn1", x)) if before else x
        y = F.relu(norm(f"{name}.bn{2 if before else 1}", F.conv2d(y, first, stride=stride, padding=1)))
        y = F.conv2d(y, second, padding=1)
        if before and stride == 2:
            x = F.avg_pool2d(x, 2)
            x = torch.cat([x, torch.zeros_like(x)], dim=1)
        elif stride == 2:
            quarter = torch.zeros_like(x[:, ::2, ::2, ::2])
            x = torch.cat([quarter, x[:, :, ::2, ::2], quarter], dim=1)
        x = y + x if before else F.relu(norm(f"{name}.bn2", y) + x)
    x = F.relu(norm("bn", x)) if before else x
    head = "fc" if before else "linear"
    return F.linear(x.mean((2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])


@pytest.mark.parametrize("name", RESNETS)
def test_the_resnets_of_the_field(name):
    network = moved(timm.create_model(name), seed=1, size=0.1).eval()  # norms that do something
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(images), _by_the_description(network.state_dict(), images))
    assert len(find_layers(network)) == len(_convolutions(network)) == 6 * RESNETS[name] + 1
    assert [is_ours(known) for known in (name, "resnet18")] == [True, False]
    features = network.forward_features(images)
    assert features.shape == (2, 64, 8, 8)
    assert network.forward_head(features, pre_logits=True).shape == (2, 64)
    network.reset_classifier(7)
    assert network.get_classifier().out_features == network(images).shape[1] == 7
    with pytest.raises(OptionError, match="not supported"):
        network.set_grad_checkpointing()
    maps = timm.create_model(name, features_only=True)(images)
    assert [tuple(found.shape[1:]) for found in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize("name", RESNETS)
def test_a_signature_of_theirs_comes_off_without_a_trace(name):
    base = timm.create_model(name)
    made = hf_rws.extract(moved(base, seed=1, size=0.1), base, None, corruption="fog", projection=None)
    assert made.config.method.num_layers == 7
    before = weights(base)
    hf_rws.patch(base, made, scales=[0.7]).clear()
    assert same(weights(base), before)


def test_config_of_a_saved_repo(tmp_path):
    save_timm_repo(model(), tmp_path, label_names=CLASSES)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "vgg16_gap"
    assert config["num_classes"] == 4
    assert config["model_args"]["width"] == 0.05
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert config["label_names"] == list(CLASSES)


def test_class_names_outlive_loading_and_saving_and_stand_in_one_place(tmp_path):
    named = _save(model(), tmp_path / "one")
    save_timm_repo(named, tmp_path / "two")
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert config["label_names"] == list(CLASSES)
    assert "label_names" not in config["pretrained_cfg"]
    named.reset_classifier(3)  # other classes, whatever they are called
    save_timm_repo(named, tmp_path / "three")
    assert "label_names" not in (tmp_path / "three" / "config.json").read_text()


def test_a_saved_repo_is_two_files_that_others_may_read(tmp_path):
    save_timm_repo(model(), tmp_path / "repo")
    files = sorted((tmp_path / "repo").iterdir())
    assert [file.name for file in files] == ["config.json", "model.safetensors"]
    (tmp_path / "plain").touch()
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {stat.S_IMODE((tmp_path / "plain").stat().st_mode)}


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "repo").write_text("mine")
    with pytest.raises(OptionError, match="repo is a file"):
        save_timm_repo(model(), tmp_path / "repo")
    assert (tmp_path / "repo").read_text() == "mine"


def test_a_model_that_uses_modules_twice_is_saved_under_all_their_names(tmp_path):
    small = {"embed_dims": (8, 16, 16, 16), "serial_depths": (2, 1, 1, 1), "num_heads": 8, "img_size": 32}
    torch.manual_seed(0)
    network = timm.create_model("coat_lite_tiny", num_classes=4, **small).eval()
    tensors = network.state_dict(keep_vars=True)
    assert len({value.data_ptr() for value in tensors.values()}) < len(tensors)
    network.register_buffer("part", network.state_dict()["head.bias"][1:3])  # a piece of another tensor
    stored = load_file(save_timm_repo(network, tmp_path) / "model.safetensors")
    assert same(stored, weights(network))
    del network.part
    save_timm_repo(network, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=4, **small).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))


def test_saving_again_gives_the_same_bytes_in_any_memory_format(tmp_path):
    network = model("vgg16_bn_gap")
    first = (save_timm_repo(network, tmp_path) / "model.safetensors").read_bytes()
    network.to(memory_format=torch.channels_last)
    assert (save_timm_repo(network, tmp_path) / "model.safetensors").read_bytes() == first
    assert network.features[3].weight.is_contiguous(memory_format=torch.channels_last)


def _imagenet_checkpoint(network, folder):
    """What timm's vgg16.tv_in1k holds, but for the size of the fully connected layers."""
    generator = torch.Generator().manual_seed(5)
    checkpoint = {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if name.startswith("features.")
    }
    for name in ("pre_logits.fc1", "pre_logits.fc2", "head.fc"):
        checkpoint |= {f"{name}.weight": torch.ones(1, 1), f"{name}.bias": torch.ones(1)}
    save_file(checkpoint, folder / "imagenet.safetensors")
    return checkpoint


@pytest.mark.parametrize("classes", [10, 0, 1000])
def test_pretrained_takes_the_convolutions_and_keeps_its_own_head(classes, tmp_path):
    # one network is enough: at full width a second takes longer than it tells
    checkpoint = _imagenet_checkpoint(timm.create_model("vgg16_bn_gap", num_classes=0), tmp_path)
    overlay = {"file": str(tmp_path / "imagenet.safetensors")}
    network = timm.create_model("vgg16_bn_gap", pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay)
    found = network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in checkpoint.items() if name.startswith("features."))
    if classes:
        assert found["head.fc.weight"].shape == (classes, 512)
        assert 0 < found["head.fc.weight"].std() < 0.02  # freshly drawn
        assert not found["head.fc.bias"].any()


def test_pretrained_at_another_width_is_an_error(tmp_path):
    _imagenet_checkpoint(model(), tmp_path)
    overlay = {"file": str(tmp_path / "imagenet.safetensors")}
    with pytest.raises(OptionError, match=r"fit width=1.0 only, not width=0.05; use pretrained=False"):
        timm.create_model("vgg16_gap", pretrained=True, width=0.05, pretrained_cfg_overlay=overlay)


def test_timms_own_save_for_hf(tmp_path):
    network = model()
    save_for_hf(network, str(tmp_path / "repo"), model_args={"width": network.width})
    loaded = timm.create_model(f"local-dir:{tmp_path / 'repo'}", pretrained=True)
    assert same(weights(loaded), weights(network))


def test_loaded_from_the_hub(tmp_path, hub):
    network = model("vgg16_bn_gap")
    folder = save_timm_repo(network, tmp_path / "repo", label_names=CLASSES)
    hub.commit("user/vgg", {file.name: file.read_bytes() for file in folder.iterdir()})
    loaded = timm.create_model("hf-hub:user/vgg", pretrained=True)
    assert same(weights(loaded), weights(network))
    config, architecture, options = load_model_config_from_hf("user/vgg")
    assert (architecture, options["width"]) == ("vgg16_bn_gap", 0.05)
    assert tuple(config["input_size"]) == (3, 32, 32)
