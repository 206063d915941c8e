"""The real sealed process, driven by the courier."""

import io
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enclave import courier, spare_process
from enclave.core.__main__ import _arguments, _report_failures_to, main
from enclave.core.channel import MAX_DEVICES_OF_A_ROUND, MAX_REQUEST_BYTES, Channel, ChannelClosed
from enclave.core.host import HostDirectory
from enclave.core.measurement import measure
from enclave.core.requests import MAX_DESCRIPTOR, AggregateRequest, SubmittedManifest
from enclave.courier import (
    EnclaveHost,
    EnclaveTask,
    SealedProcess,
    aggregate_round,
    attestation_public_key,
    destroy_round_key,
    initialise_host_directory,
    prepare_round,
)
from qflare_protocol.aggregation_policy import PROTECTIONS
from qflare_protocol.attestation import AppraisalPolicy, appraise
from qflare_protocol.carried_rows import CarriedRow
from qflare_protocol.cose import Verifier, key_fingerprint
from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import RosterEntry
from qflare_protocol.tensors import decode_tensors, model_digest
from tests.enclave_core.rounds import FEDERATION, ROUND, Round, deltas, device_id, reasons
from tests.policies import bare, screened

POLICY = screened()
TASK = EnclaveTask("prepare", ROUND, FEDERATION, POLICY.maximum_memory_bytes)
UID = 65534 if os.geteuid() == 0 else os.getuid()


@pytest.fixture
def host(tmp_path):
    initialise_host_directory(tmp_path / "host", UID, UID)
    return EnclaveHost(tmp_path / "host", UID, UID, timeout_seconds=60.0)


def prepare(host, policy=POLICY):
    return prepare_round(host, round_id=ROUND, federation_id=FEDERATION, policy=policy, nonce=b"n" * 32)


def new_round(host, count=5, poisoned=0):
    entry = Round(prepared=prepare(host))
    entry.submit_all(deltas(count, poisoned))
    return entry


def aggregate(host, entry, **changes):
    """Return the verified result with its verdicts and the new model's bytes."""
    outputs = {}

    def write(name, piece):
        outputs[name] = outputs.get(name, b"") + piece

    made = aggregate_round(host, **(entry.for_courier() | {"write_output": write} | changes))
    judged = entry.result_of(made)
    assert judged.result.model_digest == model_digest(outputs["model"])
    return judged, outputs["model"]


