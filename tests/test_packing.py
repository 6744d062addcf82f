"""Laws of `hf_rws.signature._packing`: any stretch of codes comes back from any width."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rws.signature._packing import pack_codes, steps_to_unpack
from hf_rws.signature.bits import num_bytes, top_code

WIDTHS = (*range(1, 9), "ternary")


def unpacked(packed, count, bits, start, stop):
    out, spare = torch.full((2, stop - start), 77, dtype=torch.uint8)
    for call in steps_to_unpack(packed, count, bits, start, out, spare):
        call()
    return out


@given(data=st.data(), bits=st.sampled_from(WIDTHS), count=st.integers(1, 200))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_any_stretch_of_codes_comes_back(data, bits, count):
    drawn = data.draw(st.binary(min_size=count, max_size=count))  # far quicker to draw than a list
    codes = torch.tensor(list(drawn)) % (top_code(bits) + 1)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, count), st.integers(0, count))))
    packed = pack_codes(codes.to(torch.uint8), bits)
    assert (packed.dtype, packed.shape) == (torch.uint8, (num_bytes(count, bits),))
    assert unpacked(packed, count, bits, start, stop).tolist() == codes[start:stop].tolist()


@pytest.mark.parametrize("bits", WIDTHS)
def test_at_most_one_byte_per_field_is_not_full(bits):
    fields = {3: 2, 5: 2, 6: 2, 7: 3}.get(bits, 1)
    for count in range(1, 100):
        least = count / 5 if bits == "ternary" else count * bits / 8
        assert least <= num_bytes(count, bits) < least + fields


@pytest.mark.parametrize("bits", [1, 2, 4, 8, "ternary"])
def test_every_byte_holds_codes(bits):
    packed, planes = torch.arange(256).to(torch.uint8), {8: 1, "ternary": 5}.get(bits) or 8 // bits
    found = unpacked(packed, 256 * planes, bits, 0, 256 * planes)
    assert found.unique().tolist() == list(range(256 if bits == 8 else top_code(bits) + 1))
    if bits == 8:
        assert found[0] == 127


def test_every_ternary_byte_that_is_written_is_read_as_it_was():
    codes = torch.cartesian_prod(*[torch.arange(3)] * 5).t().reshape(-1).to(torch.uint8)
    assert torch.equal(unpacked(pack_codes(codes, "ternary"), len(codes), "ternary", 0, len(codes)), codes)
