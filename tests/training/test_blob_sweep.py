"""What the sweep of blobs leaves alone while rounds are published beside it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from tests.open_rounds import Submission
from tests.people import Person
from training.blobs import blob_path, store_blob
from training.models import CarriedRow, RangeOutput, RangeStep, RangeStepKind, Round, RoundState, Update
from training.services.blob_sweep import referenced_digests, sweep_blobs

LATER = timedelta(hours=2)

pytestmark = pytest.mark.django_db


@pytest.fixture
def row_of_a_range(running: Round) -> RangeOutput:
    step = RangeStep.objects.create(round=running, kind=RangeStepKind.COMBINE, range_index=0, message=b"sealed")
    blob = store_blob([b"a sealed row"])
    return RangeOutput.objects.create(step=step, name="momentum@0", blob_digest=blob.digest, blob_bytes=blob.size_bytes)


def published(output: RangeOutput) -> None:
    """Move a row from the range that gave it out to the federation that carries it, as a publication does."""
    CarriedRow.objects.create(
        federation=output.step.round.federation,
        name=output.name,
        enclave_key_id=bytes(32),
        blob_digest=output.blob_digest,
        blob_bytes=output.blob_bytes,
        round=output.step.round,
    )
    output.step.delete()


class Between:
    """Do something once, right after the first question that names a table."""

    def __init__(self, table: str, act: Callable[[], None]) -> None:
        self.table, self.act, self.done = table, act, False

    def __call__(self, execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        result = execute(sql, *arguments)
        if self.table in sql and not self.done:
            self.done = True
            self.act()
        return result


def test_a_row_that_is_published_while_the_sweep_asks_keeps_its_blob(row_of_a_range: RangeOutput) -> None:
    path = blob_path(row_of_a_range.blob_digest)
    between = Between(CarriedRow._meta.db_table, lambda: published(row_of_a_range))
    with connection.execute_wrapper(between):
        sweep_blobs(now=timezone.now() + LATER)
    assert between.done
    assert not RangeOutput.objects.exists()
    assert path.exists()


def test_the_updates_of_a_round_are_named_until_it_is_over(running: Round, alice: Person) -> None:
    Submission(running, alice).hand_in(alice.line())
    update = Update.objects.get()
    version = running.base_version
    assert referenced_digests() == {update.blob_digest, version.blob_digest}
    Round.objects.update(
        state=RoundState.CANCELLED, finished_at=timezone.now(), lease_holder=None, lease_expires_at=None
    )
    assert referenced_digests() == {version.blob_digest}
