import pytest
import timm
import torch
from torch import nn

import hf_rws.models  # noqa: F401
from hf_rws.errors import OptionError
from hf_rws.fingerprints import digest, fingerprint, has_fingerprint, weights_digest
from hf_rws.layers import find_layers, first_layers, head_names, layer_tensors, run_first_layers
from tests.models import MATRIX, create, moved, trio


def test_the_stem_of_a_resnet_is_its_first_layer():
    layers = find_layers(create("resnet18"))
    assert [tensor.name for tensor in layers[0]] == [
        "conv1.weight",
        "bn1.weight",
        "bn1.bias",
        "bn1.running_mean",
        "bn1.running_var",
    ]
    assert {tensor.name.rsplit(".", 2)[0] for tensor in layers[2]} == {"layer1.1"}


@pytest.mark.parametrize("name", ["vgg16_bn_gap", "convnext_atto"])
def test_number_of_layers(name):
    model = trio(name).start
    everything = find_layers(model)
    assert first_layers(model) == everything[:7]
    assert first_layers(model, 3) == everything[:3]
    assert first_layers(model, "all") == everything
    for wrong in (0, -1, len(everything) + 1, True, 2.0, "seven"):
        with pytest.raises(OptionError, match=f"1 to {len(everything)}"):
            first_layers(model, wrong)


class Plain(nn.Module):
    def __init__(self, matcher=None):
        super().__init__()
        self.norm0 = nn.LayerNorm(3)
        self.first = nn.Linear(3, 4)
        self.norm1 = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 5)
        if matcher is not None:
            self.group_matcher = matcher


def _broken(coarse=False):
    raise ValueError("no groups")


@pytest.mark.parametrize("matcher", [None, _broken, lambda coarse=False: {"stem": None}, lambda coarse=False: None])
def test_models_without_a_usable_group_matcher_are_grouped_by_registration(matcher):
    layers = find_layers(Plain(matcher))
    assert [[tensor.name.partition(".")[0] for tensor in layer] for layer in layers] == [
        ["norm0"] * 2 + ["first"] * 2 + ["norm1"] * 4,
        ["second"] * 2,
    ]


def test_head_of_a_distilled_model_has_two_parts():
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3)
    assert head_names(model) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_weights_digest_is_of_everything_but_the_head():
    model = trio("vgg16_bn_gap").start
    digest = weights_digest(model)
    other_head = moved(model, 0, size=0.0)
    other_head.load_state_dict(model.state_dict())
    other_head.reset_classifier(7)
    assert weights_digest(other_head) == digest
    assert weights_digest(moved(model, 3)) != digest


def test_fingerprint_is_the_digest_of_evenly_spaced_values():
    weights = {"b": torch.randn(3, 50, 100), "a": torch.randn(7), "c": torch.tensor(0.5), "d": torch.randn(4097)}
    samples = {
        "a": weights["a"],
        "b": weights["b"].flatten()[::4],
        "c": weights["c"].reshape(1),
        "d": weights["d"][::2],
    }
    for key, found in fingerprint(weights).items():
        assert found == digest((name, value.to(getattr(torch, key))) for name, value in samples.items())[:32]


def test_fingerprint_survives_half_precision_and_notices_other_weights():
    weights = {"a": torch.randn(100, 100, generator=torch.Generator().manual_seed(0)), "b": torch.arange(5.0)}
    full = fingerprint(weights)
    assert full.keys() == {"float32", "float16", "bfloat16"}
    assert fingerprint({"b": weights["b"], "a": weights["a"]}) == full
    assert has_fingerprint(weights, full)
    for dtype in (torch.float16, torch.bfloat16):
        half = {key: value.to(dtype) for key, value in weights.items()}
        assert has_fingerprint(half, full)
        assert has_fingerprint({key: value.float() for key, value in half.items()}, full)  # restored from a half file
    for changed in (weights["a"] + 1e-3, weights["a"] * (1 + 1e-6)):
        assert not has_fingerprint({"a": changed, "b": weights["b"]}, full)
    assert not has_fingerprint(weights, {})


# --- running the first layers only ---

ENDS = [  # model, layers, the module whose output it is
    ("vgg16_gap", 1, "features.0"),
    ("vgg16_gap", 7, "features.14"),
    ("vgg16_bn", 2, "features.4"),
    ("resnet18", 1, "bn1"),
    ("resnet18", 2, "layer1.0"),
    ("resnet18", 3, "layer1"),
    ("resnet50", 5, "layer2"),
    ("convnext_atto", 2, "stages.0.blocks.0"),
    ("vit_tiny_patch16_224", 1, "patch_embed"),
    ("vit_tiny_patch16_224", 3, "blocks.1"),
    ("mobilenetv3_small_050", 1, "bn1"),
    ("densenet121", 1, "features.norm0"),
]


@pytest.mark.parametrize(("name", "num_layers", "end"), ENDS, ids=str)
def test_running_the_first_layers_gives_what_a_hook_sees_and_runs_nothing_beyond(name, num_layers, end):
    model = create(name, options=MATRIX[name])
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen, ran = [], []
    hook = model.get_submodule(end).register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    with torch.no_grad():
        model(images)
    hook.remove()
    for key, module in model.named_modules():
        module.register_forward_hook(lambda module, args, output, key=key: ran.append(key))
    with torch.no_grad():
        found = run_first_layers(model, images, num_layers)
    assert torch.equal(found, seen[0])
    inside = {tensor.name.rpartition(".")[0] for layer in first_layers(model, num_layers) for tensor in layer}
    beyond = {tensor.name.rpartition(".")[0] for tensor in layer_tensors(model).values()} - inside
    assert not beyond & set(ran)
    assert ran[-1] == end
    assert all(len(module._forward_hooks) == 1 for module in model.modules())  # ours here


def test_running_all_layers_runs_no_head_and_errors_leave_no_hooks():
    model = create("resnet18")
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(run_first_layers(model, images, "all"), model.layer4(run_first_layers(model, images, 7)))
        with pytest.raises(RuntimeError):
            run_first_layers(model, images[:, :1], 2)

    with pytest.raises(OptionError, match="num_layers"):
        run_first_layers(model, images, 0)
    assert not any(module._forward_hooks for module in model.modules())
