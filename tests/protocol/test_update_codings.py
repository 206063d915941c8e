"""Codings of an update's values: what comes back, what is refused, and that nothing else ever happens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from qflare_protocol.block_quantisation import LARGEST_SCALE
from qflare_protocol.errors import Refusal
from qflare_protocol.tensors import FLOAT32_ONLY, layout_of, parse_header
from qflare_protocol.update_codings import Bfloat16Coding, Float32Coding, Int8Blocks
from tests.protocol.test_tensors import container, entry

CODINGS = [Float32Coding(), Bfloat16Coding(), Int8Blocks(64), Int8Blocks(4096)]
ids = ["float32", "bfloat16", "64 a block", "4096 a block"]
moderate = npst.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32))


def decoded(coding, coded, width):
    values = np.empty(width, dtype=np.float32)
    coding.decode(np.frombuffer(coded, dtype=np.uint8), values)
    return values


def assert_refused(action, *arguments):
    with pytest.raises(Refusal) as caught:
        action(*arguments)
    assert caught.value.code == "invalid-tensors"


@pytest.mark.parametrize("coding", CODINGS, ids=ids)
@given(values=moderate)
@settings(max_examples=60, deadline=None)
def test_values_come_back_within_the_rounding_of_their_coding(coding, values):
    coded = coding.encode(values)
    assert len(coded) == coding.coded_bytes(len(values))
    again = decoded(coding, coded, len(values))
    if coding.exact:
        assert again.tobytes() == values.tobytes()
    elif coding.dtype == "BF16":
        np.testing.assert_allclose(again, values, rtol=2.0**-8, atol=1e-37)
    else:
        bound = [np.abs(values[index - index % coding.block_values :][: coding.block_values]).max() / 254
                 for index in range(len(values))]  # fmt: skip
        assert (np.abs(again - values) <= np.array(bound) * 1.001 + 64 * np.finfo(np.float32).tiny).all()


@pytest.mark.parametrize("coding", CODINGS, ids=ids)
@given(values=moderate)
@settings(max_examples=40, deadline=None)
def test_what_was_decoded_is_encoded_to_the_same_bytes(coding, values):
    coded = coding.encode(values)
    assert coding.encode(decoded(coding, coded, len(values))) == coded


@given(coded=st.binary(min_size=136, max_size=136))
@settings(max_examples=300, deadline=None)
def test_arbitrary_blocks_are_refused_or_bounded_and_canonical(coded):
    coding = Int8Blocks(64)
    try:
        values = decoded(coding, coded, 100)
    except Refusal as refusal:
        assert refusal.code == "invalid-tensors"
    else:
        assert np.abs(values).max() <= 127 * LARGEST_SCALE
        assert coding.encode(values) == coded


@given(scale=st.floats(0, 2.0**40, width=32, allow_subnormal=False), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_every_canonical_block_is_taken_and_is_its_own_encoding(scale, seed):
    steps = np.random.default_rng(seed).integers(-127, 128, 64).astype(np.int8)
    steps[seed % 64] = 127 if seed % 2 else -127
    coded = np.float32(scale).tobytes() + (steps if scale else np.zeros_like(steps)).tobytes()
    values = decoded(Int8Blocks(64), coded, 64)
    np.testing.assert_array_equal(values, np.float32(scale) * (steps if scale else 0))
    again = decoded(Int8Blocks(64), Int8Blocks(64).encode(values), 64)
    np.testing.assert_allclose(again, values, rtol=1e-6)


@pytest.mark.parametrize("coding", CODINGS[1:], ids=ids[1:])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_encoded(coding, value):
    assert_refused(coding.encode, np.array([1.0, value], dtype=np.float32))


def test_values_beyond_the_largest_scale_are_not_quantised():
    assert_refused(Int8Blocks(64).encode, np.array([2.0**48], dtype=np.float32))


@pytest.mark.parametrize(
    "value, bits",
    [(1.0, 0x3F80), (-2.5, 0xC020), (1.00390625, 0x3F80), (1.01171875, 0x3F82), (3.4028235e38, 0x7F80), (1e-45, 0)],
    ids=["one", "exact", "a tie to even, down", "a tie to even, up", "the largest rounds to infinity", "the smallest"],
)
def test_bfloat16_rounds_to_nearest_and_ties_to_even(value, bits):
    assert Bfloat16Coding().encode(np.array([value], dtype=np.float32)) == bits.to_bytes(2, "little")


def test_a_layout_says_the_type_and_size_of_what_is_coded():
    values = layout_of({"a": np.zeros((5, 26), dtype=np.float32), "b": np.zeros(3, dtype=np.float32)})
    assert [coding.layout(values).data_bytes for coding in CODINGS] == [532, 266, 3 * 68, 4100]
    assert [(one.name, one.dtype, one.shape) for one in CODINGS[2].layout(values).tensors] == [
        ("blocks", "U8", (3, 68))
    ]


@pytest.mark.parametrize("dtype, width", [("BF16", 2), ("U8", 1)])
def test_other_types_are_read_only_where_they_are_expected(dtype, width):
    header = container({"a": entry([3], 0, 3 * width, dtype=dtype)})
    assert parse_header(header, dtypes=frozenset({dtype})).layout.data_bytes == 3 * width
    assert_refused(parse_header, header)
    float32 = container({"a": entry([3], 0, 12)})
    with pytest.raises(Refusal):
        parse_header(float32, dtypes=frozenset({dtype}))
    assert frozenset({"F32"}) == FLOAT32_ONLY


@given(st.binary(max_size=200), st.sampled_from(["F32", "BF16", "U8"]))
@settings(max_examples=200, deadline=None)
def test_a_header_of_arbitrary_bytes_is_refused_in_every_type(data, dtype):
    with pytest.raises(Refusal):
        parse_header(len(data).to_bytes(8, "little") + data, dtypes=frozenset({dtype}))


@given(
    dtype=st.sampled_from(["F32", "BF16", "U8", "I8", "F16", 3, None, []]),
    shape=st.lists(st.integers(-1, 2**40), max_size=3),
    end=st.integers(0, 2**41),
)
@settings(max_examples=200, deadline=None)
def test_an_entry_of_arbitrary_type_and_shape_is_refused_or_means_its_bytes(dtype, shape, end):
    header = container({"a": entry(shape, 0, end, dtype=dtype)})
    try:
        layout = parse_header(header, dtypes=frozenset({"BF16", "U8"})).layout
    except Refusal as refusal:
        assert refusal.code == "invalid-tensors"
    else:
        assert dtype in ("BF16", "U8") and layout.data_bytes == end <= 1 << 36
