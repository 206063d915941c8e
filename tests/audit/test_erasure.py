"""What an entry tells can be erased; that it stood there stays proved."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from audit import services
from audit.models import Entry, Event
from audit.verification import verify_log
from tests.audit.conftest import NOW, record

MakeLog = Callable[[int], None]
LATER = NOW + timedelta(days=400)
pytestmark = pytest.mark.django_db


def erase(*numbers: int) -> int:
    ids = Entry.objects.filter(index__in=numbers).values_list("event_id", flat=True)
    return services.erase_disclosures(list(ids), reason="its time is over", actor="operator:ada", now=LATER)


def test_an_erased_event_tells_its_kind_and_time_alone(make_log: MakeLog) -> None:
    make_log(4)
    assert erase(2) == 1
    event = Entry.objects.get(index=2).event
    assert (event.actor, event.payload, bytes(event.payload_bytes), bytes(event.salt)) == ("erased", {}, b"", b"")
    assert (event.kind, event.erased_at) == ("test.happened", LATER)
    assert event.description == "test.happened, erased"


def test_the_log_holds_with_every_disclosure_erased(make_log: MakeLog) -> None:
    make_log(4)
    root = services.root_at(4)
    erase(0, 1, 2, 3)
    services.sequence_log(LATER)
    report = verify_log()
    assert (report.entries, report.erased) == (5, 4)
    assert services.root_at(4) == root


def test_that_something_was_erased_is_an_event(make_log: MakeLog) -> None:
    make_log(4)
    erase(1, 3)
    event = Event.objects.first()
    assert event is not None
    assert event.description == "What 2 entries tell was erased: its time is over"


def test_what_waits_for_the_sequencer_is_not_erased(make_log: MakeLog) -> None:
    make_log(1)
    waiting = record(2)
    assert services.erase_disclosures([waiting.id], reason="soon", actor="operator:ada") == 0
    waiting.refresh_from_db()
    assert waiting.actor == "system"


def test_erasing_twice_erases_once(make_log: MakeLog) -> None:
    make_log(2)
    assert (erase(0), erase(0)) == (1, 0)


def test_the_database_refuses_half_an_erasure(make_log: MakeLog) -> None:
    make_log(1)
    with pytest.raises(IntegrityError), transaction.atomic():
        Event.objects.update(erased_at=LATER)
