"""The sealed process's memory does not grow with the model and hardly with the number of updates."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from enclave.courier import EnclaveHost, SealedProcess, SealedUpdate, aggregate_round, initialise_host_directory
from enclave.courier import prepare_round as prepare
from qflare_protocol.aggregation_policy import NONE, AggregationPolicy, Stage
from qflare_protocol.manifest import Manifest, sign_manifest
from qflare_protocol.round_result import RosterEntry
from qflare_protocol.tensors import encode_tensors, model_digest
from qflare_protocol.update import UpdateContext, seal_update
from tests.enclave_core.rounds import FEDERATION, ROUND, device_id, new_signer

UID = 65534 if os.geteuid() == 0 else os.getuid()
MIB = 1 << 20
BYTES_PER_UPDATE = 384 << 10
"""Two chunks of 64 KiB, a row of a range, and what opens them."""
SLACK = 24 * MIB

PIPELINES = {
    "the default": AggregationPolicy(),
    "by coordinate, with history": AggregationPolicy(
        pre_aggregation=(), rule=Stage("trimmed-mean"), server_optimiser=NONE, history=0.9
    ),
}


def peak_bytes(folder: Path, policy: AggregationPolicy, count: int, columns: int, monkeypatch) -> int:
    """Aggregate that many updates of that many parameters and return the most memory the sealed process held."""
    initialise_host_directory(folder / "host", UID, UID)
    host = EnclaveHost(folder / "host", UID, UID, timeout_seconds=300.0)
    prepared = prepare(host, round_id=ROUND, federation_id=FEDERATION, policy=policy, nonce=bytes(32))
    base, signer = encode_tensors({"w": np.zeros(columns, dtype=np.float32)}), new_signer()
    delta = encode_tensors({"w": np.random.default_rng(1).standard_normal(columns, dtype=np.float32)})
    updates, roster = [], []
    for number in range(count):
        context = UpdateContext(FEDERATION, ROUND, device_id(number), prepared.key_id, model_digest(base))
        blob = folder / f"{number}"
        blob.write_bytes(b"".join(seal_update(prepared.hpke_public_key, context, delta)))
        sealed = blob.read_bytes()
        manifest = Manifest(
            ROUND, FEDERATION, device_id(number), model_digest(base), 10, model_digest(sealed), len(sealed),
            prepared.key_id,
        )  # fmt: skip
        roster.append(RosterEntry(device_id(number), signer.verifier))
        opened = lambda blob=blob: blob.open("rb")  # noqa: E731
        updates.append(SealedUpdate(device_id(number), sign_manifest(manifest, signer), opened))
    (folder / "base").write_bytes(base)
    processes, peaks = [], []
    started = SealedProcess.__init__
    monkeypatch.setattr(
        SealedProcess, "__init__", lambda process, *given: processes.append(process) or started(process, *given)
    )
    aggregate_round(
        host,
        round_id=ROUND,
        federation_id=FEDERATION,
        policy=policy,
        wrapped_keys=prepared.wrapped_keys,
        base_model_digest=model_digest(base),
        open_base_model=lambda: (folder / "base").open("rb"),
        roster=roster,
        updates=updates,
        write_output=lambda name, piece: None,
        on_step=lambda name, seconds: peaks.append(_high_water(processes[0].pid)),
    )
    return max(peaks)


def _high_water(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0  # it has ended: what counts was seen at the steps before


@pytest.fixture
def peak(monkeypatch):
    def measure(policy, count, columns):
        with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as patch:
            return peak_bytes(Path(folder), policy, count, columns, patch)

    return measure


@pytest.mark.parametrize("name", PIPELINES)
def test_memory_is_flat_in_the_updates_and_in_the_model(peak, name):
    policy = PIPELINES[name]
    least = peak(policy, 10, 100_000)
    assert peak(policy, 50, 100_000) - least < SLACK + 40 * BYTES_PER_UPDATE
    assert peak(policy, 10, 1_000_000) - least < SLACK


@pytest.mark.slow
@pytest.mark.parametrize("count, columns", [(50, 1_000_000), (200, 1_000_000), (10, 10_000_000), (50, 10_000_000)])
def test_memory_is_flat_for_many_updates_and_a_large_model(peak, count, columns):
    policy = PIPELINES["the default"]
    least = peak(policy, 10, 100_000)
    assert peak(policy, count, columns) - least < SLACK + (count - 10) * BYTES_PER_UPDATE
