"""A sealed process that an update has taken over says what it likes: the round fails and says so, the worker lives."""

import os
import sys

import pytest

from enclave import courier
from enclave.core.channel import Channel
from enclave.courier import EnclaveHost, aggregate_round, initialise_host_directory, prepare_round
from qflare_protocol.chunked import seal_chunks
from qflare_protocol.encoding import encode
from qflare_protocol.errors import Refusal
from tests.enclave_core.rounds import FEDERATION, ROUND, Round, deltas
from tests.policies import screened

UID = 65534 if os.geteuid() == 0 else os.getuid()
READY = {"kind": "ready", "measurement": b"m" * 64, "protections": {"seccomp": True}}
REFUSED = {"kind": "refused", "code": "too-few-updates", "detail": "Too few.", "extensions": {}}

TAKEN_OVER = """
import os, sys
channel, answer = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
while answer:
    answer = answer[os.write(channel, answer):]
while os.read(channel, 65536):
    pass
"""


@pytest.fixture
def host(tmp_path):
    initialise_host_directory(tmp_path / "host", UID, UID)
    return EnclaveHost(tmp_path / "host", UID, UID, timeout_seconds=30.0)


@pytest.fixture
def taken_over(monkeypatch):
    """Let the next processes write these bytes and nothing else."""

    def answer_with(data):
        def command(host, task, descriptor):
            return [sys.executable, "-S", "-c", TAKEN_OVER, str(descriptor), data.hex()]

        monkeypatch.setattr(courier, "_command", command)

    return answer_with


def framed(*messages):
    written = []
    channel = Channel(lambda size: b"", lambda data: written.append(bytes(data)) or len(data))
    for message in messages:
        channel.send(message)
    return b"".join(written)


class Wrapped:
    wrapped_keys = b"wrapped"
    key_id = b"k" * 32


def aggregate(host):
    entry = Round()
    entry.submit_all(deltas(3))
    entry.prepared = Wrapped()
    aggregate_round(host, **(entry.for_courier() | {"write_output": lambda name, piece: None}))


