"""Laws of `hf_rws.signature.quantization`, over a table of tensors and every setting."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hf_rws.errors import FormatError, OptionError
from hf_rws.signature.bits import CODECS, PRESETS, packed_sizes, resolve_bits
from hf_rws.signature.quantization import decode, encode, rounded

pytestmark = pytest.mark.filterwarnings("error")

INTS = (1, 2, 3, 4, 5, 6, 7, 8)
SYMMETRIC = (*INTS, "ternary")
LEVELS = {bits: 2**bits for bits in INTS[:-1]} | {8: 255, "ternary": 3}
TOP = {bits: 2 - 0.5 ** (bits - 1) for bits in INTS[:-1]} | {8: 127 / 64, "ternary": 1}  # the largest value, in scales
SETTINGS = [(bits, "symmetric") for bits in SYMMETRIC]
SETTINGS += [(bits, "linear") for bits in INTS] + [(bits, "log") for bits in INTS[1:]]


def normal(*shape, seed=0, std=0.01):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def heavy(*shape, seed=0):
    """Student's t with two degrees of freedom: a few values far outside the rest."""
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.998 + 0.001
    return ((2 * uniform - 1) / (2 * uniform * (1 - uniform)).sqrt()).float() * 0.01


TENSORS = {
    "conv": normal(16, 8, 3, 3),
    "heavy tails": heavy(8, 200),
    "one channel": normal(1, 999),
    "odd sizes": normal(7, 3, 1, 11),
    "vector": normal(13),
    "several chunks": normal(150, 1000),
    "zero channel": normal(4, 3, 3).index_fill(0, torch.tensor([2]), 0),
    "sparse": normal(8, 50) * (normal(8, 50, seed=1) > 0),
    "all equal": torch.full((3, 5), -0.25),
    "all positive, far from 0": 1000 + normal(4, 30),
    "nothing but zeros": torch.zeros(3, 4),
    "negative zeros": -torch.zeros(2, 3),
    "tiny": normal(6, 40, std=1e-6),
    "below float16": normal(6, 40, std=3e-9),
    "around the smallest float16": torch.linspace(2**-26, 2**-22, 64)[:, None] * torch.tensor([1.0, -0.7, 0.2]),
    "huge": normal(6, 40).div(0.05).clamp(-1, 1) * 65504,
    "at the end of float16": torch.tensor([65183.0, 65504.0])[:, None],
    "no channels": torch.empty(0, 3),
    "empty channels": torch.empty(3, 0, 2),
}
# Those whose ranges float16 can round to nearest, so that error laws hold without a word on rounding.
REGULAR = ["conv", "heavy tails", "one channel", "odd sizes", "several chunks", "zero channel", "sparse", "huge"]


def round_trip(values, bits, codec="symmetric"):
    return decode(*encode(values, bits, codec=codec), values.shape, bits, codec=codec)


def channel_errors(values, decoded):
    difference = (values.double() - decoded.double()).reshape(len(values), -1)
    return difference.square().sum(1)


