"""Whatever is sent to the sealed process or sealed for it ends that process at most, and the next round is served."""

import json
import os

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enclave.core.attesters.software import SoftwareAttester
from enclave.core.channel import Channel, ChannelClosed
from enclave.core.host import DecisionRecord
from enclave.core.measurement import measure
from enclave.core.requests import PrepareRequest
from enclave.core.service import EnclaveState, serve
from enclave.courier import (
    EnclaveHost,
    EnclaveTask,
    SealedProcess,
    aggregate_round,
    initialise_host_directory,
    prepare_round,
)
from qflare_protocol.aggregation_policy import PROTECTIONS
from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import CATALOGUE, Refusal
from qflare_protocol.tensors import encode_tensors
from qflare_protocol.update import HEADER_BYTES, SEALED_KEY_BYTES
from tests.enclave_core.rounds import FEDERATION, FEDERATION_KEY, ROUND, Round, deltas, new_signer
from tests.policies import screened

UID = 65534 if os.geteuid() == 0 else os.getuid()
POLICY = screened()
PREPARE = PrepareRequest(ROUND, FEDERATION, POLICY, b"n" * 32).to_map()
HONEST = Round()
HONEST.submit_all(deltas(3))
AGGREGATE = HONEST.request(wrapped_keys=b"wrapped keys").to_map()
ATTESTER = SoftwareAttester(new_signer())

slow = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def framed(body):
    return len(body).to_bytes(4, "big") + body


def conversation(sent):
    """Let `serve` read these bytes; return its messages and how it ended."""
    unread, written = bytearray(sent), bytearray()

    def read(size):
        piece = bytes(unread[:size])
        del unread[:size]
        return piece

    def write(data):
        written.extend(data)
        return len(data)

    descriptor = os.memfd_create("decision")
    decisions = DecisionRecord(descriptor)
    protections = dict.fromkeys(PROTECTIONS, True)
    state = EnclaveState(
        measurement=measure(),
        protections=protections,
        memory_bytes=POLICY.maximum_memory_bytes,
        sealing_key=b"s" * 32,
        federation_key=FEDERATION_KEY,
        attester=ATTESTER,
        decisions=decisions,
    )
    try:
        serve(Channel(read, write), state)
        ending = "answered"
    except ChannelClosed:
        ending = "closed"
    finally:
        os.close(descriptor)
    return list(messages_in(bytes(written))), ending


def messages_in(data):
    while data:
        length = int.from_bytes(data[:4], "big")
        yield decode(data[4 : 4 + length], what="message", maximum_bytes=1 << 26)
        data = data[4 + length :]


def assert_harmless(sent):
    """Nothing but an answer in form came of it, or the end of the conversation."""
    (ready, *answers), ending = conversation(sent)
    assert ready["kind"] == "ready"
    if ending == "closed":
        return
    assert answers[-1]["kind"] in {"refused", "prepared"}
    if answers[-1]["kind"] == "refused":
        assert answers[-1]["code"] in CATALOGUE


@slow
@given(st.binary(max_size=200))
@example(b"\xff\xff\xff\xff")
@example(framed(b"\x81" * 100 + b"\x00"))
@example(framed(b"\xa1\x61a" * 50 + b"\x00"))
@example(framed(b"\x9b" + b"\xff" * 8))
def test_random_bytes_are_answered_or_end_the_conversation(data):
    assert_harmless(data)


@slow
@given(VALUES)
def test_random_structures_are_refused(value):
    assert_harmless(framed(encode(value)))


@slow
@given(st.sampled_from(["prepare", "aggregate"]), st.data())
def test_a_member_of_any_type_is_refused_and_never_crashes(kind, data):
    request = PREPARE if kind == "prepare" else AGGREGATE
    member = data.draw(st.sampled_from(sorted(request)))
    assert_harmless(framed(encode(request | {member: data.draw(VALUES)})))


@slow
@given(st.sampled_from(sorted(POLICY.to_map())), VALUES)
def test_a_policy_with_a_member_of_any_type_is_refused_and_never_crashes(member, value):
    assert_harmless(framed(encode(PREPARE | {"policy": POLICY.to_map() | {member: value}})))


@slow
@given(st.sampled_from(["roster", "updates"]), st.integers(0, 2), st.integers(0, 2), VALUES)
def test_a_row_with_a_value_of_any_type_is_refused_and_never_crashes(table, row, column, value):
    rows = [list(row) for row in AGGREGATE[table]]
    rows[row][column % len(rows[row])] = value
    assert_harmless(framed(encode(AGGREGATE | {table: rows})))


