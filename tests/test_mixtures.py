from functools import partial

import pytest
import torch

from hf_rws.corruptions.mixing import Mixture
from hf_rws.errors import OptionError


def darker(images, by=4):
    return images // by


def test_callables_without_a_name_are_numbered():
    parts = [lambda x: x, "fog", lambda x: x + 1, darker, partial(darker, by=2), partial(darker, by=3), lambda x: x]
    names = ("custom", "fog", "custom2", "darker", "partial", "partial2", "custom3")
    assert Mixture(parts).names == names
    assert Mixture(parts[0]).names == ("custom",)


def test_the_message_names_the_one_that_is_wrong():
    mixture = Mixture([lambda x: x, lambda x: x.float()])
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(OptionError, match="corruption custom2 must give back"):
        mixture(images, torch.arange(4), torch.Generator())


@pytest.mark.parametrize("part", [darker, lambda x: x, partial(darker, by=2)])
def test_the_same_one_twice_is_an_error(part):
    with pytest.raises(OptionError, match="each once"):
        Mixture([part, part])
