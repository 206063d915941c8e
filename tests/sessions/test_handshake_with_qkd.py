"""A QKD key in a real handshake: fetched on both sides, used once, and demanded where the policy says so."""

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from audit.models import Event
from edge_client.handshaking import UnvouchedRefusal
from edge_client.http import ServerUnreachable
from edge_client.qkd import QkdSettings
from qflare_protocol.errors import Refusal
from qflare_protocol.qkd import QkdUse
from qflare_protocol.qkd.etsi014 import QkdKey
from qflare_protocol.qkd.key_request import make_qkd_key_request, read_qkd_key_notice
from sessions import qkd_keys
from sessions.models import ReservedQkdKey, Session
from sessions.qkd import set_qkd_policy
from sessions.services import suspend_device, sweep_sessions
from tests import people
from tests.people import OPERATOR, Person, assert_refused, cbor, nothing_changed
from tests.qkd.conftest import ALICE, SERVER, clock, files, simulator

__all__ = ["clock", "files", "simulator"]  # fixtures

NAMES = ("KME_URL", "SAE_ID", "CERTIFICATE", "PRIVATE_KEY", "CA")


@pytest.fixture
def person(db, tmp_path) -> Person:
    return people.enrol("alice", tmp_path / "alice", group="lab")


@pytest.fixture
def site(settings, files, simulator):
    """A server with a KME, and the policy "preferred" for the group lab."""
    values = (simulator.server_url, SERVER, files.certificate(SERVER), files.private_key(SERVER), files.ca)
    for name, value in zip(NAMES, values, strict=True):
        setattr(settings, f"QFLARE_QKD_{name}", str(value))
    set_qkd_policy("lab", "preferred", actor=OPERATOR, now=timezone.now())
    return settings


@pytest.fixture
def device(files, simulator) -> QkdSettings:
    return QkdSettings(
        QkdUse.PREFERRED, simulator.device_url, ALICE, files.certificate(ALICE), files.private_key(ALICE), files.ca
    )


def request_of(person: Person) -> bytes:
    identity = person.identity
    now = timezone.now().timestamp()
    return make_qkd_key_request(identity.device_id, identity.keys.signer, identity.identity, sae_id=ALICE, now=now)


def reserved(person: Person, request: bytes):
    answer = cbor(person.post_cbor("/api/request_qkey", {"request": request}))["answer"]
    return read_qkd_key_notice(answer, request, person.identity.identity)


def challenge(person: Person, key_id: uuid.UUID):
    handshake = person.handshake(qkd=QkdKey(key_id, b"q" * 32))
    return person.post_cbor("/api/challenge", {"request": handshake.request})


def test_both_sides_fetch_the_key_and_the_session_says_so(person, site, device) -> None:
    person.session(qkd=device).post("/api/work", {})
    assert Session.objects.get().qkd
    opened = Event.objects.get(kind="session.opened")
    assert opened.payload["qkd"] is True


def test_the_key_is_erased_with_its_use(person, site, device) -> None:
    person.session(qkd=device).post("/api/work", {})
    assert ReservedQkdKey.objects.get().wrapped_key is None
    with time_machine.travel(timezone.now() + timedelta(minutes=21)):
        sweep_sessions(now=timezone.now())
    assert not ReservedQkdKey.objects.exists()


def test_a_key_is_good_for_one_handshake(person, site) -> None:
    notice = reserved(person, request_of(person))
    assert challenge(person, notice.key_id).status_code == 200
    with nothing_changed("session.refused"):
        assert_refused(challenge(person, notice.key_id), "qkd-key-refused")


def test_a_key_of_another_device_is_refused(person, site, tmp_path) -> None:
    other = people.enrol("carol", tmp_path / "carol", group="lab")
    notice = reserved(other, request_of(other))
    with nothing_changed("session.refused", "session.refused"):
        assert_refused(challenge(person, notice.key_id), "qkd-key-refused")
        assert_refused(challenge(person, uuid.uuid4()), "qkd-key-refused")


