"""Whole rounds with the real sealed process, by devices that hand in exactly what a test chose."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.utils import timezone

from enclave import services
from enclave.services import enclave_host
from qflare_protocol.errors import Refusal
from qflare_protocol.tensors import encode_tensors
from qflare_protocol.update import UpdateContext, seal_update
from tests.open_rounds import Submission, started
from tests.people import Person, enrol
from training.models import Federation, Round
from training.services import rounds, steps

HONEST = encode_tensors({"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)})


@pytest.fixture
def fleet(db: None, tmp_path: Path) -> list[Person]:
    """Four enrolled devices."""
    return [enrol(f"device-{number}", tmp_path / f"device-{number}") for number in range(4)]


@pytest.fixture
def destroyed_round_keys() -> Iterator[None]:
    """Leave no key of a test's rounds on the enclave host."""
    yield
    for key in (enclave_host().directory / "rounds").iterdir():
        key.unlink()


def sealed(round_: Round, person: Person, plaintext: bytes) -> bytes:
    """Seal any bytes as the device would its update."""
    instance = services.live_instance(round_.id)
    context = UpdateContext(
        round_.federation_id.bytes,
        round_.id.bytes,
        person.identity.device_id,
        bytes(instance.key_id),
        bytes(round_.base_version.digest),
    )
    return b"".join(seal_update(bytes(instance.hpke_public_key), context, plaintext))


def collected(federation: Federation, fleet: list[Person], plaintexts: list[bytes]) -> Round:
    """Run a round up to its aggregation; device i submits plaintext i, sealed and signed as it should be."""
    round_ = started(federation)
    for person, plaintext in zip(fleet, plaintexts, strict=True):
        submission = Submission(round_, person, sealed(round_, person, plaintext))
        assert "receipt" in submission.hand_in(person.line()).message
    assert rounds.close_round(round_.id, now=timezone.now())
    return Round.objects.get(id=round_.id)


def aggregated(round_: Round) -> Round:
    """Try until no attempt is left."""
    for _ in range(steps.MAX_ATTEMPTS):
        steps.aggregate_round(round_.id, now=timezone.now())
    round_.refresh_from_db()
    return round_


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls in threads that start at once; return what each returned or raised."""
    barrier, outcomes = Barrier(len(calls)), [None] * len(calls)

    def run(place, call):
        try:
            barrier.wait()
            outcomes[place] = call()
        except Refusal as refusal:
            outcomes[place] = refusal.code
        finally:
            connection.close()

    threads = [Thread(target=run, args=numbered) for numbered in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
