"""The registry: a device's states, each change audited, and revocation final."""

import uuid

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from audit.models import Event
from devices.models import Device, DeviceKey
from devices.services import (
    demand_key_rotation,
    note_device_seen,
    register_device,
    resume_device,
    revoke_device,
    suspend_device,
    withdraw_key_demand,
)
from qflare_protocol.device_keys import RegisteredKeys, generate_device_keypair
from qflare_protocol.errors import Refusal
from tests.people import OPERATOR, nothing_changed

pytestmark = pytest.mark.django_db

CHANGES = {"suspend": suspend_device, "resume": resume_device, "revoke": revoke_device}


def change(verb, device, reason="because"):
    return CHANGES[verb](device.id, reason=reason, actor=OPERATOR, now=timezone.now())


@pytest.mark.parametrize(
    ("verbs", "state"),
    [
        (["suspend"], "suspended"),
        (["suspend", "resume"], "active"),
        (["revoke"], "revoked"),
        (["suspend", "revoke"], "revoked"),
    ],
)
def test_a_device_changes_its_state_and_the_log_tells_who_and_why(alice, verbs, state):
    for verb in verbs:
        change(verb, alice.device)
    assert (alice.device.state, alice.device.state_reason) == (state, "because")
    event = Event.objects.order_by("id").last()
    assert event.actor == OPERATOR
    assert (event.payload["device"], event.payload["reason"]) == ("alice", "because")


@pytest.mark.parametrize(("before", "verb"), [([], "resume"), (["suspend"], "suspend")])
def test_a_change_that_leads_nowhere_is_refused(alice, before, verb):
    for earlier in before:
        change(earlier, alice.device)
    with nothing_changed(), pytest.raises(Refusal, match="conflict"):
        change(verb, alice.device)


@pytest.mark.parametrize("verb", CHANGES)
def test_revocation_is_final(bob, verb):
    with nothing_changed(), pytest.raises(Refusal, match="conflict"):
        change(verb, bob.device)


@pytest.mark.parametrize("verb", CHANGES)
@pytest.mark.parametrize("reason", ["", "  "])
def test_a_change_needs_a_reason(alice, verb, reason):
    with nothing_changed(), pytest.raises(Refusal, match="conflict"):
        change(verb, alice.device, reason)


def test_a_device_there_is_not_is_refused(db):
    with nothing_changed(), pytest.raises(Refusal, match="not-found"):
        revoke_device(uuid.uuid4(), reason="because", actor=OPERATOR, now=timezone.now())


def test_a_device_has_one_live_key_of_each_purpose(alice):
    key = alice.device.keys.get(purpose="kem")
    key.pk, key.fingerprint = None, bytes(32)
    with pytest.raises(IntegrityError), transaction.atomic():
        key.save()
    keys = alice.identity.keys
    current = alice.device.key_sets(timezone.now())[0].keys
    assert current == RegisteredKeys(keys.suite, keys.kem.public, keys.signer.public)


@pytest.mark.parametrize("values", [{"state": "unknown"}, {"name": ""}])
def test_the_database_refuses_a_device_out_of_form(alice, values):
    with pytest.raises(IntegrityError), transaction.atomic():
        Device.objects.filter(name="alice").update(**values)


def test_registering_a_taken_name_or_key_leaves_nothing(alice):
    keys = alice.device.key_sets(timezone.now())[0].keys
    fresh = generate_device_keypair(keys.suite)
    with nothing_changed():
        with pytest.raises(Refusal, match="device-name-taken"), transaction.atomic():
            register_device("alice", "", keys, now=timezone.now())
        with pytest.raises(Refusal, match="key-already-registered"), transaction.atomic():
            other = RegisteredKeys(keys.suite, fresh.kem.public, keys.signature_public)
            register_device("dora", "", other, now=timezone.now())


def test_being_heard_is_noted_without_an_event(alice):
    events, now = Event.objects.count(), timezone.now()
    note_device_seen(alice.device, now=now)
    assert alice.device.last_seen_at == now
    assert Event.objects.count() == events


def test_rows_name_themselves(alice):
    assert str(alice.device) == "alice"
    assert str(DeviceKey.objects.get(purpose="signature")).startswith("ML-DSA-44 ")


def test_a_demand_for_new_keys_is_withdrawn_while_it_stands(alice):
    now, due = timezone.now(), alice.device.keys_due_at
    terms = {"demanded_at": now, "due_at": due, "reason": "a false alarm", "actor": OPERATOR, "now": now}
    with nothing_changed(), pytest.raises(Refusal, match="conflict"):
        withdraw_key_demand(alice.device.id, **terms)
    demand_key_rotation(alice.device.id, reason="an incident", actor=OPERATOR, now=now)
    with nothing_changed(), pytest.raises(Refusal, match="conflict"):
        withdraw_key_demand(alice.device.id, **(terms | {"reason": " "}))
    withdraw_key_demand(alice.device.id, **terms)
    assert alice.device.keys_due_at == due
    assert Event.objects.first().description == "Demand for new keys of device alice withdrawn: a false alarm"
    with nothing_changed(), pytest.raises(Refusal, match="not-found"):
        withdraw_key_demand(uuid.uuid4(), **terms)
