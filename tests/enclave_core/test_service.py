"""The conversation in this process: the same loop as in the sealed one, over a socket pair, unsealed."""

import io
import os
import socket
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from enclave.core.attesters.software import SoftwareAttester
from enclave.core.channel import MAX_MESSAGE_BYTES, Channel, ChannelClosed
from enclave.core.host import DecisionRecord
from enclave.core.measurement import measure
from enclave.core.requests import PrepareRequest, read_request
from enclave.core.service import EnclaveState, serve
from enclave.core.warmup import warm_up
from enclave.courier import result_of
from qflare_protocol.aggregation_policy import PROTECTIONS
from qflare_protocol.attestation import AppraisalPolicy, appraise
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import JudgedRound
from qflare_protocol.tensors import model_digest
from tests.enclave_core.rounds import FEDERATION, FEDERATION_KEY, ROUND, Round, deltas, new_signer
from tests.policies import screened

POLICY = screened()
HOST = new_signer()
ATTESTER = SoftwareAttester(HOST)
ALL = dict.fromkeys(PROTECTIONS, True)


@pytest.fixture
def decisions():
    descriptor = os.memfd_create("decision")
    yield DecisionRecord(descriptor)
    os.close(descriptor)


def state(decisions=None, *, attester=ATTESTER, protections=ALL, memory_bytes=POLICY.maximum_memory_bytes, files=()):
    return EnclaveState(
        measure(), protections, memory_bytes, b"s" * 32, FEDERATION_KEY, attester, decisions, frozenset(files)
    )


class Conversation:
    """Our end of the channel to a `serve` that runs in a thread."""

    def __init__(self, enclave_state):
        self._ours, self._theirs = socket.socketpair()
        theirs = Channel.over_descriptor(self._theirs.fileno())
        self._thread = threading.Thread(target=serve, args=(theirs, enclave_state))
        self._thread.start()
        self.channel = Channel.over_descriptor(self._ours.fileno())
        self.ready = self.channel.receive()

    def ask(self, message, courier=None):
        """Send the request, take what it gives out, and return the last message."""
        self.channel.send(message)
        while (answer := self.channel.receive())["kind"] in ("output", "step"):
            if answer["kind"] == "output":
                courier.write(answer["name"], answer["piece"])
        self._thread.join()
        self._ours.close(), self._theirs.close()
        return answer


def prepared(**options):
    request = PrepareRequest(ROUND, FEDERATION, POLICY, b"n" * 32)
    return Conversation(state(**options)).ask(request.to_map())


