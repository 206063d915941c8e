"""A whole round with the real sealed process, each step in the database role of the process that does it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.utils import timezone

from audit.services import sequence_log
from enclave.services import destroy_retired_keys, enclave_host
from enrollment.services import delete_expired_attempts
from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.tensors import encode_tensors
from qflare_site.services import record_heartbeat
from tests.database.roles import acting_as
from tests.open_rounds import Submission, make_federation
from tests.people import OPERATOR, enrol
from tests.policies import bare
from tests.training.whole_rounds import sealed
from training import privacy
from training.models import CarriedRow, PrivacyRelease, Round, RoundState
from training.services import rounds, steps
from training.services.blob_sweep import sweep_blobs
from training.services.schedules import schedule_rounds

HALVES = encode_tensors({"w": np.full((4, 3), 0.5, dtype=np.float32)})


@pytest.mark.slow
@pytest.mark.django_db
def test_rounds_are_prepared_filled_aggregated_cancelled_and_begun_anew_within_the_grants(
    roles: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privacy, "noise_multiplier_of", lambda policy: 4.0)  # so that the ledger is written
    policy = bare(server_optimiser=Stage("fedavgm", {"momentum": 0.5}), history=0.5)
    with acting_as("web"):
        fleet = [enrol(name, tmp_path / name) for name in ("alice", "carol", "dave")]
        federation = make_federation("carrying", policy=policy, privacy_delta=1e-5)
        schedule_rounds(federation, every=timedelta(hours=1), actor=OPERATOR)
        opened = rounds.open_round(federation.id, actor=OPERATOR, now=timezone.now())
    with acting_as("worker"):
        assert steps.prepare_round(opened.id, now=timezone.now())
    opened.refresh_from_db()
    with acting_as("web"):
        for person in fleet:
            submission = Submission(opened, person, sealed(opened, person, HALVES))
            assert "receipt" in submission.hand_in(person.line()).message
    with acting_as("worker"):
        assert rounds.close_round(opened.id, now=timezone.now())
        assert steps.aggregate_round(opened.id, now=timezone.now())
        destroy_retired_keys(now=timezone.now())
        delete_expired_attempts(now=timezone.now() + timedelta(days=1))
        sweep_blobs(now=timezone.now())
        record_heartbeat("worker", host="one", pid=1, now=timezone.now())
        following = rounds.open_scheduled_round(federation.id, now=timezone.now())
    with acting_as("web"):
        rounds.cancel_round(following.id, reason="a test", actor=OPERATOR, now=timezone.now())
    with acting_as("audit"):
        assert sequence_log() > 15
    assert Round.objects.get(id=opened.id).state == RoundState.COMPLETED
    assert Round.objects.get(id=following.id).state == RoundState.CANCELLED
    assert CarriedRow.objects.exists()
    assert PrivacyRelease.objects.count() == 1
    for folder in ("rounds", "federations"):
        for key in (enclave_host().directory / folder).iterdir():
            key.unlink()
