"""One matrix: every architecture, from its layers to a signature that is made, kept, put on and taken off."""

from dataclasses import dataclass

import pytest
import timm
import torch

import hf_rws
from hf_rws import Signature
from hf_rws.layers import find_layers, head_names
from tests.models import MATRIX, Trio, create, identical, make_trio, moved, state

# full size: number of layers without the head, and the first tensor of the first, second and last layer
LAYERS = {
    "vgg16_gap": (13, "features.0.weight", "features.2.weight", "features.28.weight"),
    "vgg16_bn": (14, "features.0.weight", "features.3.weight", "pre_logits.fc1.weight"),
    "vgg16_bn_gap": (13, "features.0.weight", "features.3.weight", "features.40.weight"),
    "resnet18": (9, "conv1.weight", "layer1.0.conv1.weight", "layer4.1.conv1.weight"),
    "resnet50": (17, "conv1.weight", "layer1.0.conv1.weight", "layer4.2.conv1.weight"),
    "resnet26d": (9, "conv1.0.weight", "layer1.0.conv1.weight", "layer4.1.conv1.weight"),
    "wide_resnet50_2": (17, "conv1.weight", "layer1.0.conv1.weight", "layer4.2.conv1.weight"),
    "densenet121": (
        59,
        "features.conv0.weight",
        "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock4.denselayer16.norm1.weight",
    ),
    "mobilenetv3_small_050": (14, "conv_stem.weight", "blocks.0.0.conv_dw.weight", "conv_head.weight"),
    "efficientnet_b0": (17, "conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.6.0.conv_pw.weight"),
    "regnety_002": (14, "stem.conv.weight", "s1.b1.conv1.conv.weight", "s4.b7.conv1.conv.weight"),
    "convnext_atto": (13, "stem.0.weight", "stages.0.blocks.0.gamma", "stages.3.blocks.1.gamma"),
    "vit_tiny_patch16_224": (13, "cls_token", "blocks.0.norm1.weight", "blocks.11.norm1.weight"),
    "deit_tiny_distilled_patch16_224": (13, "cls_token", "blocks.0.norm1.weight", "blocks.11.norm1.weight"),
    "swin_tiny_patch4_window7_224": (
        13,
        "patch_embed.proj.weight",
        "layers.0.blocks.0.norm1.weight",
        "layers.3.blocks.1.norm1.weight",
    ),
    "mixer_s32_224": (9, "stem.proj.weight", "blocks.0.norm1.weight", "blocks.7.norm1.weight"),
    "levit_128s": (10, "stem.conv1.linear.weight", "stages.0.blocks.0.attn.attention_biases", None),  # norm in head
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_the_full_size_are_timms_groups(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    layers = find_layers(model)
    count, *firsts = LAYERS[name]
    assert len(layers) == count
    for layer, first in zip((layers[0], layers[1], layers[-1]), firsts, strict=True):
        assert first is None or layer[0].name == first
    tensors = [tensor for layer in layers for tensor in layer]
    found, everything = [tensor.name for tensor in tensors], model.state_dict()
    counters = {key for key in everything if key.endswith("num_batches_tracked")}
    assert len(found) == len(set(found))
    assert set(found) == everything.keys() - head_names(model) - counters
    for depth, layer in enumerate(layers):
        assert all(tensor.layer == depth for tensor in layer)
        assert any(tensor.kind == "weight" for tensor in layer)
    for tensor in tensors:
        assert (tensor.kind == "weight") == (everything[tensor.name].ndim >= 2)
        assert (tensor.eps > 0) == (tensor.kind == "running_var")


@dataclass(frozen=True)
class Made:
    """A small model of one architecture, with two signatures."""

    name: str
    models: Trio
    signatures: dict[str, Signature]

    @property
    def images(self) -> torch.Tensor:
        size = MATRIX[self.name].get("img_size", 32)
        return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))

    def run(self, model):
        with torch.no_grad():
            return model(self.images)


@pytest.fixture(scope="module", params=MATRIX)
def made(request):
    models = make_trio(create(request.param, options=MATRIX[request.param]))
    signatures = {
        label: hf_rws.extract(moved(models.start, seed), models.standard, models.start, corruption=label, bits=bits)
        for seed, (label, bits) in enumerate({"fog": 4, "snow": "small"}.items(), 5)
    }
    return Made(request.param, models, signatures)