@contextmanager
def files_of(courier):
    """Give the courier's blobs as open files, in the order of their sources."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in courier.blobs]
        for source, file in enumerate(files):
            file.write(courier.blobs[source])
            file.flush()
        yield tuple(file.fileno() for file in files)


def ask_to_aggregate(entry, decisions, courier=None, **changes):
    """Return the answer to an aggregate request, whose blobs are open files."""
    courier = courier or entry.courier()
    with files_of(courier) as files:
        request = entry.request(wrapped_keys=entry.prepared.wrapped_keys, descriptors=files, **changes)
        named = files[: 1 + len(request.updates)]
        message = request.to_map() | {"descriptors": list(named)}
        return Conversation(state(decisions, files=files)).ask(message, courier)


class FromEnclave:
    """A prepared round as `Round` expects it, after a device has appraised the evidence."""

    def __init__(self, answer):
        policy = AppraisalPolicy(frozenset({HOST.fingerprint}), frozenset({measure()}))
        wanted = {"round_id": ROUND, "federation_id": FEDERATION, "nonce": b"n" * 32}
        claims = appraise(answer["evidence"], policy, now=int(time.time()), **wanted).claims
        self.hpke_public_key, self.key_id = claims.hpke_public_key, claims.key_id
        self.result_public_key, self.wrapped_keys = claims.result_public_key, answer["wrapped_keys"]


def full_round(count=5, poisoned=0):
    entry = Round(prepared=FromEnclave(prepared()))
    entry.submit_all(deltas(count, poisoned))
    return entry


def test_the_process_announces_its_measurement_and_protections():
    conversation = Conversation(state(protections=ALL | {"landlock": False}))
    assert conversation.ready["measurement"] == measure()
    assert conversation.ready["protections"]["landlock"] is False
    conversation.ask({"kind": "nothing"})


def test_prepare_gives_evidence_that_a_device_accepts_and_keys_that_stay_wrapped():
    answer = prepared()
    assert answer["kind"] == "prepared"
    assert len(FromEnclave(answer).wrapped_keys) < 300


def test_aggregate_gives_the_model_and_a_result_signed_by_the_rounds_key(decisions):
    entry = full_round(10, poisoned=2)
    courier = entry.courier()
    answer = ask_to_aggregate(entry, decisions, courier)
    judged = JudgedRound.verified(result_of(answer), Verifier("ML-DSA-44", entry.prepared.result_public_key))
    assert len(judged.rejected) == 2
    assert judged.result.model_digest == model_digest(courier.model)


def test_a_successor_takes_the_round_over_and_gives_the_same(decisions):
    entry = full_round()
    couriers = entry.courier(), entry.courier()
    answers = [ask_to_aggregate(entry, decisions, courier) for courier in couriers]
    verifier = Verifier("ML-DSA-44", entry.prepared.result_public_key)
    assert JudgedRound.verified(result_of(answers[0]), verifier) == JudgedRound.verified(
        result_of(answers[1]), verifier
    )
    assert couriers[0].model == couriers[1].model


def test_the_same_round_with_one_device_left_out_is_refused_before_a_byte_leaves(decisions):
    entry = full_round(6)
    ask_to_aggregate(entry, decisions)
    courier = entry.courier()
    answer = ask_to_aggregate(entry, decisions, courier, updates=tuple(entry.submitted[:-1]))
    assert (answer["kind"], answer["code"]) == ("refused", "conflict")
    assert courier.model == b""


def test_too_few_updates_are_refused_with_their_verdicts(decisions):
    entry = full_round(3)
    entry.blobs[0] = b"damaged"
    answers = [ask_to_aggregate(entry, decisions) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["code"] == "too-few-updates"
    assert len(answers[0]["extensions"]["verdicts"]) == 3


def test_after_too_few_updates_another_set_learns_nothing(decisions):
    entry = full_round(4, poisoned=1)
    entry.blobs[1] = b"damaged"
    assert ask_to_aggregate(entry, decisions)["code"] == "too-few-updates"
    answer = ask_to_aggregate(entry, decisions, updates=tuple(entry.submitted[1:]))
    assert (answer["code"], answer["extensions"]) == ("conflict", {})


def test_a_changed_policy_does_not_open_the_rounds_keys(decisions):
    entry = full_round()
    looser = screened(filters=())
    assert ask_to_aggregate(entry, decisions, policy=looser)["code"] == "decryption-failed"


def test_a_missing_protection_that_the_policy_demands_is_refused():
    demanding = screened(required_protections=("landlock", "seccomp"))
    request = PrepareRequest(ROUND, FEDERATION, demanding, b"n" * 32)
    answer = Conversation(state(protections=ALL | {"landlock": False})).ask(request.to_map())
    assert answer["code"] == "sealing-refused"
    assert "landlock" in answer["detail"]
    assert "seccomp" not in answer["detail"]


def test_a_missing_protection_of_the_tier_that_the_policy_demands_is_refused():
    demanding = screened(required_tier="full")
    request = PrepareRequest(ROUND, FEDERATION, demanding, b"n" * 32)
    assert Conversation(state()).ask(request.to_map())["kind"] == "prepared"
    answer = Conversation(state(protections=ALL | {"namespaces": False})).ask(request.to_map())
    assert answer["code"] == "sealing-refused"
    assert "namespaces" in answer["detail"]


def test_another_memory_limit_than_the_policys_is_refused():
    request = PrepareRequest(ROUND, FEDERATION, POLICY, b"n" * 32)
    assert Conversation(state(memory_bytes=1 << 31)).ask(request.to_map())["code"] == "sealing-refused"


def test_a_process_started_for_one_kind_of_request_refuses_the_other(decisions):
    entry = full_round()
    request = entry.request(wrapped_keys=entry.prepared.wrapped_keys)
    assert Conversation(state(None)).ask(request.to_map())["code"] == "enclave-failed"
    assert prepared(attester=None)["code"] == "enclave-failed"


@pytest.mark.parametrize("descriptors", [(), (0,) * 6, tuple(range(900, 906))], ids=["none", "input", "others"])
def test_a_request_that_names_other_files_than_were_given_is_refused(decisions, descriptors):
    entry = full_round()
    request = entry.request(wrapped_keys=entry.prepared.wrapped_keys, descriptors=descriptors)
    assert Conversation(state(decisions)).ask(request.to_map())["code"] == "malformed-message"


def test_a_short_nonce_is_refused():
    request = PrepareRequest(ROUND, FEDERATION, POLICY, b"n")
    assert Conversation(state()).ask(request.to_map())["code"] == "evidence-refused"


def test_the_dummy_round_of_the_warm_up_comes_out_right():
    warm_up()


def test_a_warm_up_that_comes_out_wrong_stops_the_process(monkeypatch):
    monkeypatch.setattr("enclave.core.warmup.DUMMY_POLICY", screened(filters=()))
    with pytest.raises(Refusal) as caught:
        warm_up()
    assert caught.value.code == "enclave-failed"


PREPARE = PrepareRequest(ROUND, FEDERATION, POLICY, b"n" * 32).to_map()
AGGREGATE = Round().request().to_map()


def test_requests_read_back_as_they_were():
    entry = Round()
    entry.submit_all(deltas(3))
    assert read_request(entry.request().to_map()) == entry.request()
    assert read_request(PREPARE) == PrepareRequest(ROUND, FEDERATION, POLICY, b"n" * 32)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"kind": "stop"},
        PREPARE | {"more": 1},
        PREPARE | {"round_id": b"short"},
        PREPARE | {"nonce": "text"},
        AGGREGATE | {"roster": {}},
        AGGREGATE | {"roster": [[b"a" * 16]]},
        AGGREGATE | {"roster": [[b"a", "ML-DSA-44", b""]]},
        AGGREGATE | {"roster": [[b"a" * 16, 44, b""]]},
        AGGREGATE | {"updates": [1]},
        AGGREGATE | {"updates": [[b"a" * 16, "manifest"]]},
        AGGREGATE | {"wrapped_keys": None},
        AGGREGATE | {"base_model_digest": b""},
        AGGREGATE | {"carried": [["centre", b"k" * 32]]},
        AGGREGATE | {"carried": [["", b"k" * 32, b"d" * 32]]},
        AGGREGATE | {"descriptors": [-1]},
        AGGREGATE | {"descriptors": 3},
    ],
    ids=range(17),
)
def test_a_request_out_of_form_is_refused(message):
    with pytest.raises(Refusal) as caught:
        read_request(message)
    assert caught.value.code == "malformed-message"


def channel_reading(data):
    stream = io.BytesIO(data)
    return Channel(lambda size: stream.read(min(size, 3)), len)


def test_a_message_arrives_whole_however_it_is_cut():
    sent = []
    Channel(lambda size: b"", lambda data: sent.append(bytes(data[:5])) or min(5, len(data))).send({"a": b"x" * 40})
    pieces = iter([bytes([byte]) for byte in b"".join(sent)])
    assert Channel(lambda size: next(pieces), len).receive() == {"a": b"x" * 40}


@pytest.mark.parametrize("data", [b"", b"\x00\x00", b"\x00\x00\x00\x05\xa0"])
def test_a_channel_that_ends_early_says_so(data):
    with pytest.raises(ChannelClosed):
        channel_reading(data).receive()


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\x80", b"\x00\x00\x00\x01\xff"])
def test_a_frame_that_is_no_bounded_map_is_refused(data):
    with pytest.raises(Refusal):
        channel_reading(data).receive()


def test_a_message_over_the_limit_is_not_sent():
    with pytest.raises(Refusal) as caught:
        channel_reading(b"").send({"data": bytes(MAX_MESSAGE_BYTES)})
    assert caught.value.code == "message-too-large"
