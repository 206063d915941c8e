"""An event is written with what it tells of, or not at all, and can always be read by a person."""

from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from audit import services
from audit.kinds import describe, register_kind, registered_kinds
from audit.models import Entry, Event
from audit.verification import verify_log
from qflare_protocol.audit_entry import Disclosure
from qflare_protocol.errors import Refusal
from tests.audit.conftest import NOW, record


@pytest.mark.django_db(transaction=True)
def test_an_event_outside_a_transaction_is_a_defect_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="transaction"):
        services.record_event("test.happened", actor="system", payload={"number": 1})


@pytest.mark.django_db(transaction=True)
def test_an_event_goes_with_the_transaction_it_tells_of() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        services.record_event("test.happened", actor="system", payload={"number": 1})
        raise ZeroDivisionError
    assert not Event.objects.exists()


@pytest.mark.django_db
def test_an_event_keeps_time_actor_and_payload() -> None:
    record(3, device="alice")
    event = Event.objects.get()
    assert (event.occurred_at - NOW).total_seconds() == 3
    assert (event.actor, event.kind, event.payload) == ("system", "test.happened", {"number": 3, "device": "alice"})
    assert not event.sequenced
    assert event.description == "Number 3 happened"
    assert str(event) == "test.happened by system"


@pytest.mark.django_db
def test_an_unregistered_kind_is_a_defect_of_the_caller() -> None:
    with transaction.atomic(), pytest.raises(KeyError):
        services.record_event("test.unheard_of", actor="system", payload={})


@pytest.mark.django_db
def test_a_payload_without_a_member_of_its_sentence_is_a_defect_of_the_caller() -> None:
    with transaction.atomic(), pytest.raises(KeyError, match="number"):
        services.record_event("test.happened", actor="system", payload={"other": 1})


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("value", "error"), [(float("nan"), ValueError), (b"bytes", TypeError), ("x" * 40_000, Refusal), ({1}, TypeError)]
)
def test_a_payload_the_log_cannot_carry_is_not_written(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        record(1, value=value)
    assert not Event.objects.exists()


@pytest.mark.django_db
def test_an_event_has_an_actor() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        services.record_event("test.happened", actor="", payload={"number": 1})


@pytest.mark.parametrize("name", ["opened", "Round.opened", "round.", ".opened", "round opened"])
def test_a_kind_has_a_namespaced_name(name: str) -> None:
    with pytest.raises(ValueError, match="namespaced"):
        register_kind(name, "Something")


def test_a_kind_has_one_sentence() -> None:
    register_kind("test.happened", "Number {number} happened")
    with pytest.raises(ValueError, match="registered twice"):
        register_kind("test.happened", "Another sentence")
    assert "test.happened" in registered_kinds()
    assert "log.fork_reported" in registered_kinds()


def test_a_payload_cannot_reach_into_objects_through_its_sentence() -> None:
    assert describe("test.happened", {"number": "{0.__class__}"}) == "Number {0.__class__} happened"


@pytest.mark.django_db
@pytest.mark.parametrize("table", ["audit_entry", "audit_tile", "audit_checkpoint"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET {}"])
def test_the_database_refuses_to_change_the_log(make_log: Any, table: str, statement: str) -> None:
    make_log(256)
    column = {"audit_entry": "kind = 'test.other'", "audit_tile": "level = 9", "audit_checkpoint": "size = 9"}[table]
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement.format(table, column))
    assert Entry.objects.count() == 256


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("table", ["audit_entry", "audit_tile", "audit_checkpoint"])
def test_postgresql_refuses_to_truncate_the_log(make_log: Any, table: str) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has TRUNCATE")
    make_log(3)
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {table} CASCADE")


@pytest.mark.django_db
def test_an_event_that_is_in_the_log_cannot_be_deleted(make_log: Any) -> None:
    make_log(1)
    with pytest.raises(IntegrityError):
        Event.objects.all().delete()


@pytest.mark.django_db
@pytest.mark.parametrize("number", [1e22, 0.1, -1.5e300, 2**53, 3.0])
def test_a_number_that_a_database_writes_otherwise_does_not_stall_the_log(number: float) -> None:
    with transaction.atomic():
        services.record_event("test.happened", actor="system", payload={"number": number})
    assert services.sequence_events() == 1
    assert Disclosure.from_bytes(Entry.objects.get().event.disclosure_bytes()).payload == {"number": number}
    assert verify_log().entries == 1


@pytest.mark.django_db
def test_many_events_are_written_as_one_is() -> None:
    with transaction.atomic():
        one = services.record_event("test.happened", actor="system", payload={"number": 0}, now=NOW)
        payloads = [{"number": number, "of": [1.5, None, "x"]} for number in range(1, 4)]
        services.record_events("test.happened", actor="device:press 7", payloads=payloads, now=NOW)
    many = list(Event.objects.exclude(id=one.id).order_by("id"))
    assert [event.payload for event in many] == payloads
    assert {(event.actor, event.kind, event.occurred_at) for event in many} == {
        ("device:press 7", "test.happened", NOW)
    }
    assert len({bytes(event.salt) for event in many}) == len({event.event_id for event in many}) == 3
    assert services.sequence_events() == 4
    assert verify_log().entries == 4


@pytest.mark.django_db
def test_of_many_events_none_is_written_where_one_is_refused() -> None:
    with pytest.raises(KeyError), transaction.atomic():
        services.record_events("test.happened", actor="system", payloads=[{"number": 1}, {"other": 2}])
    assert not Event.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_many_events_outside_a_transaction_are_a_defect_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="transaction"):
        services.record_events("test.happened", actor="system", payloads=[{"number": 1}])
