"""The data formats of ETSI GS QKD 014: examples written by hand, and everything that is not one of them."""

import base64
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.qkd import QkdKey, QkdUnavailable, etsi014

FIRST = uuid.UUID("bc490419-7d60-487f-adc1-4ddcc177c139")
SECOND = uuid.UUID("0a782fb5-3434-48fe-aa4d-14f41d46cf92")
KEY = bytes(range(1, 33))
STATUS = {
    "source_KME_ID": "AAAABBBBCCCCDDDD",
    "target_KME_ID": "EEEEFFFFGGGGHHHH",
    "master_SAE_ID": "IIIIJJJJKKKKLLLL",
    "slave_SAE_ID": "MMMMNNNNOOOOPPPP",
    "key_size": 352,
    "stored_key_count": 25000,
    "max_key_count": 100000,
    "max_key_per_request": 128,
    "max_key_size": 1024,
    "min_key_size": 64,
    "max_SAE_ID_count": 0,
}


def container(*keys, **members):
    rows = [{"key_ID": str(key_id), "key": base64.b64encode(key).decode()} for key_id, key in keys]
    return json.dumps({"keys": rows, **members}).encode()


def read(data, number=1, size_bits=256):
    return etsi014.read_key_container(data, number=number, size_bits=size_bits)


def test_a_status_is_read_whole():
    status = etsi014.read_status(json.dumps(STATUS).encode())
    assert (status.source_kme_id, status.slave_sae_id) == ("AAAABBBBCCCCDDDD", "MMMMNNNNOOOOPPPP")
    assert (status.key_size_bits, status.stored_key_count, status.max_key_count) == (352, 25000, 100000)
    assert (status.max_key_per_request, status.max_key_size_bits, status.min_key_size_bits) == (128, 1024, 64)
    assert json.loads(etsi014.write_status(status)) == STATUS


def test_members_that_are_not_known_are_passed_over():
    extended = STATUS | {"status_extension": {"vendor": [1, 2]}, "colour": "red"}
    assert etsi014.read_status(json.dumps(extended).encode()) == etsi014.read_status(json.dumps(STATUS).encode())
    assert read(container((FIRST, KEY), key_container_extension={}, more=1))[0].key == KEY


@pytest.mark.parametrize("name", STATUS)
def test_a_status_without_one_of_its_members_is_refused(name):
    with pytest.raises(QkdUnavailable, match=name):
        etsi014.read_status(json.dumps({key: value for key, value in STATUS.items() if key != name}).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [("key_size", True), ("key_size", 256.0), ("key_size", "256"), ("stored_key_count", -1), ("max_key_count", 2**53),
     ("source_KME_ID", ""), ("source_KME_ID", 7), ("slave_SAE_ID", "x" * 256)],
)  # fmt: skip
def test_a_member_of_another_type_or_size_is_refused(name, value):
    with pytest.raises(QkdUnavailable, match=name):
        etsi014.read_status(json.dumps(STATUS | {name: value}).encode())


def test_keys_are_read_with_their_ids():
    keys = read(container((FIRST, KEY), (SECOND, KEY[::-1])), number=2)
    assert keys == [QkdKey(FIRST, KEY), QkdKey(SECOND, KEY[::-1])]
    assert read(etsi014.write_key_container(keys), number=2) == keys


def test_an_upper_case_key_id_is_the_same_id():
    assert read(container((str(FIRST).upper(), KEY)))[0].key_id == FIRST


def test_a_key_is_in_no_repr():
    assert KEY.hex() not in repr(QkdKey(FIRST, KEY))
    assert repr(KEY)[2:-1] not in repr(QkdKey(FIRST, KEY))


@pytest.mark.parametrize(
    "key", [KEY[:-1], KEY + b"x", b"", bytes(32)], ids=["short", "long", "empty", "zeros"]
)  # fmt: skip
def test_a_key_without_the_bits_asked_for_is_refused(key):
    with pytest.raises(QkdUnavailable, match="256 random bits"):
        read(container((FIRST, key)))


@pytest.mark.parametrize(
    "text",
    ["not base64!", base64.b64encode(KEY).decode().rstrip("="), base64.b64encode(KEY).decode() + "\n",
     base64.urlsafe_b64encode(b"\xff" * 32).decode(), "é" * 44, None, 7, ["A" * 44]],
)  # fmt: skip
def test_a_key_that_is_not_canonical_base64_is_refused(text):
    data = json.dumps({"keys": [{"key_ID": str(FIRST), "key": text}]}).encode()
    with pytest.raises(QkdUnavailable, match="Base64"):
        read(data)


def test_base64_with_spare_bits_set_is_refused():
    text = base64.b64encode(KEY).decode()
    assert text[-2:] == "A="
    data = json.dumps({"keys": [{"key_ID": str(FIRST), "key": text[:-2] + "B="}]}).encode()
    with pytest.raises(QkdUnavailable, match="canonical"):
        read(data)


@pytest.mark.parametrize("key_id", ["", "bc490419", FIRST.hex, f"{{{FIRST}}}", f"urn:uuid:{FIRST}", 7, None])
def test_a_key_id_that_is_not_a_uuid_with_dashes_is_refused(key_id):
    with pytest.raises(QkdUnavailable, match=r"UUID|key_ID"):
        read(json.dumps({"keys": [{"key_ID": key_id, "key": base64.b64encode(KEY).decode()}]}).encode())