def test_the_same_request_names_the_same_key_and_a_new_one_ends_it(person, site) -> None:
    request = request_of(person)
    first = reserved(person, request)
    assert reserved(person, request).key_id == first.key_id
    second = reserved(person, request_of(person))
    assert second.key_id != first.key_id
    assert_refused(challenge(person, first.key_id), "qkd-key-refused")
    assert challenge(person, second.key_id).status_code == 200


def test_the_same_request_twice_at_once_names_the_same_key(person, site, monkeypatch) -> None:
    request, fetch, notices = request_of(person), qkd_keys._fetched_key, []

    def while_another_is_served(*arguments):
        monkeypatch.setattr(qkd_keys, "_fetched_key", fetch)
        notices.append(reserved(person, request))
        return fetch(*arguments)

    monkeypatch.setattr(qkd_keys, "_fetched_key", while_another_is_served)
    notices.append(reserved(person, request))
    assert notices[0].key_id == notices[1].key_id
    assert challenge(person, notices[0].key_id).status_code == 200


def test_a_device_cannot_draw_another_saes_keys_without_end(person, site, monkeypatch) -> None:
    monkeypatch.setattr(qkd_keys, "MOST_KEYS", 2)
    for _ in range(2):
        reserved(person, request_of(person))
    with nothing_changed():
        assert_refused(person.post_cbor("/api/request_qkey", {"request": request_of(person)}), "rate-limited")
    with time_machine.travel(timezone.now() + timedelta(minutes=21)):
        reserved(person, request_of(person))


def test_what_a_suspended_device_is_told_is_nobodys_word(person, site, device) -> None:
    suspend_device(person.device.id, reason="test", actor=OPERATOR, now=timezone.now())
    with pytest.raises(UnvouchedRefusal, match="device-suspended"):
        person.session(qkd=device).post("/api/work", {})


def test_a_stranger_draws_no_keys(person, site, mallory) -> None:
    with nothing_changed("session.refused"):
        assert_refused(
            mallory.post_cbor("/api/request_qkey", {"request": request_of(mallory)}), "authentication-failed"
        )


def test_preferred_goes_on_without_a_kme(person, site, device) -> None:
    away = replace(device, kme_url="https://127.0.0.1:1")
    person.session(qkd=away).post("/api/work", {})
    assert not Session.objects.get().qkd


def test_a_device_that_requires_a_key_opens_no_session_without(person, site, device) -> None:
    away = replace(device, use=QkdUse.REQUIRED, kme_url="https://127.0.0.1:1")
    with pytest.raises(ServerUnreachable, match="requires"):
        person.session(qkd=away).post("/api/work", {})
    assert not Session.objects.exists()


def test_a_group_that_requires_a_key_opens_no_session_without(person, site, device) -> None:
    set_qkd_policy("lab", "required", actor=OPERATOR, now=timezone.now())
    with nothing_changed("session.refused"), pytest.raises(Refusal, match="qkd-required"):
        person.session().post("/api/work", {})
    person.session(qkd=device).post("/api/work", {})
    assert Session.objects.get().qkd


def test_where_qkd_is_off_no_key_is_drawn(person, site, device) -> None:
    set_qkd_policy("lab", "off", actor=OPERATOR, now=timezone.now())
    with nothing_changed():
        assert_refused(person.post_cbor("/api/request_qkey", {"request": request_of(person)}), "qkd-unavailable")
    person.session(qkd=device).post("/api/work", {})
    assert not Session.objects.get().qkd


def test_what_the_server_says_of_its_kme_names_nothing_of_its_host(person, site) -> None:
    site.QFLARE_QKD_CERTIFICATE = "/somewhere/secret/server.pem"
    problem = assert_refused(person.post_cbor("/api/request_qkey", {"request": request_of(person)}), "qkd-unavailable")
    assert "/somewhere" not in problem["detail"]


def test_a_wrong_clock_is_told_the_time(person, site, device) -> None:
    session = person.session(qkd=device, clock=lambda: 1.0)
    session.post("/api/work", {})
    assert Session.objects.get().qkd
