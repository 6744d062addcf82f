"""What is kept between images: as much as helps the next one, never as much as there are sizes."""

import numpy as np
import pytest

from hf_rws.corruptions import corrupt, filters, frost
from hf_rws.corruptions._caching import keep_within


@pytest.fixture
def made():
    """The arguments of which a result was made, and the function that makes it: `size` bytes."""
    arguments = []

    @keep_within(100)
    def make(size, name="a"):
        arguments.append((size, name))
        return np.zeros(size // 2, np.uint8), np.zeros(size - size // 2, np.uint8)

    return arguments, make


def test_as_much_is_kept_as_fits(made):
    arguments, make = made
    for size in (40, 30, 40, 50, 40, 30):  # 30 goes when 50 comes, for 40 was used later
        assert sum(array.nbytes for array in make(size)) == size
        assert make.cache_info().nbytes <= 100
    assert arguments == [(40, "a"), (30, "a"), (50, "a"), (30, "a")]


def test_the_last_result_is_kept_however_large(made):
    arguments, make = made
    assert make(10) is make(10)
    assert make(1000) is make(1000)
    assert arguments == [(10, "a"), (1000, "a")]
    assert make.cache_info() == (1, 1000)


def test_what_belongs_to_a_photo_is_small_beside_it():
    filters._blur_matrix.cache_clear()
    photo = np.zeros((1000, 1500, 3), np.uint8)
    corrupt(photo, "gaussian_blur", 5, parameters="imagenet")
    assert filters._blur_matrix.cache_info().nbytes < photo.nbytes


def test_sizes_that_need_no_larger_frost_share_it():
    frost._album.cache_clear()
    for side in (130, 150, 170):
        corrupt(np.zeros((side, side, 3), np.uint8), "frost", parameters="imagenet")
    assert frost._album.cache_info().results == 1


def test_one_size_is_prepared_once():
    for name, cache in (("gaussian_blur", filters._blur_matrix), ("elastic_transform", filters._blur_matrix)):
        images = np.zeros((250, 300, 3), np.uint8)
        cache.cache_clear()
        corrupt(images, name, 1, parameters="imagenet")
        kept = cache.cache_info()
        corrupt(images, name, 1, parameters="imagenet")
        assert cache.cache_info() == kept
