from copy import deepcopy

import pytest
import torch
from torch import nn

import hf_rws
from hf_rws.errors import MismatchError, OptionError
from hf_rws.extraction import project_out
from hf_rws.timm_repo import save_timm_repo
from tests.models import create, identical, moved, signature, state, trio


def test_the_projection_is_linear_orthogonal_and_that_of_robust_minus_standard():
    generator = torch.Generator().manual_seed(0)
    dr, other, ds = (torch.randn(8, 9, generator=generator) for _ in range(3))
    torch.testing.assert_close(project_out(dr, ds), project_out(dr - ds, ds))
    torch.testing.assert_close(project_out(2 * dr + other, ds), 2 * project_out(dr, ds) + project_out(other, ds))
    assert abs(float((project_out(dr, ds) * ds).sum())) < 1e-12
    assert torch.equal(project_out(dr, torch.zeros_like(ds)), dr.double())


def test_a_frozen_tensor_gives_the_plain_difference_and_no_nan():
    models = trio("vgg16_gap")
    frozen = moved(models.start, 1)
    frozen.features[0].weight.data.copy_(models.start.features[0].weight)
    found = hf_rws.extract(models.robust, frozen, models.start, corruption="fog", bits=None)
    expected = models.robust.features[0].weight - models.start.features[0].weight
    torch.testing.assert_close(found.delta("features.0.weight"), expected.detach())


def test_inputs_are_not_changed_and_may_be_state_dicts_folders_or_models(tmp_path):
    models = trio("vgg16_bn_gap")
    before = state(models.standard)
    expected = hf_rws.extract(models.robust, models.standard, models.start, corruption="fog")
    for role in ("robust", "standard", "start"):
        save_timm_repo(getattr(models, role), tmp_path / role)
    folders = hf_rws.extract(tmp_path / "robust", str(tmp_path / "standard"), tmp_path / "start", corruption="fog")
    states = hf_rws.extract(models.robust.state_dict(), models.standard, models.start.state_dict(), corruption="fog")
    for other in (folders, states):
        assert all(torch.equal(other.delta(key), expected.delta(key)) for key in expected.specs)
        assert other.config.base_model == expected.config.base_model
    assert identical(models.standard, before)
    assert str(tmp_path) not in folders.config.to_json(version="0", sha256="0")


def test_wrapped_models_are_seen_through():
    models = trio("vgg16_gap")
    wrapped = torch.nn.DataParallel(models.robust)
    found = hf_rws.extract(wrapped, torch.compile(models.standard), models.start, corruption="fog")
    expected = hf_rws.extract(models.robust, models.standard, models.start, corruption="fog")
    assert all(torch.equal(found.delta(key), expected.delta(key)) for key in expected.specs)


def test_half_precision_models_are_extracted_from():
    models = trio("vgg16_bn_gap")
    halves = [moved(model, 0, size=0.0).half() for model in (models.robust, models.standard, models.start)]
    found = hf_rws.extract(*halves, corruption="fog", bits=None)
    full = hf_rws.extract(models.robust, models.standard, models.start, corruption="fog", bits=None)
    for key, delta in full.deltas().items():
        torch.testing.assert_close(found.delta(key), delta, rtol=0.02, atol=2e-3)


def test_config_says_what_was_done():
    found = hf_rws.extract(
        trio("resnet18").robust,
        trio("resnet18").standard,
        trio("resnet18").start,
        corruption=["fog", "snow"],
        severity=5,
        dataset="uoft-cs/cifar10",
        num_layers=3,
        projection="all",
        bits=[8, 4, "ternary"],
    ).config
    assert (found.corruption.names, found.corruption.severity) == (("fog", "snow"), 5)
    assert (found.method.kind, found.method.num_layers, found.method.projection) == ("extracted", 3, "all")
    assert found.base_model.architecture == "resnet18"
    assert found.base_model.num_classes == 10
    by_layer = {spec.layer: spec.bits for spec in found.tensors if spec.kind == "weight"}
    assert by_layer == {0: 8, 1: 4, 2: "ternary"}
    assert {spec.bits for spec in found.tensors if spec.kind != "weight"} == {16}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"projection": "biases"}, OptionError, "'weights', 'all' or None"),
        ({"pretrained": None}, OptionError, "projection=None"),
        ({"corruption": ""}, OptionError, "label"),
        ({"corruption": []}, OptionError, "label"),
        ({"num_layers": 99}, OptionError, "1 to 13"),
        ({"bits": 9}, OptionError, "9"),
        ({"bits": [4, 4]}, OptionError, "7"),
        ({"robust": 3}, OptionError, "robust must be"),
        ({"robust": "no-such-thing"}, hf_rws.RWSError, "no-such-thing"),
        ({"robust": create("resnet18")}, MismatchError, "different architectures.*robust is resnet18"),
        ({"corruption": None}, OptionError, "label"),
        ({"severity": 9}, OptionError, "severity"),
        ({"severity": 5.0}, OptionError, "severity"),
        ({"robust": {}}, MismatchError, "robust has no tensor"),
    ],
)
def test_bad_options_are_explained(options, error, message):
    models = trio("vgg16_gap")
    given = {"robust": models.robust, "standard": models.standard, "pretrained": models.start, "corruption": "fog"}
    with pytest.raises(error, match=message):
        hf_rws.extract(**{**given, **options})