def test_another_number_of_keys_than_asked_for_is_refused():
    with pytest.raises(QkdUnavailable, match="2 different"):
        read(container((FIRST, KEY)), number=2)
    with pytest.raises(QkdUnavailable, match="2 different"):
        read(container((FIRST, KEY), (FIRST, KEY[::-1])), number=2)
    with pytest.raises(QkdUnavailable, match="128 items"):
        read(container(*[(FIRST, KEY)] * 129), number=129)


@pytest.mark.parametrize("keys", [None, {}, [], "keys", [None], [7], [[]], [{}]])
def test_a_container_without_keys_is_refused(keys):
    with pytest.raises(QkdUnavailable):
        read(json.dumps({"keys": keys}).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b'"keys"', b"{", b'{"keys":[],"keys":[]}', b'{"a":NaN}', b'{"a":Infinity}', b"\xff\xfe{}",
     b'{"a":' + b"[" * 200_000, b'{"a":' + b"9" * 5000 + b"}", b'{"keys":[]} x'],
    ids=["empty", "null", "list", "text", "open", "twice", "nan", "infinity", "utf-16", "deep", "long number", "more"],
)  # fmt: skip
def test_what_is_not_a_strict_json_object_is_refused(data):
    with pytest.raises(QkdUnavailable, match="key container"):
        read(data)


def test_an_oversize_message_is_refused_before_it_is_parsed():
    with pytest.raises(QkdUnavailable, match="longer than"):
        read(b" " * (etsi014.MAX_MESSAGE_BYTES + 1))


def test_no_failure_tells_a_key():
    secret = base64.b64encode(KEY).decode()
    for data in (f'{{"keys":[{{"key":"{secret}"', f'{{"keys":[{{"key_ID":"{secret}","key":"{secret}"}}]}}'):
        with pytest.raises(QkdUnavailable) as failure:
            read(data.encode())
        assert secret not in str(failure.value)
        assert failure.value.__cause__ is None
        assert failure.value.__suppress_context__ or failure.value.__context__ is None


def test_key_ids_are_written_and_read():
    data = etsi014.write_key_ids([FIRST, SECOND])
    assert json.loads(data) == {"key_IDs": [{"key_ID": str(FIRST)}, {"key_ID": str(SECOND)}]}
    assert etsi014.read_key_ids(data) == [FIRST, SECOND]
    with pytest.raises(QkdUnavailable, match="twice"):
        etsi014.read_key_ids(etsi014.write_key_ids([FIRST, FIRST]))


def test_a_key_request_has_the_defaults_of_the_standard():
    assert etsi014.read_key_request(b"") == etsi014.KeyRequest(1, None)
    assert etsi014.read_key_request(b"{}") == etsi014.KeyRequest(1, None)
    assert json.loads(etsi014.write_key_request(etsi014.KeyRequest(3, 512))) == {"number": 3, "size": 512}
    assert json.loads(etsi014.write_key_request(etsi014.KeyRequest())) == {"number": 1}


@pytest.mark.parametrize("member", [{"extension_mandatory": [{"x": 1}]}, {"additional_slave_SAE_IDs": ["ABC"]}])
def test_what_a_key_request_demands_beyond_keys_is_not_passed_over(member):
    with pytest.raises(QkdUnavailable, match="not supported"):
        etsi014.read_key_request(json.dumps({"number": 1, **member}).encode())


def test_an_optional_extension_is_passed_over():
    assert etsi014.read_key_request(b'{"size":128,"extension_optional":[{"x":1}]}') == etsi014.KeyRequest(1, 128)


def test_an_error_message_is_cut_to_what_a_log_can_take():
    error = etsi014.read_error(json.dumps({"message": "no\nkeys" + "!" * 999, "details": [{"a": "b"}]}).encode())
    assert error.message.startswith("nokeys!")
    assert len(error.message) == etsi014.MAX_MESSAGE_CHARACTERS


@pytest.mark.parametrize("sae_id", ["", ".", "..", "x" * 256, "a\nb", "a\0", None, 7, b"sae"])
def test_what_cannot_be_the_id_of_an_sae_is_refused(sae_id):
    with pytest.raises(QkdUnavailable, match="SAE id"):
        etsi014.check_sae_id(sae_id)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=10,
)
readers = st.sampled_from(
    [etsi014.read_status, etsi014.read_error, etsi014.read_key_ids, etsi014.read_key_request, read]
)


@given(reader=readers, data=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(reader, data):
    try:
        reader(data)
    except QkdUnavailable as refusal:
        assert str(refusal).endswith(".")


@given(
    reader=readers, name=st.sampled_from([*STATUS, "keys", "key_IDs", "message", "number", "size"]), value=json_values
)
def test_any_value_of_any_member_is_read_or_refused(reader, name, value):
    try:
        reader(json.dumps({**STATUS, name: value}).encode())
    except QkdUnavailable as refusal:
        assert str(refusal).endswith(".")


@given(key=st.binary(min_size=1, max_size=128).filter(any), key_id=st.uuids())
def test_every_key_survives_the_wire(key, key_id):
    written = etsi014.write_key_container([QkdKey(key_id, key)])
    assert read(written, size_bits=len(key) * 8) == [QkdKey(key_id, key)]
