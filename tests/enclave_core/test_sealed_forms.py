"""The real sealed process on updates of every form, and on stale ones."""

import os
from pathlib import Path

import numpy as np
import pytest

from enclave.courier import EnclaveHost, aggregate_round, initialise_host_directory, prepare_round
from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.staleness import OlderBase
from qflare_protocol.tensors import decode_tensors, model_digest
from qflare_protocol.update_forms import FORMS
from tests.enclave_core.form_rounds import FormRound, Process, hand_in, shape_of, train
from tests.enclave_core.rounds import FEDERATION, ROUND
from tests.policies import bare

UID = 65534 if os.geteuid() == 0 else os.getuid()
MODEL = {"adapter": np.linspace(-1, 1, 40_000, dtype=np.float32), "body": np.ones(30_000, dtype=np.float32)}


class PreparedFormRound(FormRound):
    """A round of a real enclave."""

    @property
    def processes(self):
        return [Process(self.policy, self.hpke_public, self.key_id)]


@pytest.fixture
def host(tmp_path: Path) -> EnclaveHost:
    initialise_host_directory(tmp_path / "host", UID, UID)
    return EnclaveHost(tmp_path / "host", UID, UID, timeout_seconds=60.0)


def aggregated(host, policy, **given):
    prepared = prepare_round(host, round_id=ROUND, federation_id=FEDERATION, policy=policy, nonce=b"n" * 32)
    entry = PreparedFormRound(base=MODEL, policy=policy, prepared=prepared)
    trained = train(entry, count=4)
    for model in trained:
        hand_in(entry, model)
    written = []
    members = entry.for_courier() | given
    made = aggregate_round(host, **members, write_output=lambda name, piece: written.append((name, piece)))
    judged, model = entry.result_of(made), b"".join(piece for name, piece in written if name == "model")
    assert judged.result.model_digest == model_digest(model)
    return entry, trained, judged, decode_tensors(model)


@pytest.mark.parametrize("rule", ["mean", "geometric-median"])
@pytest.mark.parametrize("form", FORMS)
def test_a_sealed_process_takes_every_form(host, form, rule):
    entry, trained, judged, model = aggregated(host, bare(form=Stage(form), parameters=("adapter",), rule=Stage(rule)))
    assert len(judged.accepted) == 4
    assert model["body"].tobytes() == MODEL["body"].tobytes()
    moved = model["adapter"] != MODEL["adapter"]
    assert moved.sum() > 0.9 * shape_of(entry).size
    mean = np.mean([one["adapter"] for one in trained], axis=0)
    assert np.abs(model["adapter"] - mean)[moved].max() < 0.02


def test_a_sealed_process_names_the_older_bases(host):
    older = (OlderBase(b"1" * 32, 2),)
    *_, judged, _ = aggregated(host, bare(maximum_staleness=4), older_bases=older)
    assert judged.result.older_bases == older
    assert {verdict.staleness for verdict in judged.verdicts} == {0}