def assert_refused(code, because, action, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        action(*arguments, **options)
    assert caught.value.code == code
    assert because in caught.value.detail


def test_a_prepared_round_gives_evidence_that_a_device_accepts(host):
    prepared = prepare(host)
    fingerprint = key_fingerprint("ML-DSA-44", attestation_public_key(host.directory))
    policy = AppraisalPolicy(frozenset({fingerprint}), frozenset({measure()}))
    wanted = {"round_id": ROUND, "federation_id": FEDERATION, "nonce": b"n" * 32, "now": int(time.time())}
    appraisal = appraise(prepared.evidence, policy, **wanted)
    assert appraisal.tier == "warning"
    assert appraisal.claims == prepared.claims
    assert appraisal.claims.key_id == prepared.key_id
    assert set(appraisal.claims.protections) == set(PROTECTIONS)


def test_two_poisoned_of_ten_are_rejected_by_the_sealed_process(host):
    entry, steps = new_round(host, 10, poisoned=2), []
    judged, _ = aggregate(host, entry, on_step=lambda name, seconds: steps.append(name))
    assert set(reasons(judged)) == {1, 2}
    assert steps == ["seal", "check", "read", "decide", "combine"]


def test_a_model_made_while_the_updates_were_read_arrives_opened_when_it_is_decided(host):
    entry = Round(prepared=prepare(host, bare()))
    entry.policy = bare()
    entry.submit_all(deltas(5))
    pieces = []
    steps = []
    changes = {
        "write_output": lambda name, piece: pieces.append((name, len(steps))),
        "on_step": lambda name, _: steps.append(name),
    }
    aggregate_round(host, **(entry.for_courier() | changes))
    assert {name for name, _ in pieces} == {"model"}
    assert {steps[:after][-1] for _, after in pieces} == {"decide"}
    judged, model = aggregate(host, entry)
    mean = entry.base["w"] + np.mean(deltas(5), axis=0)
    np.testing.assert_allclose(decode_tensors(model)["w"], mean, rtol=1e-5, atol=1e-6)
    assert len(judged.accepted) == 5


def test_a_base_model_whose_header_is_shorter_than_ours_gives_a_model_all_the_same(host):
    entry = Round(prepared=prepare(host, bare()), policy=bare())
    padded = entry.base_bytes
    length = int.from_bytes(padded[:8], "little")
    header, data = padded[8 : 8 + length], padded[8 + length :]
    compact = header.rstrip(b" ")
    assert len(compact) < length
    entry.base_bytes = len(compact).to_bytes(8, "little") + compact + data
    entry.submit_all(deltas(3))
    _, model = aggregate(host, entry)
    assert len(model) > len(entry.base_bytes)


def test_a_process_killed_during_aggregation_is_reported_and_a_successor_gives_the_same_model(host, monkeypatch):
    entry = new_round(host, 6, poisoned=1)
    pids = []
    started = SealedProcess.__init__

    def remember(process, *arguments, **options):
        started(process, *arguments, **options)
        pids.append(process.pid)

    monkeypatch.setattr(SealedProcess, "__init__", remember)

    def kill(name, seconds):
        if name == "decide":
            os.kill(pids[0], signal.SIGKILL)

    assert_refused("enclave-failed", "SIGKILL", aggregate, host, entry, on_step=kill)
    first, model = aggregate(host, entry)
    second, same = aggregate(host, entry)
    assert model == same
    assert first == second
    assert all(not _alive(pid) for pid in pids)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_round_aggregated_once_is_not_aggregated_again_without_one_device(host):
    entry = new_round(host, 6)
    aggregate(host, entry)
    pieces = []
    fewer = entry.for_courier()["updates"][:-1]
    changes = {"updates": fewer, "write_output": lambda name, piece: pieces.append(piece)}
    assert_refused("conflict", "already begun", aggregate, host, entry, **changes)
    assert pieces == []


def test_after_the_round_its_updates_open_for_nobody(host):
    entry = new_round(host)
    destroy_round_key(host.directory, ROUND)
    assert_refused("decryption-failed", "sealing key is gone", aggregate, host, entry)
    with HostDirectory(host.directory) as directory:
        directory.create_sealing_key(ROUND)
    os.chown(host.directory / f"rounds/{ROUND.hex()}.key", UID, UID)
    assert_refused("decryption-failed", "do not open", aggregate, host, entry)


def test_too_few_updates_come_back_with_their_verdicts(host):
    entry = new_round(host, 3)
    entry.blobs[0] = b"damaged"
    with pytest.raises(Refusal) as caught:
        aggregate(host, entry)
    assert caught.value.code == "too-few-updates"
    assert [verdict["accepted"] for verdict in caught.value.extensions["verdicts"]] == [False, True, True]


def test_a_policy_that_demands_what_this_host_gives_is_served(host):
    given = sorted(name for name, held in prepare(host).claims.protections.items() if held)
    assert prepare(host, screened(required_protections=tuple(given))).claims.policy.required_protections


def test_a_process_without_its_hosts_secrets_says_which_it_lacks(tmp_path):
    (tmp_path / "empty/rounds").mkdir(parents=True)
    empty = EnclaveHost(tmp_path / "empty", UID, UID, timeout_seconds=60.0)
    assert_refused("enclave-failed", "cannot read attestation.key", prepare, empty)


def test_a_process_without_its_host_directory_fails_with_its_status(tmp_path, caplog):
    absent = EnclaveHost(tmp_path / "absent", UID, UID, timeout_seconds=60.0)
    assert_refused("enclave-failed", "status 1", prepare, absent)
    assert "FileNotFoundError" in caplog.text


def test_a_process_that_is_late_is_ended(host):
    stopped = EnclaveHost(host.directory, UID, UID, timeout_seconds=0.05)
    assert_refused("enclave-failed", "in time", prepare, stopped)


def test_a_request_has_time_for_the_bytes_of_its_blobs(host, monkeypatch):
    entry = new_round(host, 3)
    hurried = replace(host, timeout_seconds=0.05)
    assert_refused("enclave-failed", "in time", aggregate, hurried, entry)
    monkeypatch.setattr(courier, "SLOWEST_BYTES_PER_SECOND", 10.0)
    assert len(reasons(aggregate(hurried, entry)[0])) == 0


def test_three_hundred_updates_of_a_gigabyte_have_nearly_two_hours(host):
    task = replace(TASK, mode="aggregate", blob_bytes=300 * 10**9)
    assert replace(host, timeout_seconds=600.0).seconds_for(task) == 600 + 6000


def test_a_roster_of_fifty_thousand_devices_is_one_request(host):
    entry = new_round(host)
    given = entry.for_courier()
    others = [
        RosterEntry(number.to_bytes(16, "big"), Verifier("ML-DSA-44", number.to_bytes(1312, "big")))
        for number in range(1 << 64, (1 << 64) + MAX_DEVICES_OF_A_ROUND - len(given["roster"]))
    ]
    assert len(reasons(aggregate(host, entry, roster=(*given["roster"], *others))[0])) == 0


def request_of(count, *, key_bytes, manifest_bytes):
    name = device_id(1)
    row = RosterEntry(name, Verifier("ML-DSA-44", bytes(key_bytes)))
    carried = CarriedRow("history/" + name.hex(), bytes(32), bytes(32))
    update = SubmittedManifest(name, bytes(manifest_bytes))
    request = AggregateRequest(
        ROUND, FEDERATION, POLICY, bytes(5_000), bytes(32), (row,) * count, (update,) * count, (carried,) * count, (),
        (MAX_DESCRIPTOR,) * (2 * count + 1),
    )  # fmt: skip
    return encode(request.to_map())


def test_a_request_of_the_most_devices_has_room_for_an_update_and_a_history_of_each():
    hundred = request_of(100, key_bytes=1312, manifest_bytes=5_500)
    assert len(hundred) / 100 * MAX_DEVICES_OF_A_ROUND < MAX_REQUEST_BYTES
    all_rows = request_of(MAX_DEVICES_OF_A_ROUND, key_bytes=1, manifest_bytes=1)
    decoded = decode(all_rows, what="request", maximum_bytes=MAX_REQUEST_BYTES)
    assert len(decoded["roster"]) == MAX_DEVICES_OF_A_ROUND


def test_as_many_open_files_as_a_round_has_fit_on_a_command_line(host):
    descriptors = tuple(range(100_000, 100_000 + 2 * MAX_DEVICES_OF_A_ROUND + 1))
    arguments = courier._arguments(host, replace(TASK, mode="aggregate", blob_descriptors=descriptors))
    assert max(map(len, arguments)) < 1 << 17
    assert tuple(_arguments([*arguments, "--channel-fd", "3"]).blob_fds) == descriptors
    subprocess.run(["true", *arguments], check=True, timeout=20)


def test_a_blob_that_cannot_be_read_ends_the_process(host):
    entry, pids = new_round(host), []

    def broken():
        pids.append(True)
        raise OSError("the blob storage is away")

    updates = entry.for_courier()["updates"]
    updates[0] = courier.SealedUpdate(updates[0].device_id, updates[0].manifest, broken)
    with pytest.raises(OSError, match="blob storage"):
        aggregate(host, entry, updates=updates)
    assert pids


def test_blobs_are_closed_even_when_the_round_fails(host):
    entry, opened = new_round(host, 3), []
    entry.blobs[0] = b"damaged"

    def opening(blob):
        def open_blob():
            opened.append(io.BytesIO(blob))
            return opened[-1]

        return open_blob

    updates = [
        courier.SealedUpdate(update.device_id, update.manifest, opening(blob))
        for update, blob in zip(entry.submitted, entry.blobs, strict=True)
    ]
    with pytest.raises(Refusal):
        aggregate(host, entry, updates=updates)
    assert len(opened) == 3
    assert all(file.closed for file in opened)


@pytest.fixture
def few_open_files():
    """Let this process open few more files, as a service manager's soft limit does; give the limits."""
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = len(list(Path("/proc/self/fd").iterdir())) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, former[1]))
    yield soft
    resource.setrlimit(resource.RLIMIT_NOFILE, former)


