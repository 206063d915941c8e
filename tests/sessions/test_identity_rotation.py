"""The server's identity key is replaced, and every device that pins an earlier one follows."""

from dataclasses import replace
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from audit.models import Event
from edge_client.enrolment import enroll_device
from enrollment.services import issue_token
from keyring.models import ServerKey
from keyring.services import identity_succession, server_signer, server_verifier
from qflare_protocol import pqc
from qflare_protocol.cose import Signer
from qflare_protocol.errors import Refusal
from qflare_protocol.identity_succession import make_succession
from sessions.key_rotation import rotate_identity_key
from sessions.models import Session, SessionState
from tests.people import (
    OPERATOR,
    SERVER,
    DjangoHttp,
    Person,
    assert_refused,
    cbor,
    kept,
    nothing_changed,
    third_message,
)

ALGORITHM = "ML-DSA-44"


def rotate() -> bytes:
    return rotate_identity_key(ALGORITHM, reason="yearly", actor=OPERATOR, now=timezone.now())


@pytest.mark.parametrize("times", [1, 3])
def test_a_pinned_device_follows_and_pins_the_new_key(alice: Person, times) -> None:
    session = alice.session()
    session.post("/api/work", {})
    for _ in range(times):
        new = rotate()
    session.post("/api/work", {})
    assert alice.identity.identity.fingerprint == new
    assert Event.objects.filter(kind="identity_key.rotated").count() == times


def test_every_session_ends_and_a_handshake_under_way_begins_anew(alice: Person) -> None:
    line = alice.line()
    handshake = alice.handshake()
    answered = cbor(alice.post_cbor("/api/challenge", {"request": handshake.request}))
    rotate()
    assert not Session.objects.exclude(state=SessionState.ENDED).exists()
    assert_refused(line.send(line.seal()), "session-expired")
    third = third_message(handshake, **answered)
    assert_refused(alice.post_cbor("/api/authenticate", third), "handshake-expired")


def test_the_old_private_key_is_destroyed(alice: Person) -> None:
    old = server_verifier("identity")
    rotate()
    row = ServerKey.objects.get(fingerprint=old.fingerprint)
    assert row.wrapped_private is None
    assert row.retired_at is not None
    assert server_signer("identity").fingerprint != old.fingerprint


def test_a_token_issued_before_still_enrols(db) -> None:
    token = issue_token(actor=OPERATOR, now=timezone.now())
    rotate()
    identity = enroll_device(DjangoHttp(), SERVER, token.text, "alice")
    assert identity.identity == server_verifier("identity")


def test_a_wrong_clock_is_told_the_time_by_the_new_key(alice: Person) -> None:
    rotate()
    session = alice.session(clock=lambda: (timezone.now() - timedelta(days=3)).timestamp())
    session.post("/api/work", {})
    assert abs(session.server_time() - timezone.now().timestamp()) < 60


def test_a_stranger_cannot_name_a_successor(alice: Person, monkeypatch) -> None:
    """Mallory owns the web server's answers, but no identity key."""
    pair = pqc.signature(ALGORITHM).generate()
    stranger = Signer(ALGORITHM, pair.private, pair.public)
    forged = make_succession(stranger, stranger, rotated_at=1)
    monkeypatch.setattr("sessions.device_authentication.identity_succession", lambda pinned, current: [forged])
    with pytest.raises(Refusal, match="server-not-authenticated"):
        alice.session().post("/api/work", {})


def test_a_device_that_pins_a_foreign_identity_is_told_so(alice: Person) -> None:
    pair = pqc.signature(ALGORITHM).generate()
    foreign = Signer(ALGORITHM, pair.private, pair.public).verifier
    lost = replace(alice, keeper=kept(replace(alice.identity, identity=foreign)))
    with nothing_changed():
        assert_refused(
            lost.post_cbor("/api/challenge", {"request": lost.handshake().request}), "server-not-authenticated"
        )
    with pytest.raises(Refusal, match="server-not-authenticated"):
        identity_succession(foreign.fingerprint, server_verifier("identity"))


def test_a_rotation_has_a_reason(db) -> None:
    server_signer("identity")
    with nothing_changed(), pytest.raises(Refusal, match="conflict"):
        rotate_identity_key(ALGORITHM, reason=" ", actor=OPERATOR, now=timezone.now())


def test_keys_of_other_algorithms_stay(db) -> None:
    other = server_verifier("identity", "ML-DSA-65")
    rotate()
    assert server_verifier("identity", "ML-DSA-65") == other


def test_the_command_rotates_every_identity_key_or_the_named_one(alice: Person) -> None:
    other = server_verifier("identity", "ML-DSA-65")
    out = StringIO()
    call_command("rotate_identity_key", reason="yearly", algorithm="ML-DSA-44", stdout=out)
    assert server_verifier("identity").fingerprint.hex() in out.getvalue()
    assert server_verifier("identity", "ML-DSA-65") == other
    call_command("rotate_identity_key", reason="yearly", stdout=out)
    assert server_verifier("identity", "ML-DSA-65") != other
    alice.session().post("/api/work", {})
    with pytest.raises(CommandError, match="no such"):
        call_command("rotate_identity_key", reason="yearly", algorithm="ML-DSA-87")
