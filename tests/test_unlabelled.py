import numpy as np
import pytest
import torch

from hf_rws.data.unlabelled import as_images
from hf_rws.distillation._distill import distill
from hf_rws.errors import OptionError
from tests.helpers import datasets_cache, model, on_cpu, pil, pixels, toy_dataset  # noqa: F401

pytestmark = pytest.mark.usefixtures("on_cpu", "datasets_cache")

IMAGES = pixels(24)


class MapStyle:
    """What torch and torchvision call a dataset: it is no `Iterable`."""

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, number):
        return self.item(IMAGES[number])


@pytest.mark.filterwarnings("ignore:the distillation did not help")  # in two steps
def test_an_array_in_a_file_is_not_copied(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES.permute(0, 2, 3, 1).numpy())
    array = np.load(tmp_path / "images.npy", mmap_mode="r")
    found = as_images(array, side=32)
    assert found.data_ptr() == array.ctypes.data
    assert torch.equal(found, IMAGES)
    made = [
        distill(model().eval(), images, corruption=["contrast", "jpeg_compression"], steps=2, batch_size=8, bits=None,
                mixed_precision="no", progress=False)
        for images in (array, IMAGES)
    ]  # fmt: skip
    for name, delta in made[0].deltas().items():
        torch.testing.assert_close(delta, made[1].delta(name))


@pytest.mark.parametrize(
    "item",
    [pil, lambda image: (pil(image), 3), lambda image: (image / 255, 3), lambda image: [image, torch.tensor(3)]],
)
def test_datasets_of_torchvision(item):
    assert torch.equal(as_images(MapStyle(item), side=32), IMAGES)


def test_streamed_datasets(tmp_path):
    import datasets

    table = datasets.Dataset.from_dict({"image": [pil(x) for x in IMAGES], "label": [0] * 24})
    streamed = table.cast_column("image", datasets.Image()).to_iterable_dataset()
    assert torch.equal(as_images(streamed, side=32), IMAGES)
    with pytest.raises(OptionError, match="does not know its columns"):
        as_images(streamed.map(lambda row: row), side=32)


def test_a_limit_draws_before_and_after_decoding_alike(tmp_path):
    dataset = toy_dataset(tmp_path / "toy")
    whole = as_images(dataset, side=32)
    some = as_images(dataset, side=32, limit=10, seed=3)
    assert len(some) == 10
    assert torch.equal(some, as_images(whole, side=32, limit=10, seed=3))
    assert not torch.equal(some, as_images(dataset, side=32, limit=10))
    assert torch.equal(as_images(dataset, side=32, limit=99), whole)
