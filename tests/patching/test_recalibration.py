from copy import deepcopy

import pytest
import torch
from torch import nn

import hf_rws
from hf_rws.errors import IntegrityError, OptionError
from tests.models import DEVICES, MATRIX, create, identical, make_trio, moved, signature, state, trio

WITH_NORMS = ["vgg16_bn", "resnet26d", "densenet121", "mobilenetv3_small_050"]


def images(count=12, size=32, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def statistics(model):
    return {key: value.clone() for key, value in model.state_dict().items() if "running_" in key}


def reference(model, batch):
    """The statistics by their definition: in float64, one norm after another, each from a pass of its own."""
    model = deepcopy(model).double().eval()
    norms, order, inputs = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)], [], {}

    def note(norm, args):
        if norm not in order:
            order.append(norm)
        inputs[norm] = args[0]

    for norm in norms:
        norm.register_forward_pre_hook(note)
    for position in range(len(norms)):
        with torch.no_grad():
            model(batch.double())
            norm = order[position]
            flat = inputs[norm].transpose(0, 1).flatten(1)
            norm.running_mean.copy_(flat.sum(1) / flat.shape[1])
            norm.running_var.copy_((flat - norm.running_mean[:, None]).square().sum(1) / (flat.shape[1] - 1))
    return statistics(model)


@pytest.fixture(scope="module", params=WITH_NORMS)
def patched(request):
    models = make_trio(create(request.param, options=MATRIX[request.param]))
    made = hf_rws.extract(models.robust, models.standard, models.start, corruption="fog")
    clean = models.base()
    before = state(clean)
    hf_rws.patch(clean, made)
    expected = reference(clean, images())
    clean.rws.clear()
    return clean, before, expected


@pytest.mark.parametrize("split", [None, (5, 4, 3), (1, 11)], ids=str)
def test_statistics_are_the_definition_however_the_images_come(patched, split):
    model, before, expected = patched
    model.rws.set({"fog": 1.0})
    on = state(model)
    given = images() if split is None else list(images().split(list(split)))
    model.rws.recalibrate(given if split != (5, 4, 3) else iter(given))  # also what can be read once only
    for key, value in statistics(model).items():
        torch.testing.assert_close(value.double(), expected[key], rtol=2e-4, atol=2e-5, msg=key)
    for key, value in model.state_dict().items():
        assert "running_" in key or torch.equal(value, on[key]), key
    model.rws.verify()
    model.rws.set({"fog": 1.0})
    assert identical(model, on)
    model.rws.clear()
    assert identical(model, before)


def test_the_model_then_does_on_these_images_what_it_does_in_training(patched):
    model, _, _ = patched
    model.rws.set({"fog": 1.0})
    training = deepcopy(model).train()
    for module in training.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = images(24, 64)
    model.rws.recalibrate(batch)
    with torch.no_grad():
        expected = training(batch)  # with biased variances
        near = (model(batch) - expected).norm()
        model.rws.set({"fog": 1.0})
        assert near < 0.1 * (model(batch) - expected).norm()
    model.rws.clear()


def test_what_holds_the_statistics_and_what_ends_them():
    model = trio("vgg16_bn_gap").base()
    before = state(model)
    patcher = hf_rws.patch(model, signature("vgg16_bn_gap"))
    patched_state = state(model)
    patcher.recalibrate(images())
    measured = state(model)
    assert "batch norm statistics of 12 images" in repr(patcher)
    with patcher.using({"fog": 0.0}):
        assert identical(model, before)
    assert identical(model, measured)
    patcher.recalibrate(images())  # the same images give the same statistics
    assert identical(model, measured)
    twin = deepcopy(model)
    twin.rws.verify()
    assert identical(twin, measured)
    with pytest.raises(OptionError, match="lockfile does not hold"):
        patcher.lockfile()
    patcher.add(signature("vgg16_bn_gap", "snow"), scale=0.0)
    assert identical(model, patched_state)
    assert "statistics" not in repr(patcher)
    patcher.recalibrate(images())
    assert identical(model, measured)
    patcher.remove("snow")
    assert identical(model, patched_state)
    patcher.clear()
    patcher.recalibrate(images())  # of the clean model
    assert not identical(model, before)
    patcher.clear()
    assert identical(model, before)
    twin.rws.clear()
    assert identical(twin, before)


def test_recalibrated_weights_can_be_kept():
    model = trio("vgg16_bn_gap").base()
    patcher = hf_rws.patch(model, signature("vgg16_bn_gap"))
    patcher.recalibrate(images())
    measured = state(model)
    assert identical(patcher.bake(), measured)


