"""How many images go through a network at once, and what happens where memory does not hold them."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from hf_rws import _at_once
from hf_rws._at_once import AskingInParts, LearningInParts, by_area, equal_parts, momentum_for
from hf_rws.errors import OptionError, RWSWarning
from tests.helpers import on_cpu  # noqa: F401

pytestmark = pytest.mark.usefixtures("on_cpu")

CPU = torch.device("cpu")


class Network(nn.Module):
    """A convolution, a norm and a head, in a memory that holds `most` images."""

    def __init__(self, most=1000, norm=True):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity()
        self.head, self.most, self.seen = nn.Linear(4, 5), most, []

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(x)} images")
        self.seen.append(len(x))
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


@pytest.fixture
def images():
    return torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def learn(network, images, learning=None, **options):
    """Gradients of one batch and what there is after it."""
    labels = torch.arange(len(images)) % 5
    learning = learning or LearningInParts(Accelerator(), network, **options)
    network.zero_grad()
    loss = learning(images.shape, lambda part: F.cross_entropy(network(images[part]), labels[part]))
    return [loss, *(parameter.grad.clone() for parameter in network.parameters())]


# --- by size ---


@pytest.mark.parametrize(
    ("size", "number"), [((32, 32), 500), ((64, 64), 500), ((224, 224), 41), ((224, 448), 20), ((4000, 4000), 1)]
)
def test_a_cpu_takes_as_many_at_once_as_are_faster(size, number):
    assert by_area((9, 3, *size), CPU) == number
    assert by_area(size, torch.device("cuda")) >= number


@pytest.mark.parametrize(("count", "parts"), [(12, 1), (12, 5), (13, 4), (3, 7), (1, 1)])
def test_parts_are_as_equal_as_can_be(count, parts):
    found = equal_parts(count, parts)
    sizes = [part.stop - part.start for part in found]
    assert [number for part in found for number in range(count)[part]] == list(range(count))
    assert len(sizes) == min(parts, count)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("most", [1, 5, 12, None])
def test_answers_are_the_same_however_many_are_asked_at_once(images, most):
    network = Network().eval()
    with torch.no_grad():
        found = torch.cat(AskingInParts(most)(network, images, network))
        assert max(network.seen) == (most or 12)
        torch.testing.assert_close(found, network(images))


def test_what_a_network_makes_of_an_image_must_fit_the_memory(images, monkeypatch):
    monkeypatch.setattr(_at_once, "_SMALL_ASKED", 0)
    monkeypatch.setattr(_at_once, "free_memory", lambda device: 4 * 5 * _at_once._ALIVE * (4 * 6 * 6 * 4))
    network = Network().eval()
    AskingInParts()(network, images, network)
    assert network.seen == [1, 5, 5, 2]  # one is looked at, a quarter of the memory holds five


def test_small_images_are_not_looked_at(images):
    network = Network().eval()
    AskingInParts()(network, images, network)
    learn(network, images)
    assert network.seen == [12, 12]


@pytest.mark.parametrize("norm", [True, False])
def test_what_is_held_for_backward_must_fit_the_memory(images, norm, monkeypatch):
    monkeypatch.setattr(_at_once, "_SMALL_LEARNED", 0)
    network, plain = Network(norm=norm), Network(norm=norm)
    image, map_ = 3 * 8 * 8, 4 * 6 * 6
    saved = image + (2 if norm else 1) * map_ + 4 + 5  # for the convolution, the norm, ReLU, the head, the loss
    learn(network, images, budget=7 * 4 * (saved + _at_once._ALIVE * map_))
    assert network.seen == [2, 6, 6]
    learn(plain, images, budget=2**40)
    assert plain.seen == [2, 12]


# --- the gradients of a batch ---


@pytest.mark.parametrize("least", [1, 2, 5, 12, 20])
def test_gradients_are_those_of_the_whole_batch(images, least):
    whole = learn(Network(norm=False), images)
    torch.testing.assert_close(learn(Network(norm=False), images, least=least), whole)


def test_a_batch_weighs_as_much_in_running_statistics_however_it_is_cut(images):
    """Of parts that are alike, three leave the statistics where the whole batch leaves them."""
    alike, whole, cut = images[:4].repeat(3, 1, 1, 1), Network(), Network()
    whole.norm.momentum = cut.norm.momentum = 0.3
    learn(whole, alike)
    with momentum_for(cut, 3):
        assert cut.norm.momentum == pytest.approx(1 - 0.7 ** (1 / 3))
        for part in alike.split(4):
            cut(part)
    assert cut.norm.momentum == 0.3
    torch.testing.assert_close(cut.norm.running_mean, whole.norm.running_mean)
    torch.testing.assert_close(cut.norm.running_var, whole.norm.running_var, rtol=5e-3, atol=0)  # of n - 1 degrees


def test_parts_that_the_user_wants_weigh_as_they_did(images):
    wanted, plain = Network(), Network()
    learn(wanted, images, least=3)
    for part in images.split(4):
        plain(part)
    assert torch.equal(wanted.norm.running_mean, plain.norm.running_mean)


# --- memory runs out ---


def test_the_number_is_halved_with_one_message_and_remembered(images):
    network = Network(most=4).eval()
    asking = AskingInParts(12)
    with pytest.warns(RWSWarning, match="images of 8x8 pixels go through the network 3 at once") as given:
        found = torch.cat(asking(network, images, network))
    torch.testing.assert_close(found, Network().eval()(images))
    asking(network, images, network)
    assert len(given) == 1
    assert network.seen == [3] * 8


def test_a_batch_is_begun_again_in_smaller_parts(images):
    """Memory runs out in the second part: nothing of the first one counts twice."""
    network, whole = Network(norm=False), Network(norm=False)
    normed = Network()
    before = copy.deepcopy(normed.norm.state_dict())
    for one in (network, normed):
        learning = LearningInParts(Accelerator(), one, least=2)
        counts = iter([1000, 1, 1000, 1000, 1000, 1000])
        one.register_forward_pre_hook(lambda one, args, counts=counts: setattr(one, "most", next(counts)))
        with pytest.warns(RWSWarning, match="3 at once") as given:
            found = learn(one, images, learning)
        assert len(given) == 1
        assert one.seen == [6, 3, 3, 3, 3]
        if one is network:
            torch.testing.assert_close(found, learn(whole, images))
    assert normed.norm.num_batches_tracked == 4
    again = Network()
    again.norm.load_state_dict(before)
    with momentum_for(again, 2):
        for part in images.split(3):
            again(part)
    assert torch.equal(again.norm.running_mean, normed.norm.running_mean)


@pytest.mark.parametrize("kind", ["ask", "learn"])
def test_too_little_memory_for_one_image_is_said_in_words(images, kind):
    network, few = Network(most=0), {"ask": "one image", "learn": "2 images"}  # which a batch norm needs
    calls = {"ask": lambda: AskingInParts(4)(network, images, network), "learn": lambda: learn(network, images)}
    with pytest.raises(OptionError, match=f"{few[kind]} of 8x8 pixels: use smaller images"):
        calls[kind]()


def test_other_errors_are_the_callers(images):
    def fail(part):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        AskingInParts()(Network(), images, fail)
    with pytest.raises(RuntimeError, match="mat1"):
        LearningInParts(Accelerator(), Network())(images.shape, fail)