def refusal_of(action, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        action(*arguments, **options)
    return caught.value


NESTED = encode(b"")
for _ in range(40):
    NESTED = b"\x81" + NESTED


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x05abc",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x01\xff",
        len(NESTED).to_bytes(4, "big") + NESTED,
        b"\x00\x00\x00\x09\xa1\x61a\x9b\x7f\xff\xff\xff\xff",
        framed({"kind": "ready"}),
        framed(READY | {"protections": {"seccomp": 1}}),
        framed(READY | {"protections": ["seccomp"]}),
        framed({"kind": None}),
        framed({"kind": ["ready"]}),
        framed({"kind": "aggregated", "result": b""}),
        framed({}),
    ],
    ids=lambda data: data[:12].hex(),
)
def test_bytes_that_are_no_message_fail_the_round(host, taken_over, data):
    taken_over(data + framed({"kind": "failed", "where": "RuntimeError in nowhere:1"}))
    assert refusal_of(aggregate, host).code == "enclave-failed"


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "read", "source": 0, "reading": 0},
        {"kind": "output"},
        {"kind": "output", "name": "model"},
        {"kind": "output", "piece": b"piece"},
        {"kind": "output", "name": "model", "piece": "text"},
        {"kind": "output", "name": "model", "piece": b"piece", "more": 1},
        {"kind": "output", "name": 0, "piece": b"piece"},
        {"kind": "output", "name": True, "piece": b"piece"},
        {"kind": "output", "name": ["model"], "piece": b"piece"},
        {"kind": "output", "name": "", "piece": b"piece"},
        {"kind": "output", "name": "Model", "piece": b"piece"},
        {"kind": "output", "name": "model\n", "piece": b"piece"},
        {"kind": "output", "name": "another", "piece": b"piece"},
        {"kind": "output", "name": "../../etc/passwd", "piece": b"piece"},
        {"kind": "output", "name": "history/../model", "piece": b"piece"},
        {"kind": "output", "name": "history/" + "0" * 31, "piece": b"piece"},
        {"kind": "output", "name": "history/" + "0" * 33, "piece": b"piece"},
        {"kind": "model-key"},
        {"kind": "model-key", "key": b"k" * 31},
        {"kind": "model-key", "key": b"k" * 32},
        {"kind": "model-key", "key": b"k" * 32, "more": 1},
        {"kind": "step", "name": "x\x00y", "seconds": 1.5},
        {"kind": "step", "name": "read", "seconds": float("nan")},
        {"kind": "step", "name": "read", "seconds": "long"},
        {"kind": "step", "name": "n" * 1000, "seconds": 1.5},
        {"kind": "aggregated"},
        {"kind": "aggregated", "result": None},
        {"kind": "prepared", "evidence": b"", "wrapped_keys": b""},
        {"kind": "failed"},
        {"kind": "failed", "where": {"a": 1}},
        {"kind": "refused"},
        REFUSED | {"code": 5},
        REFUSED | {"code": "made-up"},
        REFUSED | {"detail": None},
        REFUSED | {"extensions": []},
        REFUSED | {"extensions": {"type": "about:blank"}},
        REFUSED | {"extensions": {"verdicts": 3}},
        REFUSED | {"extensions": {"verdicts": [3]}},
        REFUSED | {"extensions": {"verdicts": [{"accepted": False}]}},
        REFUSED | {"extensions": {"verdicts": [{"accepted": False, "reason": "x", "device_id": "../../etc"}]}},
    ],
    ids=str,
)
def test_a_message_out_of_form_fails_the_round(host, taken_over, message):
    taken_over(framed(READY, message))
    refusal = refusal_of(aggregate, host)
    assert refusal.code == "enclave-failed"
    assert refusal.detail.isprintable()


def test_a_sealed_model_longer_than_the_base_model_fails_the_round(host, taken_over, monkeypatch):
    monkeypatch.setattr(courier, "MAX_HEADER_BYTES", 0)
    taken_over(framed(READY, {"kind": "output", "name": "sealed-model", "piece": bytes(20_000)}))
    assert "more than a model" in refusal_of(aggregate, host).detail


def test_a_sealed_model_that_its_key_does_not_open_fails_the_round(host, taken_over):
    sealed = b"".join(seal_chunks(b"k" * 32, [b"a model"]))
    output = {"kind": "output", "name": "sealed-model", "piece": sealed}
    taken_over(framed(READY, output, {"kind": "model-key", "key": b"K" * 32}))
    assert "gave out another model" in refusal_of(aggregate, host).detail


def test_a_failure_carries_its_place(host, taken_over):
    taken_over(framed(READY, {"kind": "failed", "where": "MemoryError in read:7"}))
    assert refusal_of(aggregate, host).detail == "The sealed process failed: MemoryError in read:7."


def test_a_refusal_comes_through_without_what_no_column_takes(host, taken_over):
    taken_over(framed(READY, REFUSED | {"detail": "a\x00b" + "c" * 5000}))
    refusal = refusal_of(aggregate, host)
    assert refusal.code == "too-few-updates"
    assert refusal.detail.startswith("a?bccc")
    assert len(refusal.detail) < 400


@pytest.mark.parametrize("evidence", [b"", b"\xff", encode({"attester": "software"}), encode([])])
def test_evidence_that_is_none_is_refused(host, taken_over, evidence):
    taken_over(framed(READY, {"kind": "prepared", "evidence": evidence, "wrapped_keys": b"w"}))
    policy = screened()
    terms = {"round_id": ROUND, "federation_id": FEDERATION, "policy": policy, "nonce": b"n" * 32}
    assert refusal_of(prepare_round, host, **terms).code in {"evidence-refused", "malformed-message"}
