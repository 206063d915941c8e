"""A model shared among real sealed processes, one for each step, driven by the courier."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from enclave.core.range_messages import DECISION
from enclave.courier import EnclaveHost, SealedProcess, initialise_host_directory, prepare_round
from enclave.range_courier import RangeTask, conclude_ranges, run_range_step
from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import segment_columns
from qflare_protocol.round_result import JudgedRound
from qflare_protocol.tensors import model_digest
from tests.enclave_core.rounds import FEDERATION, ROUND, reasons
from tests.enclave_core.shared_rounds import SharedRound
from tests.policies import screened

UID = 65534 if os.geteuid() == 0 else os.getuid()
SIZE = segment_columns(1) + 5
POLICY = screened(ranges=2, server_optimiser=Stage("fedavgm"))


@pytest.fixture
def host(tmp_path):
    initialise_host_directory(tmp_path / "host", UID, UID)
    return EnclaveHost(tmp_path / "host", UID, UID, timeout_seconds=60.0)


@pytest.fixture
def entry(host):
    """A round of five devices, one of them poisoned, whose model two processes share."""
    place = {"round_id": ROUND, "federation_id": FEDERATION, "policy": POLICY, "nonce": b"n" * 32}
    prepared = [prepare_round(host, **place, range_index=index, range_count=2) for index in range(2)]
    entry = SharedRound(np.zeros(SIZE, dtype=np.float32), POLICY, prepared=prepared)
    generator = np.random.default_rng(1)
    common = generator.normal(size=SIZE)
    for number in range(5):
        delta = (common + generator.normal(size=SIZE)).astype(np.float32)
        entry.submit(-5 * delta if number == 0 else delta)
    return entry


def writer(entry):
    def write(output, piece):
        entry.outputs[output] = entry.outputs.get(output, b"") + piece

    return write


def step(host, entry, name, index, messages=(), **options):
    task = RangeTask(name, index, entry.key_ids, messages)
    return run_range_step(host, entry.given(index), task, write_output=writer(entry), **options)


def decided(host, entry):
    readings = [step(host, entry, "read", index).message for index in (1, 0)][::-1]
    said = step(host, entry, "decide", 0, readings)
    assert said.kind == DECISION
    return said.message


def test_sealed_processes_make_the_model_that_one_would_and_a_killed_one_is_done_again(host, entry):
    decision = decided(host, entry)
    slices = [step(host, entry, "combine", index, [decision]).message for index in (0, 1)]
    task, given = RangeTask("conclude", 0, entry.key_ids, [decision, *slices]), entry.given(0, entry.models())
    made = conclude_ranges(host, given, task, write_output=writer(entry))
    judged = JudgedRound.verified(made, Verifier("ML-DSA-44", entry.prepared[0].result_public_key))
    assert reasons(judged).keys() == {1}
    assert judged.result.model_digest == model_digest(entry.outputs["model"])
    assert set(entry.outputs) == {"model", "model@0", "model@1", "momentum@0", "momentum@1"}
    again, entry.outputs = entry.outputs, {}
    assert [step(host, entry, "combine", index, [decision]).kind for index in (1, 0)] == ["slice", "slice"]
    assert entry.outputs == {name: blob for name, blob in again.items() if name != "model"}


def test_a_range_whose_process_is_killed_is_read_by_another_with_the_same_outcome(host, entry, monkeypatch):
    pids, started = [], SealedProcess.__init__

    def remember(process, *arguments, **options):
        started(process, *arguments, **options)
        pids.append(process.pid)

    def kill(name, seconds):
        if name == "seal":
            os.kill(pids[-1], signal.SIGKILL)

    monkeypatch.setattr(SealedProcess, "__init__", remember)
    with pytest.raises(Refusal, match="SIGKILL"):
        step(host, entry, "read", 1, on_step=kill)
    assert decided(host, entry)


def test_a_process_of_one_range_does_not_work_on_another(host, entry):
    entry.prepared.reverse()
    with pytest.raises(Refusal, match="keys of another range"):
        step(host, entry, "read", 1)


def test_a_round_is_decided_once_whoever_asks(host, entry):
    decision = decided(host, entry)
    assert decided(host, entry) != decision  # sealed anew
    entry.submitted.pop(), entry.blobs.pop()
    with pytest.raises(Refusal, match="other updates"):
        decided(host, entry)


def test_evidence_names_the_range_and_a_count_of_one_is_what_it_always_was(entry):
    claims = [one.claims for one in entry.prepared]
    assert [(one.range_index, one.range_count) for one in claims] == [(0, 2), (1, 2)]
    alone = replace(claims[1], range_index=0, range_count=1)
    assert not {"range_index", "range_count"} & set(alone.to_map())
    assert len({one.report_data for one in (*claims, alone)}) == 3
