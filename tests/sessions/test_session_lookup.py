"""The statement that is built once finds what the object mapper finds, column by column."""

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from devices.models import Device, DeviceState
from sessions.models import Session, SessionState
from sessions.session_lookup import live_session

pytestmark = pytest.mark.django_db


@pytest.fixture
def session(alice):
    alice.session().open()
    return Session.objects.select_related("device").get()


def columns_of(row):
    values = {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}
    return {name: bytes(value) if isinstance(value, memoryview) else value for name, value in values.items()}


def test_session_and_device_are_those_of_the_object_mapper(session):
    found = live_session(session.id, timezone.now())
    assert columns_of(found) == columns_of(session)
    assert columns_of(found.device) == columns_of(session.device)
    assert {name: type(value) for name, value in columns_of(found).items()} == {
        name: type(value) for name, value in columns_of(session).items()
    }
    assert not found._state.adding
    assert found._state.db == session._state.db


def test_one_statement_brings_both(session, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert live_session(session.id, timezone.now()).device.name == "alice"


def test_what_was_found_can_be_saved(session):
    found = live_session(session.id, timezone.now())
    found.requests = 7
    found.save(update_fields=("requests",))
    session.refresh_from_db()
    assert session.requests == 7


@pytest.mark.parametrize("state", [SessionState.PENDING, SessionState.ENDED])
def test_a_session_that_is_not_active_is_not_found(session, state):
    ended = {"wrapped_secret": None, "ended_at": timezone.now(), "end_reason": "over"}
    Session.objects.update(state=state, **(ended if state == SessionState.ENDED else {"activated_at": None}))
    assert live_session(session.id, timezone.now()) is None


def test_an_expired_session_is_not_found(session):
    assert live_session(session.id, session.expires_at) is None
    assert live_session(session.id, session.expires_at - timedelta(seconds=1)) is not None


@pytest.mark.parametrize("state", [DeviceState.SUSPENDED, DeviceState.REVOKED])
def test_a_session_of_a_barred_device_is_not_found(session, state):
    Device.objects.update(state=state)
    assert live_session(session.id, timezone.now()) is None


def test_an_unknown_session_is_not_found(session):
    assert live_session(uuid.uuid4(), timezone.now()) is None
