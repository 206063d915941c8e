"""The database lets an event be marked as sequenced once and erased whole once, and changed in no other way."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from audit import services
from audit.models import ERASED, Event
from tests.audit.conftest import NOW, record

MakeLog = Callable[[int], None]
LATER = NOW + timedelta(days=400)
ERASURE: dict[str, Any] = {"actor": ERASED, "payload": {}, "payload_bytes": b"", "salt": b"", "erased_at": LATER}
pytestmark = pytest.mark.django_db


def refused(event: Event, **changes: Any) -> bool:
    """Return whether the database refuses this change and leaves the event as it was."""
    before = Event.objects.filter(id=event.id).values().get()
    with pytest.raises(IntegrityError, match="only ever marked as sequenced or erased whole"), transaction.atomic():
        Event.objects.filter(id=event.id).update(**changes)
    return Event.objects.filter(id=event.id).values().get() == before


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "test.other"},
        {"actor": "operator:mallory"},
        {"payload": {"number": 7}},
        {"payload_bytes": b"other"},
        {"salt": b"s" * 32},
        {"commitment": b"c" * 64},
        {"occurred_at": LATER},
        {"event_id": "00000000-0000-0000-0000-000000000001"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_column_of_an_event_changes_by_itself_or_along_with_its_mark(change: dict[str, Any]) -> None:
    waiting = record()
    assert refused(waiting, **change)
    assert refused(waiting, sequenced=True, **change)
    services.sequence_events()
    assert refused(waiting, **change)


def test_a_waiting_event_is_marked_as_sequenced_and_never_taken_back() -> None:
    event = record()
    assert Event.objects.filter(id=event.id).update(sequenced=True) == 1
    assert refused(event, sequenced=False)


def test_an_event_is_erased_whole_by_the_service(make_log: MakeLog) -> None:
    make_log(1)
    assert services.erase_disclosures([Event.objects.get().id], reason="asked for", actor="operator:ada") == 1
    assert Event.objects.get(kind="test.happened").erased_at is not None


@pytest.mark.parametrize("kept", ["actor", "payload", "payload_bytes", "salt"])
def test_an_erasure_that_leaves_something_standing_is_refused(make_log: MakeLog, kept: str) -> None:
    make_log(1)
    changes = {name: value for name, value in ERASURE.items() if name != kept}
    with pytest.raises(IntegrityError), transaction.atomic():
        Event.objects.update(**changes)
    assert Event.objects.get().erased_at is None


@pytest.mark.parametrize(
    "more",
    [{"kind": "test.other"}, {"occurred_at": LATER}, {"commitment": bytes(64)}],
    ids=lambda more: next(iter(more)),
)
def test_an_erasure_changes_nothing_that_the_proof_needs(make_log: MakeLog, more: dict[str, Any]) -> None:
    make_log(1)
    assert refused(Event.objects.get(), **ERASURE, **more)


def test_what_waits_for_the_sequencer_cannot_be_erased() -> None:
    assert refused(record(), **ERASURE)


def test_an_erased_event_never_changes_again(make_log: MakeLog) -> None:
    make_log(1)
    Event.objects.update(**ERASURE)
    assert refused(Event.objects.get(), erased_at=LATER + timedelta(days=1))
    with pytest.raises(IntegrityError), transaction.atomic():
        Event.objects.update(actor="operator:ada", erased_at=None)


@pytest.mark.parametrize("sequenced", [False, True])
def test_no_event_is_deleted_by_hand(sequenced: bool) -> None:
    record()
    if sequenced:
        Event.objects.update(sequenced=True)
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM audit_event")
    assert Event.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_postgresql_refuses_to_truncate_the_events() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has TRUNCATE")
    record()
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("TRUNCATE audit_event CASCADE")
