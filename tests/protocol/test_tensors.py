import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import load, save

from qflare_protocol import tensors
from qflare_protocol.errors import Refusal
from qflare_protocol.tensors import decode_tensors, encode_tensors, layout_of, parse_header

MODEL = {
    "layer.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "layer.bias": np.array([1.5, -2.0, 0.25], dtype=np.float32),
    "scale": np.array(7.0, dtype=np.float32),
}
characters = st.characters(min_codepoint=33, max_codepoint=0x2FF, categories=("L", "N", "P"))
names = st.text(characters, min_size=1, max_size=20)
arrays = npst.arrays(np.float32, npst.array_shapes(min_dims=0, max_dims=4, max_side=4), elements=st.floats(width=32))


def container(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def assert_refused(action, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        action(*arguments, **options)
    assert caught.value.code == "invalid-tensors"


@given(st.dictionaries(names, arrays, min_size=1, max_size=5).filter(lambda d: "__metadata__" not in d))
@settings(max_examples=60, deadline=None)
def test_what_is_encoded_decodes_bit_for_bit(model):
    decoded = decode_tensors(encode_tensors(model))
    assert decoded.keys() == model.keys()
    for name, array in model.items():
        assert decoded[name].shape == array.shape
        assert decoded[name].tobytes() == array.tobytes()


def test_the_same_tensors_give_the_same_bytes_in_whatever_order_they_come():
    assert encode_tensors(MODEL) == encode_tensors(dict(reversed(MODEL.items())))


def test_the_reference_library_reads_ours_and_we_read_its():
    ours = load(encode_tensors(MODEL))
    theirs = decode_tensors(save(MODEL, metadata={"format": "pt"}))
    for name, array in MODEL.items():
        np.testing.assert_array_equal(ours[name], array)
        np.testing.assert_array_equal(theirs[name], array)


def test_the_data_begins_on_a_boundary_of_eight_bytes():
    assert parse_header(encode_tensors(MODEL)).data_offset % 8 == 0


def test_a_layout_knows_its_sizes():
    layout = layout_of(MODEL)
    assert (layout.size, layout.data_bytes) == (16, 64)
    assert layout.container_bytes == len(encode_tensors(MODEL))


def test_a_noncontiguous_array_is_encoded_by_its_values():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(decode_tensors(encode_tensors({"a": array}))["a"], array)


def test_a_tensor_without_elements_is_allowed():
    assert decode_tensors(encode_tensors({"empty": np.zeros((0, 3), dtype=np.float32)}))["empty"].shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.bool_])
def test_other_types_than_float32_are_not_encoded(dtype):
    assert_refused(encode_tensors, {"a": np.zeros(2, dtype=dtype)})


def test_more_dimensions_than_allowed_are_not_encoded():
    assert_refused(encode_tensors, {"a": np.zeros((1,) * 9, dtype=np.float32)})


@pytest.mark.parametrize(
    "other",
    [
        {"layer.weight": MODEL["layer.weight"], "layer.bias": MODEL["layer.bias"]},
        MODEL | {"extra": np.zeros(1, dtype=np.float32)},
        MODEL | {"layer.bias": np.zeros((1,), dtype=np.float32)},
        MODEL | {"layer.bias": np.zeros((1, 3), dtype=np.float32)},
        MODEL | {"layer.weight": np.zeros((4, 3), dtype=np.float32)},
        MODEL | {"scale": np.zeros((1,), dtype=np.float32)},
        {f"x{name}": array for name, array in MODEL.items()},
    ],
)
def test_another_layout_is_refused_even_where_numpy_would_broadcast(other):
    assert_refused(decode_tensors, encode_tensors(other), expected=layout_of(MODEL))


def test_the_same_layout_is_accepted():
    assert decode_tensors(encode_tensors(MODEL), expected=layout_of(MODEL)).keys() == MODEL.keys()


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\x00", lambda data: data[:20]])
def test_a_container_of_another_size_than_its_header_says_is_refused(change):
    assert_refused(decode_tensors, change(encode_tensors(MODEL)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 7,
        container(b""),
        container(b"{"),
        container(b"[]"),
        container(b" {}"),
        container(b"{} {}"),
        container(b'{"a": NaN}'),
        container(b"\xff\xfe{}"),
        container(b'{"a":' * 50_000),
        container({}),
        container({"__metadata__": {}}),
        (tensors.MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
        (2**63).to_bytes(8, "little"),
    ],
    ids=lambda data: repr(data[:16]),
)
def test_a_header_that_is_not_one_bounded_json_object_is_refused(data):
    assert_refused(parse_header, data)


def test_a_tensor_named_twice_is_refused():
    member = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    assert_refused(decode_tensors, container(b"{" + member + b"," + member + b"}", bytes(4)))


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry([1], 4, 8)},
        {"a": entry([1], 0, 4), "b": entry([1], 8, 12)},
        {"a": entry([2], 0, 8), "b": entry([1], 4, 8)},
        {"a": entry([1], 0, 4), "b": entry([1], 0, 4)},
        {"a": entry([2], 0, 4)},
        {"a": entry([1], 4, 0)},
        {"a": entry([-1], 0, 4)},
        {"a": entry([1.0], 0, 4)},
        {"a": entry([True], 0, 4)},
        {"a": entry(["1"], 0, 4)},
        {"a": entry("1", 0, 4)},
        {"a": entry([2**40, 2**40], 0, 4)},
        {"a": entry([2**70], 0, 4)},
        {"a": entry([1] * 9, 0, 4)},
        {"a": entry([1], 0, 4, dtype="F64")},
        {"a": entry([1], 0, 4, dtype="BF16")},
        {"a": entry([1], 0, 4, dtype=["F32"])},
        {"a": entry([1], 0, 4) | {"more": 1}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
        {"a": [1]},
        {"": entry([1], 0, 4)},
        {"a\x00b": entry([1], 0, 4)},
        {"a" * 257: entry([1], 0, 4)},
        {"__metadata__": [], "a": entry([1], 0, 4)},
        {"__metadata__": {"k": 1}, "a": entry([1], 0, 4)},
        {"__metadata__": {"k": "v" * 2000}, "a": entry([1], 0, 4)},
        {"__metadata__": {str(i): "v" for i in range(17)}, "a": entry([1], 0, 4)},
    ],
    ids=lambda header: json.dumps(header)[:60],
)
def test_an_entry_out_of_form_is_refused(header):
    assert_refused(decode_tensors, container(header, bytes(12)))


def test_more_tensors_than_allowed_are_refused():
    header = {f"t{i}": entry([0], 0, 0) for i in range(tensors.MAX_TENSORS + 1)}
    assert_refused(parse_header, container(header))


def test_more_data_than_allowed_is_refused_before_anything_is_allocated():
    size = tensors.MAX_DATA_BYTES // 4
    header = {"a": entry([size], 0, 4 * size), "b": entry([1], 4 * size, 4 * size + 4)}
    assert_refused(parse_header, container(header))


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(data):
    assert_refused(decode_tensors, data)


@given(position=st.integers(0, 400), value=st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_changed_header_byte_gives_a_refusal_or_a_whole_container(position, value):
    data = bytearray(encode_tensors(MODEL))
    data[position % len(data)] = value
    try:
        decoded = decode_tensors(bytes(data))
    except Refusal as refusal:
        assert refusal.code == "invalid-tensors"
    else:
        assert sum(array.nbytes for array in decoded.values()) == 64
