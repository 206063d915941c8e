"""AWS Nitro attestation documents: real ones, and spoiled ones under a root made here."""

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare_protocol.attestation.nitro import verify_nitro
from qflare_protocol.errors import Refusal
from tests.fake_hardware import NOW, Nitro
from tests.protocol.attestation_vectors import flipped, vector

DATA = bytes(range(64))
REAL, DEBUG = "nitro/evervault-valid-attestation-doc-bytes", "nitro/evervault-debug-mode-attestation-doc-bytes"
AT_REAL = 1_665_651_482
PLATFORM = Nitro()


def assert_refused(because, function, *arguments, **changes):
    with pytest.raises(Refusal) as caught:
        function(*arguments, **changes)
    assert caught.value.code == "evidence-refused"
    assert because in caught.value.detail


def verified(document, at=None):
    return verify_nitro(document, at, PLATFORM.roots)


def test_a_real_document_verifies_to_awss_own_root_at_its_own_time():
    report = verify_nitro(vector(REAL))
    assert report.made_at == AT_REAL
    assert report.registers["PCR0"].hex().startswith("f4d48b81a460c991")
    assert report.report_data == b""
    assert verify_nitro(vector(REAL), AT_REAL) == report


def test_a_real_document_is_refused_at_another_time():
    assert_refused("not valid at 2022-10-14", verify_nitro, vector(REAL), AT_REAL + 86_400)


def test_a_real_debug_document_is_refused():
    assert_refused("debug mode", verify_nitro, vector(DEBUG))


def signed_bits(document):
    """The bits of the protected header and of the payload, which the signature covers."""
    payload = cbor2.loads(document)[2]
    start = document.index(payload)
    return [*range(8 * 2, 8 * 6), *range(8 * start, 8 * (start + len(payload)))]


@pytest.mark.parametrize("share", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_the_signed_part_is_refused(share):
    """Every bit when slow tests run, every sixteenth otherwise and each of the first thousand."""
    document = vector(REAL)
    bits = signed_bits(document)
    for bit in bits[:1000] + bits[1000::share]:
        with pytest.raises(Refusal, match="evidence-refused"):
            verify_nitro(flipped(document, bit))


def test_every_flipped_bit_of_the_signature_is_refused():
    document = vector(REAL)
    for bit in range(8 * (len(document) - 98), 8 * len(document)):
        with pytest.raises(Refusal, match="evidence-refused"):
            verify_nitro(flipped(document, bit))


def test_a_document_of_our_own_root_verifies():
    report = verified(PLATFORM.document(DATA))
    assert (report.attester, report.report_data, report.made_at) == ("nitro", DATA, NOW)
    assert report.registers["PCR15"] == b"\x0f" * 48


def test_a_root_that_is_not_pinned_is_refused():
    assert_refused("pinned here", verify_nitro, PLATFORM.document(DATA))


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"pcrs": {0: bytes(48)}}, "debug mode"),
        ({"pcrs": {1: b"\x01" * 48}}, "debug mode"),
        ({"pcrs": {}}, "pcrs"),
        ({"pcrs": []}, "pcrs"),
        ({"pcrs": {0: b"\x01" * 32}}, "48 bytes"),
        ({"pcrs": {"0": b"\x01" * 48}}, "number of a PCR"),
        ({"digest": "SHA256"}, "SHA384"),
        ({"timestamp": 0}, "timestamp"),
        ({"timestamp": True}, "timestamp"),
        ({"timestamp": 1.5}, "timestamp"),
        ({"timestamp": (NOW + 86_400) * 1000}, "not valid"),
        ({"timestamp": 1 << 50}, "not valid at 9999"),
        ({"module_id": ""}, "module_id"),
        ({"certificate": b""}, "cannot be read"),
        ({"certificate": None}, "byte string"),
        ({"cabundle": []}, "cabundle"),
        ({"cabundle": [1]}, "byte string"),
        ({"cabundle": None}, "cabundle"),
        ({"user_data": "text"}, "user_data"),
        ({"user_data": bytes(513)}, "user_data"),
        ({"more": 1}, "exactly these members"),
        ({"nonce": ...}, "exactly these members"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_document_out_of_form_is_refused_although_signed(change, because):
    assert_refused(because, verified, PLATFORM.document(DATA, **change))


def test_another_algorithm_is_refused():
    platform = Nitro(protected=cbor2.dumps({1: -7}))
    assert_refused("ES384", verified, platform.document(DATA))


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: [*parts, b""],
        lambda parts: parts[:3],
        lambda parts: [parts[0], {4: b"kid"}, *parts[2:]],
        lambda parts: [*parts[:2], 1, parts[3]],
        lambda parts: [*parts[:3], parts[3][:-1]],
        lambda parts: [*parts[:3], parts[3] + b"\0"],
        lambda parts: cbor2.CBORTag(18, parts),
        lambda parts: {},
    ],
)
def test_another_envelope_is_refused(change):
    assert_refused("", verified, cbor2.dumps(change(cbor2.loads(PLATFORM.document(DATA)))))


def test_other_bytes_behind_a_document_are_refused():
    assert_refused("followed by other bytes", verified, PLATFORM.document(DATA) + b"\0")
    assert_refused("longer than", verified, bytes(1 << 15))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(data):
    assert_refused("", verified, data)


@settings(max_examples=300, deadline=None)
@given(payload=st.dictionaries(st.sampled_from(["pcrs", "cabundle", "timestamp"]), st.integers() | st.binary()))
def test_arbitrary_payloads_are_refused_although_signed(payload):
    if payload:
        assert_refused("", verified, PLATFORM.document(DATA, **payload))
