"""What an image becomes depends on (seed, corruption, severity, its number) and on nothing else."""

import hashlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_rws.corruptions import BAR, CORRUPTIONS, batch, corrupt
from hf_rws.corruptions.randomness import _image_seeds
from hf_rws.corruptions.registry import find
from tests.corruptions.pictures import pictures

DIGESTS = Path(__file__).parents[1] / "data" / "corruption_digests.json"
EVERY = CORRUPTIONS + BAR
RANDOM = [name for name in EVERY if name not in {
    "circular_motion_blur",
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate"
}]  # fmt: skip
# (size, parameters): the second takes the long filters (float64, Fourier) and glass blur's chains of copies.
WAYS = (((32, 32), "cifar"), ((40, 51), "imagenet"))


def clean(count=23, size=(32, 32)):
    return torch.from_numpy(pictures(count, *size))


@pytest.mark.parametrize(("size", "parameters"), WAYS)
@pytest.mark.parametrize("name", EVERY)
def test_results_do_not_depend_on_batch_order_chunks_or_threads(name, size, parameters, monkeypatch):
    images = clean(size=size)
    whole = corrupt(images, name, seed=3, index=5, parameters=parameters)

    part = corrupt(images[7:12], name, seed=3, index=12, parameters=parameters)
    assert torch.equal(part, whole[7:12])
    one = corrupt(images[22], name, seed=3, index=27, parameters=parameters)
    assert torch.equal(one, whole[22])
    order = torch.tensor([19, 2, 11])
    chosen = corrupt(images[order], name, seed=3, index=5 + order, parameters=parameters)
    assert torch.equal(chosen, whole[order])
    backwards = [corrupt(images[i : i + 1], name, seed=3, index=5 + i, parameters=parameters) for i in (4, 3, 2)]
    assert torch.equal(torch.cat(backwards), whole[[4, 3, 2]])

    monkeypatch.setattr(batch, "_CPU_CHUNK", 3 * images[0].numel())
    assert torch.equal(corrupt(images, name, seed=3, index=5, parameters=parameters), whole)

    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert torch.equal(corrupt(images, name, seed=3, index=5, parameters=parameters), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", RANDOM)
def test_what_is_random_differs(name):
    same = clean(1).expand(6, -1, -1, -1)
    result = corrupt(same, name, 5)
    assert len({image.numpy().tobytes() for image in result}) >= 4, "image numbers"  # angles may round to the same
    assert not torch.equal(result, corrupt(same, name, 5, seed=1)), "seeds"
    torch.manual_seed(0)
    assert torch.equal(result, corrupt(same, name, 5)), "global state has no part in it"


@pytest.mark.parametrize("name", sorted(set(EVERY) - set(RANDOM)))
def test_what_is_not_random_does_not_depend_on_the_seed(name):
    assert torch.equal(corrupt(clean(), name, seed=1, index=9), corrupt(clean(), name))


@pytest.mark.parametrize("name", RANDOM)
def test_parameter_sets_change_constants_not_draws(name, monkeypatch):
    seen = []
    corruption = find(name)
    original = batch.ImageSource.__init__

    def remember(self, *args):
        seen.append(args[:4])
        original(self, *args)

    monkeypatch.setattr(batch.ImageSource, "__init__", remember)
    for parameters in corruption.constants:
        corrupt(clean(2), name, 3, parameters=parameters)
    assert seen == [(0, name, 3, range(2))] * 3


def test_seeds_are_distinct_and_pinned():
    numbers = np.arange(200_000, dtype=np.uint32)
    seeds = _image_seeds("0/fog/5/0", numbers)
    assert len(np.unique(seeds)) == len(seeds)
    assert _image_seeds("0/fog/5/0", numbers[:3]).tolist() == [2240061998, 887370578, 4178067590]
    assert len(np.intersect1d(seeds[:1000], _image_seeds("0/fog/4/0", numbers[:1000]))) == 0


@pytest.mark.parametrize("name", EVERY)
def test_a_generator_gives_its_own_stream(name):
    images = clean(9)
    found = corrupt(images, name, generator=torch.Generator().manual_seed(4))
    again = corrupt(images, name, seed=8, index=2, generator=torch.Generator().manual_seed(4))
    assert torch.equal(found, again)
    if name in RANDOM:
        assert not torch.equal(found, corrupt(images, name))


STATISTICS = {
    "mean": lambda images: images.mean((1, 2, 3)),
    "deviation": lambda images: images.std((1, 2, 3)),
    "roughness": lambda images: images.diff(dim=3).abs().mean((1, 2, 3)),
    "colourfulness": lambda images: (images.amax(1) - images.amin(1)).mean((1, 2)),
    "one half": lambda images: images[:, :, :, :16].mean((1, 2, 3)),
    "one value": lambda images: images[:, 0, 20, 9],
}


def kolmogorov_smirnov(a, b):
    """The largest distance between two cumulative distributions."""
    values = torch.cat((a, b)).sort().values
    shares = (torch.searchsorted(x.sort().values, values, right=True) / len(x) for x in (a, b))
    first, second = shares
    return (first - second).abs().max().item()


@pytest.mark.parametrize("name", RANDOM)
def test_a_generator_draws_from_the_same_distribution(name):
    same = clean(1).expand(300, -1, -1, -1)
    seeded = corrupt(same, name).float()
    drawn = corrupt(same, name, generator=torch.Generator().manual_seed(2)).float()
    for label, statistic in STATISTICS.items():
        distance = kolmogorov_smirnov(statistic(seeded), statistic(drawn))
        assert distance < 2 * (2 / 300) ** 0.5, label  # 1 in 1,500 is as far by chance, and both seeds are fixed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("size", "parameters"), WAYS)
@pytest.mark.parametrize("name", EVERY)
def test_a_generator_on_a_gpu_waits_for_nothing(name, size, parameters):
    images = clean(size=size).cuda()
    generator = torch.Generator("cuda")
    corrupt(images, name, parameters=parameters, generator=generator)  # reads the pictures of frost
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        corrupt(images, name, parameters=parameters, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_another_process_gives_the_same():
    code = (
        "import torch; from hf_rws.corruptions import corrupt; from tests.corruptions.pictures import pictures;"
        "print(*corrupt(torch.from_numpy(pictures(3)), 'fog', 5, seed=2).flatten()[::97].tolist())"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    expected = corrupt(torch.from_numpy(pictures(3)), "fog", 5, seed=2).flatten()[::97].tolist()
    assert [int(word) for word in found.split()] == expected


@pytest.mark.parametrize(("name", "digest"), json.loads(DIGESTS.read_text()).items())
def test_digests(name, digest):
    """Integer arithmetic comes out the same on any machine; torch's streams may change with its version."""
    found = corrupt(torch.from_numpy(pictures(2, seed=7)), name)
    assert hashlib.sha256(found.numpy().tobytes()).hexdigest() == digest


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("size", "parameters"), WAYS)
@pytest.mark.parametrize("name", EVERY)
def test_a_gpu_gives_the_same_to_one_grey_level(name, size, parameters):
    images = clean(size=size)
    on_cpu = corrupt(images, name, parameters=parameters).int()
    on_gpu = corrupt(images.cuda(), name, parameters=parameters).cpu().int()
    assert ((on_cpu - on_gpu).abs() <= 1).float().mean() >= 0.999