@slow
@given(st.data())
def test_a_request_with_one_bit_flipped_is_harmless(data):
    body = bytearray(encode(data.draw(st.sampled_from([PREPARE, AGGREGATE]))))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert_harmless(framed(bytes(body)))


@pytest.fixture
def host(tmp_path):
    initialise_host_directory(tmp_path / "host", UID, UID)
    return EnclaveHost(tmp_path / "host", UID, UID, timeout_seconds=60.0)


def prepare(host):
    return prepare_round(host, round_id=ROUND, federation_id=FEDERATION, policy=POLICY, nonce=b"n" * 32)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\xff\xff\xff\xff", id="a length over the limit"),
        pytest.param(b"\x00\x00\x10\x00abc", id="a length that is not there"),
        pytest.param(framed(b""), id="nothing"),
        pytest.param(framed(os.urandom(500)), id="random bytes"),
        pytest.param(framed(b"\x81" * 1_000_000 + b"\x00"), id="a million lists in one another"),
        pytest.param(framed(b"\x9b" + b"\xff" * 8), id="a list without end"),
        pytest.param(framed(encode({"kind": "no such kind"})), id="an unknown kind"),
        pytest.param(framed(encode(PREPARE | {"nonce": 3})), id="a member of another type"),
        pytest.param(framed(encode(AGGREGATE)), id="another kind than it was started for"),
    ],
)
def test_a_hostile_frame_ends_the_real_process_at_most_and_the_next_round_is_served(host, sent):
    task = EnclaveTask("prepare", ROUND, FEDERATION, POLICY.maximum_memory_bytes)
    with SealedProcess(host, task) as process:
        process.receive("ready")
        process._socket.sendall(sent)
        process._socket.shutdown(1)
        with pytest.raises(Refusal) as caught:
            process.receive("prepared")
        assert caught.value.detail
        assert process._process.wait(timeout=10) in (0, 70)
    assert prepare(host).claims.round_id == ROUND


def flipped(data, place):
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


STREAM = HEADER_BYTES
PLACES = {
    "magic": 0,
    "length of the sealed key": 11,
    "begin of the encapsulated key": 12,
    "within the encapsulated key": 12 + SEALED_KEY_BYTES // 2,
    "tag of the sealed key": HEADER_BYTES - 1,
    "magic of the stream": STREAM,
    "nonce prefix": STREAM + 4,
    "commitment": STREAM + 20,
    "first byte of the chunk": STREAM + 43,
    "last byte of the chunk": -17,
    "tag of the chunk": -1,
}


def test_a_blob_with_one_bit_flipped_anywhere_in_its_structure_drops_out_alone(host):
    entry = Round(prepared=prepare(host))
    entry.submit_all(deltas(4))
    honest = set(entry.signers)
    changes = [lambda blob, place=place: flipped(blob, place) for place in PLACES.values()]
    changes += [lambda blob: blob[:-1], lambda blob: blob + b"\x00", lambda blob: b"", lambda blob: blob[:STREAM]]
    for change in changes:
        entry.submit(deltas(1)[0], blob=change)
    judged = aggregate(host, entry)
    assert {verdict.device_id for verdict in judged.accepted} == honest
    assert {verdict.reason for verdict in judged.rejected} <= {"decryption-failed", "digest-mismatch"}
    assert len(judged.rejected) == len(changes)


def header_of(plaintext):
    return json.loads(plaintext[8 : 8 + int.from_bytes(plaintext[:8], "little")])


def test_a_container_with_one_bit_flipped_anywhere_in_its_header_drops_out_alone(host):
    """The device has sealed it properly: only the sealed process can see what is wrong."""
    entry = Round(prepared=prepare(host))
    entry.submit_all(deltas(4))
    honest = set(entry.signers)
    plaintext = encode_tensors({"w": deltas(1)[0]})
    assert set(header_of(plaintext)) == {"w"}
    header_bytes = 8 + int.from_bytes(plaintext[:8], "little")
    for place in range(header_bytes):
        entry.submit(flipped(plaintext, place))
    judged = aggregate(host, entry)
    assert {verdict.device_id for verdict in judged.accepted} == honest
    assert {verdict.reason for verdict in judged.rejected} == {"invalid-tensors"}
    assert len(judged.rejected) == header_bytes


def aggregate(host, entry):
    return entry.result_of(aggregate_round(host, **(entry.for_courier() | {"write_output": lambda name, piece: None})))