def test_layers_run_in_their_order(made):
    first_runs: dict[str, int] = {}
    model = made.models.start

    def note(name):
        first_runs.setdefault(name, len(first_runs))

    hooks = [
        module.register_forward_hook(lambda *_, name=name: note(name))
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    made.run(model)
    for hook in hooks:
        hook.remove()
    starts = [
        min(first_runs[module] for t in layer if (module := t.name.rpartition(".")[0]) in first_runs)
        for layer in find_layers(model)
    ]
    assert starts == sorted(starts)


@pytest.mark.parametrize("projection", ["weights", "all", None])
def test_deltas_are_the_formula(made, projection):
    models = made.models
    found = hf_rws.extract(
        models.robust, models.standard, models.start, corruption="fog", projection=projection, bits=None
    )
    t0, ts, tr = ({k: v.double() for k, v in m.state_dict().items()} for m in (models.start, *models.pair))
    for key, delta in found.deltas().items():
        kind = found.specs[key].kind
        if kind == "running_var":
            eps = models.start.get_submodule(key.rpartition(".")[0]).eps
            expected = torch.log(tr[key] + eps) - torch.log(ts[key] + eps)
        elif (projection == "all" and kind == "vector") or (projection is not None and kind == "weight"):
            ds, dr = ts[key] - t0[key], tr[key] - t0[key]
            expected = dr - (dr * ds).sum() / (ds * ds).sum() * ds
            assert abs((expected * ds).sum() / (expected.norm() * ds.norm() + 1e-30)) < 1e-6  # orthogonal
        else:
            expected = tr[key] - ts[key]
        torch.testing.assert_close(delta, expected.float(), rtol=1e-6, atol=1e-9)
        assert delta.dtype == torch.float32


def test_everything_unprojected_at_scale_one_is_the_robust_model_but_for_its_head(made):
    models = made.models
    everything = hf_rws.extract(
        models.robust, models.standard, None, corruption="fog", projection=None, num_layers="all", bits=None
    )
    patched = models.base()
    hf_rws.patch(patched, everything)
    robust, standard, head = models.robust.state_dict(), models.standard.state_dict(), head_names(patched)
    for key, value in patched.state_dict().items():
        if key in head or key.endswith("num_batches_tracked"):
            assert torch.equal(value, standard[key])
        else:
            torch.testing.assert_close(value, robust[key], rtol=1e-5, atol=1e-7)


def test_the_difference_of_a_model_and_itself_is_zero(made):
    standard = made.models.standard
    found = hf_rws.extract(standard, standard, made.models.start, corruption="nothing", bits=4)
    assert not any(delta.any() for delta in found.deltas().values())


@pytest.mark.parametrize("label", ["fog", "snow"])
def test_a_signature_survives_the_disk(made, label, tmp_path):
    signature = made.signatures[label]
    loaded = Signature.from_pretrained(signature.save_pretrained(tmp_path / "rws"))
    assert loaded.specs == signature.specs
    for key, delta in signature.deltas().items():
        assert torch.equal(loaded.delta(key), delta)
    model = made.models.base()
    hf_rws.patch(model, loaded, strict=True)
    expected = made.models.base()
    hf_rws.patch(expected, signature)
    assert identical(model, state(expected))


def test_on_off_scaled_summed_and_removed(made):
    model = made.models.base()
    before, clean = state(model), made.run(model)
    pointers = {key: value.data_ptr() for key, value in model.state_dict().items()}
    patcher = hf_rws.patch(model, list(made.signatures.values()), scales=[1.0, 0.0], strict=True)
    once, output = state(model), made.run(model)
    assert bool(output.isfinite().all())
    assert not torch.equal(output, clean)
    patcher.set({"snow": -0.5, "fog": 0.25})
    both = state(model)
    patcher.set({"fog": 1.0})
    assert identical(model, once)
    with patcher.using({"fog": 0.25, "snow": -0.5}):
        assert identical(model, both)
    assert identical(model, once)
    patcher.verify()
    patcher.remove("fog")
    assert identical(model, before)
    assert torch.equal(made.run(model), clean)
    patcher.set({"snow": -0.5})
    patcher.add(made.signatures["fog"], scale=0.25)  # in another order
    assert identical(model, both)
    patcher.clear()
    assert identical(model, before)
    assert {key: value.data_ptr() for key, value in model.state_dict().items()} == pointers