def test_nothing_but_statistics_is_touched():
    model = trio("vgg16_bn_gap").base()
    model.features[1].momentum = None
    model.features[4].train()
    for parameter in model.features[0].parameters():
        parameter.requires_grad_(False)
    hf_rws.patch(model, signature("vgg16_bn_gap"))
    before, flags = state(model), [module.training for module in model.modules()]
    model.rws.recalibrate(images())
    after = state(model)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == set(statistics(model))
    assert [module.training for module in model.modules()] == flags
    assert model.features[1].momentum is None
    assert not model.features[0].weight.requires_grad
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_uint8_is_normalised_as_the_model_wants_it():
    model = trio("vgg16_bn_gap").base()
    patcher = hf_rws.patch(model, signature("vgg16_bn_gap"))
    raw = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    patcher.recalibrate(raw)
    found = statistics(model)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    patcher.recalibrate((raw / 255 - mean) / std)
    for key, value in statistics(model).items():
        torch.testing.assert_close(value, found[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_and_devices(dtype, device):
    model = trio("vgg16_bn_gap").base().to(device, dtype)
    before = state(model)
    patcher = hf_rws.patch(model, signature("vgg16_bn_gap"))
    expected = reference(model, images().to(device))
    patcher.recalibrate(images())
    tolerance = {"rtol": 0.1, "atol": 0.05} if dtype == torch.bfloat16 else {"rtol": 1e-9, "atol": 1e-9}
    for key, value in statistics(model).items():
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), expected[key], **tolerance)
    patcher.clear()
    assert identical(model, before)


class Sometimes(nn.Module):
    """A norm that only some batches reach, and one that no batch does."""

    def __init__(self):
        super().__init__()
        self.conv, self.often, self.seldom = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.never = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.often(self.conv(x))
        x = self.seldom(x) if len(x) > 4 else x
        return self.head(x.mean((2, 3)))


def _sometimes():
    torch.manual_seed(0)
    standard = Sometimes().eval()
    made = hf_rws.extract(moved(standard, 1), standard, None, corruption="fog", projection=None, num_layers=1)
    hf_rws.patch(standard, made)
    return standard


def test_norms_that_no_image_reaches_keep_their_statistics():
    model = _sometimes()
    before = statistics(model)
    model.rws.recalibrate(images(8))
    after = statistics(model)
    assert {key.partition(".")[0] for key in after if not torch.equal(after[key], before[key])} == {"often", "seldom"}


def _stop(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.zeros(0, 3, 32, 32), OptionError, r"images must be images of shape \(N, C, H, W\)"),
        (torch.zeros(3, 32, 32), OptionError, r"got shape \(3, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int64), OptionError, "torch.int64"),
        ([], OptionError, "no image reached"),
        ([images(2), (images(2), 0)], OptionError, "batch 1 must be a tensor of images, got tuple"),
        (images(2).numpy(), OptionError, "batch 0 must be a tensor"),
        (torch.zeros(2, 5, 32, 32), OptionError, "cannot take images of shape"),
        (torch.full((2, 3, 32, 32), torch.nan), OptionError, "would not be finite"),
    ],
)
def test_bad_images_change_nothing(given, error, message):
    model = trio("vgg16_bn_gap").base()
    patcher = hf_rws.patch(model, signature("vgg16_bn_gap"))
    on = state(model)
    with pytest.raises(error, match=message):
        patcher.recalibrate(given)
    assert identical(model, on)
    assert not model.training
    patcher.verify()


def test_batches_that_go_different_ways_and_interruptions_change_nothing():
    model = _sometimes()
    on = state(model)
    with pytest.raises(OptionError, match="not all batches reach the batch norm seldom"):
        model.rws.recalibrate([images(8), images(2)])
    assert identical(model, on)
    with pytest.raises(OptionError, match="often sees one value per channel"):
        model.rws.recalibrate(images(1, 3))
    assert identical(model, on)
    model.seldom.register_forward_pre_hook(_stop)
    with pytest.raises(KeyboardInterrupt):
        model.rws.recalibrate(images(8))
    assert identical(model, on)
    model.rws.verify()


def test_models_without_batch_norms_and_changed_ones_are_refused():
    plain = trio("vgg16_gap").base()
    hf_rws.patch(plain, signature("vgg16_gap"))
    with pytest.raises(OptionError, match="no batch norms"):
        plain.rws.recalibrate(images())
    model = trio("vgg16_bn_gap").base()
    hf_rws.patch(model, signature("vgg16_bn_gap"))
    with torch.no_grad():
        model.features[0].weight.add_(1.0)
    with pytest.raises(IntegrityError):
        model.rws.recalibrate(images())


def test_uint8_needs_a_normalisation():
    model = _sometimes()
    assert not hasattr(model, "pretrained_cfg")
    with pytest.raises(OptionError, match="mean and std"):
        model.rws.recalibrate(torch.zeros(8, 3, 32, 32, dtype=torch.uint8))