def test_a_round_of_more_updates_than_files_may_be_open_is_aggregated(host, few_open_files):
    entry = new_round(host, few_open_files + 10)
    judged, _ = aggregate(host, entry)
    assert len(judged.accepted) == few_open_files + 10


def test_a_round_of_more_updates_than_the_hard_limit_says_so(host, monkeypatch):
    entry = new_round(host, 3)
    monkeypatch.setattr(resource, "getrlimit", lambda name: (60, 60))
    assert_refused("enclave-failed", "may open 60", aggregate, host, entry)


def test_a_blob_in_memory_reaches_the_process_without_touching_a_disk():
    with ExitStack() as stack:
        descriptor = courier._descriptor_of(io.BytesIO(b"base model"), stack)
        assert str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("/memfd:")
        assert os.pread(descriptor, 100, 0) == b"base model"
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)


def test_the_child_inherits_no_secret(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "known")
    assert "known" not in str(spare_process.environment())
    assert "DJANGO_SETTINGS_MODULE" not in spare_process.environment()


def test_a_message_to_a_dead_process_is_a_failure(host):
    with SealedProcess(host, TASK) as process:
        os.kill(process.pid, signal.SIGKILL)
        process._process.wait()
        assert_refused("enclave-failed", "SIGKILL", _talk, process)