def test_other_shapes_broken_values_and_bare_state_dicts_are_refused():
    models = trio("vgg16_gap")
    weights = models.robust.state_dict()
    with pytest.raises(MismatchError, match=r"features.2.weight.*in robust but.*in standard"):
        hf_rws.extract(
            {**weights, "features.2.weight": torch.zeros(1, 2)}, models.standard, models.start, corruption="fog"
        )
    broken = {**weights, "features.2.bias": torch.full_like(weights["features.2.bias"], float("nan"))}
    with pytest.raises(OptionError, match=r"features.2.bias.*NaN"):
        hf_rws.extract(broken, models.standard, models.start, corruption="fog")
    with pytest.raises(OptionError, match="must be a model"):
        hf_rws.extract(weights, weights, weights, corruption="fog")


def test_models_without_weights_or_layers_are_refused():
    models = trio("vgg16_gap")
    for given, message in (
        ({"standard": deepcopy(models.standard).to("meta")}, "standard is on the meta device; load its weights first"),
        ({"robust": deepcopy(models.robust).to("meta").state_dict()}, "robust is on the meta device"),
        (dict.fromkeys(("robust", "standard", "pretrained"), nn.Sequential()), "this Sequential has no layers"),
    ):
        start = {"robust": models.robust, "standard": models.standard, "pretrained": models.start}
        with pytest.raises(OptionError, match=message):
            hf_rws.extract(**{**start, **given}, corruption="fog")


def test_a_config_with_gaps_describes_the_base_as_far_as_it_goes():
    base = create("vgg16_gap")
    base.pretrained_cfg = {**base.pretrained_cfg, "mean": None, "std": None, "input_size": None}
    found = hf_rws.extract(moved(base, 1), base, None, corruption="fog", projection=None).config.base_model
    assert (found.mean, found.std, found.input_size) == ((), (), ())


def test_a_patched_model_is_no_standard_model():
    models = trio("vgg16_gap")
    model = models.base()
    hf_rws.patch(model, signature("vgg16_gap"))
    with pytest.raises(OptionError, match=r"standard carries signatures.*clear\(\)"):
        hf_rws.extract(models.robust, model, models.start, corruption="fog")
    model.rws.clear()
    hf_rws.extract(models.robust, model, models.start, corruption="fog")


def test_a_warning_if_the_two_did_not_start_from_the_same_weights(tmp_path):
    models = trio("vgg16_gap")
    for role, start in (("robust", "a" * 64), ("standard", "b" * 64)):
        save_timm_repo(getattr(models, role), tmp_path / role)
        (tmp_path / role / "training_args.json").write_text(f'{{"init_sha256": "{start}"}}')
    with pytest.warns(UserWarning, match="did not start from the same weights"):
        hf_rws.extract(tmp_path / "robust", tmp_path / "standard", models.start, corruption="fog")


def test_relative_differences_of_the_weights_by_layer():
    from hf_rws.extraction import relative_differences

    models = trio("vgg16_bn_gap")
    found = relative_differences(models.robust, models.standard)
    assert len(found) == 13
    state, other = models.standard.state_dict(), models.robust.state_dict()
    first, moved = state["features.0.weight"], other["features.0.weight"]
    assert found[0] == pytest.approx(float((moved - first).norm() / first.norm()), rel=1e-5)
    assert relative_differences(models.standard, models.standard) == [0.0] * 13
    with pytest.raises(MismatchError):
        relative_differences(trio("vgg16_gap").robust, models.standard)