def read_with_numpy(codes, scales, shape, bits):
    """The byte format as its specification has it, without the library."""
    integers, unit = integers_with_numpy(codes, math.prod(shape), bits)
    steps = np.repeat(scales.astype(np.float32) * np.float32(unit), len(integers) // max(1, shape[0]))
    return (steps * integers.astype(np.float32)).reshape(shape)


def integers_with_numpy(codes, count, bits):
    """The integers of `count` packed codes, and what they count as a share of the scale."""
    if bits == "ternary":
        fractions = codes.astype(int) * 3 ** np.arange(5)[:, None] % 256
        return (3 * fractions // 256).reshape(-1)[:count] - 1, 1
    if bits == 8:
        return codes.view(np.int8).astype(int), 1 / 64
    found, shift, rest = 0, 0, codes
    for width in {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}.get(bits, (bits,)):
        field, rest = np.split(rest, [-(-count * width // 8)])
        planes = field >> (width * np.arange(8 // width)[:, None]) & (2**width - 1)
        found, shift = found + (planes.reshape(-1)[:count].astype(int) << shift), shift + width
    return 2 * found - (2**bits - 1), 2 / 2**bits


def assert_same_bits(actual, expected, name=""):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), name
    assert actual.numpy().tobytes() == expected.numpy().tobytes(), name


# --- laws of every setting ---


@pytest.mark.parametrize(("bits", "codec"), SETTINGS)
def test_round_trip_has_the_promised_sizes_and_finite_values(bits, codec):
    for name, values in TENSORS.items():
        codes, scales = encode(values, bits, codec=codec)
        assert (len(codes), len(scales)) == packed_sizes(values.shape, bits, codec=codec), name
        assert (codes.dtype, scales.dtype) == (torch.uint8, torch.float16), name
        decoded = decode(codes, scales, values.shape, bits, codec=codec)
        assert (decoded.dtype, decoded.shape) == (torch.float32, values.shape), name
        assert decoded.isfinite().all(), name


def assert_idempotent(values, bits, codec, name="drawn"):
    codes, scales = encode(values, bits, codec=codec)
    codes_again, scales_again = encode(decode(codes, scales, values.shape, bits, codec=codec), bits, codec=codec)
    assert_same_bits(scales_again, scales, name)
    assert_same_bits(codes_again, codes, name)


@pytest.mark.parametrize(("bits", "codec"), SETTINGS)
def test_encoding_decoded_values_gives_the_same_codes_and_scales(bits, codec):
    for name, values in TENSORS.items():
        assert_idempotent(values, bits, codec, name)


ARRAYS = st.builds(
    lambda array, factor: torch.from_numpy(array * np.float32(factor)),
    arrays(np.float32, array_shapes(max_dims=3, max_side=6), elements=st.floats(-65504, 65504, width=32)),
    st.sampled_from([1.0, 1e-3, 1e-6, 2.0**-24, 1e-30]),
)


@given(values=ARRAYS, setting=st.sampled_from(SETTINGS))
@settings(max_examples=150, derandomize=True, deadline=None)
def test_encoding_any_decoded_values_gives_the_same_codes_and_scales(values, setting):
    assert_idempotent(values, *setting)


@given(data=st.data(), bits=st.sampled_from(SYMMETRIC))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_values_on_any_grid_that_uses_its_top_level_come_back_unchanged(data, bits):
    top = LEVELS[bits] - 1
    codes = [*data.draw(st.lists(st.integers(0, top), max_size=30)), top]
    scale = data.draw(st.floats(2**-24, 32752, width=16))
    values = (torch.tensor([codes]).float() * 2 - top) * (TOP[bits] / top * scale)
    assert_same_bits(round_trip(values, bits), values)


@pytest.mark.parametrize(("bits", "codec"), SETTINGS)
def test_layout_in_memory_and_dtype_do_not_matter(bits, codec):
    values = normal(6, 10, 4).half().float()
    expected = encode(values, bits, codec=codec)
    strided = values.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not strided.is_contiguous()
    for other in (strided, values.double(), values.half(), values.clone().requires_grad_()):
        for actual, wanted in zip(encode(other, bits, codec=codec), expected, strict=True):
            assert_same_bits(actual, wanted)
    flat = values.flatten(1)
    for actual, wanted in zip(encode(flat.t().contiguous().t(), bits, codec=codec), expected, strict=True):
        assert_same_bits(actual, wanted)


# --- symmetric ---


@pytest.mark.parametrize("bits", SYMMETRIC)
def test_rounded_is_what_comes_back(bits):
    for name, values in TENSORS.items():
        assert_same_bits(rounded(values, bits), round_trip(values, bits), name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("bits", SYMMETRIC)
def test_rounding_on_a_gpu_has_the_error_of_that_on_the_cpu(bits):
    for name in REGULAR:
        values = TENSORS[name]
        found = rounded(values.cuda(), bits)
        assert found.is_cuda, name
        errors = [channel_errors(values, other) for other in (found.cpu(), round_trip(values, bits))]
        torch.testing.assert_close(*errors, rtol=0.01, atol=0)


@pytest.mark.parametrize("bits", SYMMETRIC)
def test_numpy_reads_the_same_bits(bits):
    for name, values in TENSORS.items():
        codes, scales = encode(values, bits)
        independent = read_with_numpy(codes.numpy(), scales.numpy(), tuple(values.shape), bits)
        assert_same_bits(decode(codes, scales, values.shape, bits), torch.from_numpy(independent), name)


@pytest.mark.parametrize(
    ("values", "bits", "scale", "packed"),
    [
        ([3, -5, 7, -7], 1, 5.5, [0b0101]),
        ([3, -3, 1, -1], 2, 2, [0b01_10_00_11]),
        ([-7, -5, -3, -1, 1, 3, 5, 7], 3, 4, [0b10_00_10_00, 0b11_01_11_01, 0b11110000]),
        ([15, -15, 1], 4, 8, [0x8F, 0x00]),
        ([127, -127, -1, 0], 8, 64, [127, 129, 255, 0]),
        # Digits 2, 0, 2 and 1, 1, 2: 180 / 243 and 126 / 243 are just below 190 / 256 and 133 / 256.
        ([2, 0, -2, 0, 2, 2], "ternary", 2, [190, 133]),
    ],
)
def test_bytes_worked_out_by_hand(values, bits, scale, packed):
    codes, scales = encode(torch.tensor([values]).float(), bits)
    assert scales.tolist() == [scale]
    assert codes.tolist() == packed


@pytest.mark.parametrize("bits", SYMMETRIC)
def test_every_length_is_packed_without_loss(bits):
    top = TOP[bits]
    on_the_grid = torch.tensor([[top, 0.0, -top] if bits in ("ternary", 8) else [top, -top, -top]])
    for length in range(1, 20):
        values = on_the_grid.repeat(1, 7)[:, :length]
        codes, scales = encode(values, bits)
        assert len(codes) == packed_sizes((1, length), bits)[0]
        assert_same_bits(decode(codes, scales, (1, length), bits), values)


@pytest.mark.parametrize("bits", SYMMETRIC)
@pytest.mark.parametrize("name", REGULAR)
def test_error_is_never_larger_than_with_the_largest_magnitude_at_the_top_code(name, bits):
    values = TENSORS[name]
    top = TOP[bits]
    levels = top * np.linspace(-1, 1, LEVELS[bits])
    rows = values.reshape(len(values), -1).numpy().astype(np.float64)
    grids = np.float16(np.abs(rows).max(1) / top).astype(np.float64)[:, None] * levels
    edges = (grids[:, 1:] + grids[:, :-1]) / 2
    nearest = [grid[np.searchsorted(edge, row)] for row, grid, edge in zip(rows, grids, edges, strict=True)]
    plain = torch.from_numpy(((rows - np.stack(nearest)) ** 2).sum(1))
    assert (channel_errors(values, round_trip(values, bits)) <= plain * (1 + 1e-5)).all()


@pytest.mark.parametrize("bits", SYMMETRIC)
@pytest.mark.parametrize("values", [normal(20, 9), normal(8, 576), heavy(20, 27), heavy(8, 300)])
def test_error_is_close_to_that_of_an_exhaustive_search(values, bits):
    levels = torch.linspace(-1, 1, LEVELS[bits])
    midpoints = (levels[1:] + levels[:-1]) / 2
    largest = values.abs().amax(1, keepdim=True)
    least = torch.full((len(values),), math.inf, dtype=torch.float64)
    for ratio in torch.linspace(0.02, 1, 200):
        grid = levels[torch.bucketize((values / (ratio * largest)), midpoints)]
        for scale in (ratio * largest, (values * grid).sum(1, True) / grid.square().sum(1, True).clamp_min(1e-9)):
            least = torch.minimum(least, channel_errors(values, grid * scale))
    assert channel_errors(values, round_trip(values, bits)).sum() <= 1.02 * least.sum()


@pytest.mark.parametrize("name", REGULAR)
def test_error_falls_with_every_bit(name):
    errors = [channel_errors(TENSORS[name], round_trip(TENSORS[name], bits)).sum().item() for bits in INTS]
    assert all(more < less for less, more in itertools.pairwise(errors))


@pytest.mark.parametrize("name", REGULAR)
@pytest.mark.parametrize("bits", INTS)
def test_root_mean_square_error_is_at_most_half_a_step_of_the_full_range(name, bits):
    values = TENSORS[name].reshape(len(TENSORS[name]), -1)
    half_step = values.abs().amax(1).double() / (LEVELS[bits] - 1)
    float16_rounding = values.abs().amax(1).double() * 2**-11
    rms = (channel_errors(values, round_trip(values, bits)) / values.shape[1]).sqrt()
    assert (rms <= half_step + float16_rounding).all()


@pytest.mark.parametrize("name", REGULAR)
def test_one_bit_is_the_sign_with_the_mean_magnitude_as_scale(name):
    values = TENSORS[name]
    codes, scales = encode(values, 1)
    signs, _ = integers_with_numpy(codes.numpy(), values.numel(), 1)
    assert ((signs > 0) == (values.reshape(-1) >= 0).numpy()).all()
    torch.testing.assert_close(scales.float(), values.abs().reshape(len(values), -1).mean(1), rtol=2**-10, atol=0)


@pytest.mark.parametrize("bits", SYMMETRIC)
def test_a_channel_of_zeros_has_scale_zero_and_stays_zero(bits):
    values = TENSORS["zero channel"]
    _, scales = encode(values, bits)
    assert (scales == 0).tolist() == [False, False, True, False]
    assert (round_trip(values, bits)[2] == 0).all()


@pytest.mark.parametrize(("bits", "shape"), [(1, (100_000,)), (4, (100_000, 1)), (8, (9, 1, 1)), ("ternary", (9,))])
def test_a_channel_of_one_value_is_that_value_as_precisely_as_float16_has_it(bits, shape):
    values = normal(*shape)
    values += values.sign() * 2e-4  # away from the subnormal numbers of float16
    torch.testing.assert_close(round_trip(values, bits), values, rtol=2**-11, atol=0)


@pytest.mark.parametrize("bits", SYMMETRIC)
def test_channels_do_not_depend_on_their_neighbours(bits):
    values = TENSORS["several chunks"]
    _, scales = encode(values, bits)
    _, twice = encode(torch.cat([values * 100, values]), bits)
    torch.testing.assert_close(twice[len(values) :].float(), scales.float(), rtol=2**-10, atol=0)


# --- linear and log ---


@pytest.mark.parametrize("name", ["conv", "heavy tails", "one channel", "odd sizes", "several chunks", "huge"])
@pytest.mark.parametrize("bits", INTS)
def test_linear_is_within_half_a_step_between_smallest_and_largest(name, bits):
    values = TENSORS[name]
    _, scales = encode(values, bits, codec="linear")
    low, high = ends = torch.stack(values.aminmax())
    torch.testing.assert_close(scales.float(), ends, rtol=2**-10, atol=0)
    half_step = (high - low) / (2**bits - 1) / 2
    worst = (values - round_trip(values, bits, "linear")).abs().max()
    assert worst <= half_step * (1 + 1e-5) + ends.abs().max() * 2**-10


@pytest.mark.parametrize("name", ["conv", "heavy tails", "one channel", "odd sizes", "several chunks"])
@pytest.mark.parametrize("bits", INTS[1:])
def test_log_keeps_signs_and_is_within_half_a_step_of_log_magnitudes(name, bits):
    values = TENSORS[name]
    _, scales = encode(values, bits, codec="log")
    logs = values.abs().log2()
    torch.testing.assert_close(scales.float(), torch.stack(logs.aminmax()), rtol=2**-9, atol=0)
    decoded = round_trip(values, bits, "log")
    assert torch.equal(decoded.sign(), values.sign())
    half_step = (logs.max() - logs.min()) / (2 ** (bits - 1) - 1) / 2
    assert (decoded.abs().log2() - logs).abs().max() <= half_step + logs.abs().max() * 2**-9


def test_log_gives_zeros_the_smallest_magnitude():
    decoded = round_trip(torch.tensor([0.0, -8.0, 0.25, -0.0]), 4, "log")
    assert decoded.tolist() == [0.25, -8.0, 0.25, 0.25]


@pytest.mark.parametrize("codec", CODECS)
def test_a_tensor_of_zeros_stays_zero(codec):
    assert not round_trip(torch.zeros(3, 5), 4, codec).any()


# --- settings ---


@pytest.mark.parametrize(
    ("bits", "num_layers", "expected"),
    [
        (4, 3, (4, 4, 4)),
        ("ternary", 2, ("ternary", "ternary")),
        (None, 2, (None, None)),
        ("default", 5, (4, 4, 4, 4, 4)),
        ("small", 7, (8, 8, 4, 4, 3, "ternary", "ternary")),
        ("small", 14, (8, 8, 8, 8, 4, 4, 4, 4, 3, 3, "ternary", "ternary", "ternary", "ternary")),
        ("small", 1, (8,)),
        ("small", 3, (8, 4, 3)),
        ("tiny", 7, (8, 4, 3, 2, 1, 1, 1)),
        ([8, "ternary", None], 3, (8, "ternary", None)),
        ((1, 2), 2, (1, 2)),
        (8, 0, ()),
        ("small", 0, ()),
    ],
)
def test_resolve_bits(bits, num_layers, expected):
    assert resolve_bits(bits, num_layers) == expected


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("num_layers", [1, 2, 3, 7, 13, 50, 1000])
def test_bits_of_presets_never_rise_with_depth(name, num_layers):
    falling = (8, 7, 6, 5, 4, 3, 2, "ternary", 1)
    places = [falling.index(bits) for bits in resolve_bits(name, num_layers)]
    assert len(places) == num_layers
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("bits", "says"),
    [
        (0, "bits=0 is not a bit width: give 1 to 8"),
        (9, "bits=9"),
        (16, "bits=16"),
        (True, "bits=True"),
        (4.0, "bits=4.0"),
        ("huge", 'bits=\'huge\' .*"ternary", None .*"default", "small", "tiny".* list'),
        ({"conv1": 4}, "bits={'conv1': 4}"),
        ([4, 4], r"bits=\[4, 4\] has 2 entries for 3 layers"),
        ([], r"has 0 entries for 3 layers"),
        ([4, "small", 4], r"bits\[1\]='small'"),
        ([4, 4, False], r"bits\[2\]=False"),
        ([4, 4, [4]], r"bits\[2\]=\[4\]"),
    ],
)
def test_resolve_bits_refuses(bits, says):
    with pytest.raises(OptionError, match=says):
        resolve_bits(bits, 3)


@pytest.mark.parametrize(
    ("values", "bits", "codec", "says"),
    [
        (torch.tensor([1.0, math.nan, math.inf]), 4, "symmetric", "2 of 3 values are NaN or Inf"),
        (torch.tensor([-math.inf]), 4, "linear", "1 of 1 values are NaN or Inf"),
        (torch.tensor([1.0, -1e5]), 4, "symmetric", "from -100000 to 1 are beyond .*bits=None"),
        (torch.tensor([65505.0]), 8, "log", "beyond the range of float16.*bits=None"),
        (torch.tensor(1.0), 4, "symmetric", r"shape=\(\) .*bits=None"),
        (torch.tensor([1, 2]), 4, "symmetric", "floating point, not torch.int64"),
        (torch.ones(2), 4, "uniform", "codec='uniform' is unknown: give one of symmetric, linear, log"),
        (torch.ones(2), 0, "symmetric", "bits=0"),
        (torch.ones(2), "default", "symmetric", "bits='default'"),
        (torch.ones(2), None, "symmetric", "bits=None means float32"),
        (torch.ones(2), "ternary", "linear", "ternary.*symmetric"),
        (torch.ones(2), "ternary", "log", "ternary.*symmetric"),
        (torch.ones(2), 1, "log", "2 to 8"),
    ],
)
def test_encode_refuses(values, bits, codec, says):
    with pytest.raises(OptionError, match=says):
        encode(values, bits, codec=codec)


uint8 = torch.ByteTensor
float16 = torch.HalfTensor


@pytest.mark.parametrize(
    ("codes", "scales", "bits", "codec", "says"),
    [
        (uint8([1, 2]), float16([1, 1]), 4, "symmetric", r"codes of a tensor of shape \(2, 3\) must be 3 numbers"),
        (uint8([1, 2, 3, 4]), float16([1, 1]), 4, "log", "must be 3 numbers"),
        (uint8([1, 2, 3]).view(1, 3), float16([1, 1]), 4, "symmetric", r"got shape \(1, 3\)"),
        (uint8([1, 2, 3]).char(), float16([1, 1]), 4, "symmetric", "torch.int8"),
        (uint8([1, 2, 3]), float16([1]), 4, "symmetric", "scales .* must be 2 numbers"),
        (uint8([1, 2, 3]), float16([1, 1, 1]), 4, "linear", "scales .* must be 2 numbers"),
        (uint8([1, 2, 3]), float16([1, 1]).float(), 4, "symmetric", "torch.float32"),
        (uint8([1, 2, 3]), float16([1, math.nan]), 4, "symmetric", "NaN or Inf"),
        (uint8([1, 2, 3]), float16([-math.inf, 1]), 4, "log", "NaN or Inf"),
        (uint8([1, 2, 3]), float16([-5, 200]), 4, "log", "beyond float32"),
    ],
)
def test_decode_refuses(codes, scales, bits, codec, says):
    with pytest.raises(FormatError, match=says):
        decode(codes, scales, (2, 3), bits, codec=codec)