def _talk(process):
    for _ in range(100):
        process.send({"data": bytes(1 << 20)})


def test_a_message_of_another_kind_is_a_failure(host):
    with SealedProcess(host, TASK) as process:
        assert_refused("enclave-failed", "unexpected message", process.receive, "prepared")


def test_an_unexpected_exception_is_reported_by_type_and_place_without_its_message(monkeypatch):
    sent, exits = [], []
    channel = Channel(lambda size: b"", len)
    monkeypatch.setattr(channel, "send", sent.append)
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    _report_failures_to(channel)
    for failing in (lambda: {}["plaintext"], lambda: channel.receive()):
        try:
            failing()
        except (KeyError, ChannelClosed):
            sys.excepthook(*sys.exc_info())
    assert len(sent) == 1
    assert sent[0]["where"].startswith("KeyError in ")
    assert "plaintext" not in sent[0]["where"]
    assert exits == [70, 70]


def test_a_failure_that_nobody_is_left_to_hear_of_ends_the_process_all_the_same(monkeypatch):
    def gone(message):
        raise BrokenPipeError

    exits = []
    channel = Channel(lambda size: b"", len)
    monkeypatch.setattr(channel, "send", gone)
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    _report_failures_to(channel)
    with pytest.raises(BrokenPipeError):
        sys.excepthook(KeyError, KeyError("plaintext"), None)
    assert exits == [70]


@pytest.mark.parametrize("mode", ["prepare", "aggregate"])
def test_the_command_line_opens_what_its_mode_needs_and_then_seals(host, monkeypatch, mode):
    """`main` in this process, with the sealing itself left out."""
    with HostDirectory(host.directory) as directory:
        directory.create_sealing_key(ROUND)
    os.chown(host.directory / f"rounds/{ROUND.hex()}.key", UID, UID)
    states, plans = [], []
    monkeypatch.setattr("enclave.core.__main__.seal_process", lambda plan: plans.append(plan) or {})
    monkeypatch.setattr("enclave.core.__main__.serve", lambda channel, state: states.append(state))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    task = replace(TASK, mode=mode, blob_descriptors=(97, 98) if mode == "aggregate" else ())
    command = courier._command(host, task, 99)
    main(command[command.index("enclave.core") + 1 :])
    assert (states[0].attester is None) == (mode == "aggregate")
    assert (states[0].decisions is None) == (mode == "prepare")
    assert (states[0].federation_key is None) == (mode == "prepare")
    assert states[0].blob_descriptors == frozenset(task.blob_descriptors)
    kept = plans[0].keep_descriptors - {99, *task.blob_descriptors}
    assert len(kept) == (1 if mode == "aggregate" else 0)
    for descriptor in kept:
        os.close(descriptor)
