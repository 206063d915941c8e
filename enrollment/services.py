"""The verbs of enrolment: issue and revoke tokens, and turn a token into a device exactly once."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction

from audit.services import log_origin, record_event
from devices.models import Device, DeviceState
from devices.services import reenrol_device, register_device
from enrollment.models import EnrolmentAttempt, EnrolmentToken
from keyring import envelope
from keyring.services import SignedAnswer, identity_succession, server_identity, server_verifier
from qflare_protocol import enrolment
from qflare_protocol.device_keys import RegisteredKeys
from qflare_protocol.encoding import digest
from qflare_protocol.errors import Refusal
from qflare_protocol.kdf import equal
from qflare_protocol.suites import largest_begin_bytes

TOKEN_LIFETIME = timedelta(hours=24)
MAX_TOKEN_LIFETIME = timedelta(days=30)
MAX_TOKENS_AT_ONCE = 100
ATTEMPT_LIFETIME = timedelta(minutes=2)

_STATE_REFUSALS = {
    "used": ("token-used", "The token has been used; ask an operator for a new one."),
    "revoked": ("token-revoked", "The token has been revoked; ask an operator for a new one."),
    "expired": ("token-expired", "The token has expired; ask an operator for a new one."),
}


@dataclass(frozen=True)
class IssuedToken:
    """A token row with its text, which exists only here and is shown once."""

    row: EnrolmentToken
    text: str = field(repr=False)


@transaction.atomic
def issue_token(
    *,
    actor: str,
    now: datetime,
    device_name: str = "",
    group: str = "",
    suite: str = "",
    lifetime: timedelta = TOKEN_LIFETIME,
    reenrols_id: uuid.UUID | None = None,
) -> IssuedToken:
    """Issue a one-time token, for a new device or for the revoked device `reenrols_id` to come back with new keys.

    The latter keeps its name and group. Without `suite` it is for the site's default suite. Raises
    `Refusal`: "suite-refused" for a suite that is not in use here, "conflict" for an impossible lifetime or
    a device that is not revoked.
    """
    suite = suite or settings.QFLARE_DEFAULT_SUITE
    if suite not in settings.QFLARE_SUITES:
        in_use = ", ".join(settings.QFLARE_SUITES)
        raise Refusal("suite-refused", f"The suite is not in use at this site, which has {in_use}.")
    if not timedelta(0) < lifetime <= MAX_TOKEN_LIFETIME:
        raise Refusal("conflict", f"A token lives between a second and {MAX_TOKEN_LIFETIME.days} days.")
    token = enrolment.EnrolmentToken.generate(server_identity(suite).fingerprint)
    reenrols = None if reenrols_id is None else _revoked_device(reenrols_id)
    device_name = reenrols.name if reenrols else device_name
    group = reenrols.group if reenrols else group
    row = EnrolmentToken.objects.create(
        lookup=token.lookup,
        verifier=token.verifier,
        device_name=device_name,
        group=group,
        suite=suite,
        identity_fingerprint=token.identity_fingerprint,
        reenrols=reenrols,
        issued_by=actor,
        issued_at=now,
        expires_at=now + lifetime,
    )
    record_event(
        "token.issued",
        actor=actor,
        payload={
            "token_id": str(row.id),
            "device": device_name or "any device",
            "expires_at": row.expires_at.isoformat(),
        },
    )
    return IssuedToken(row, token.to_text())


@transaction.atomic
def issue_tokens(count: int, *, device_name: str = "", **terms: Any) -> list[IssuedToken]:
    """Issue several tokens on the terms of `issue_token`, all or none.

    Names are unique, so several tokens for one name are for `name-1`, `name-2` and so on. Raises as
    `issue_token`, and `Refusal("conflict")` for a count that is not from 1 to `MAX_TOKENS_AT_ONCE`.
    """
    if terms.get("reenrols_id") is not None and count != 1:
        raise Refusal("conflict", "One device comes back with one token.")
    if not 1 <= count <= MAX_TOKENS_AT_ONCE:
        raise Refusal("conflict", f"Between 1 and {MAX_TOKENS_AT_ONCE} tokens are issued at once.")
    numbered = device_name != "" and count > 1
    names = [f"{device_name}-{number}" if numbered else device_name for number in range(1, count + 1)]
    return [issue_token(device_name=name, **terms) for name in names]


@transaction.atomic
def revoke_token(token_id: uuid.UUID, *, actor: str, now: datetime) -> None:
    """Revoke an unused token. Raises `Refusal("conflict")` when it is used or revoked already."""
    changed = EnrolmentToken.objects.filter(id=token_id, used_at=None, revoked_at=None).update(revoked_at=now)
    if not changed:
        raise Refusal("conflict", "The token is used or revoked already.")
    record_event("token.revoked", actor=actor, payload={"token_id": str(token_id)})


def _revoked_device(device_id: uuid.UUID) -> Device:
    device = Device.objects.filter(id=device_id, state=DeviceState.REVOKED).first()
    if device is None:
        raise Refusal("conflict", "Only a revoked device enrols again; revoke it first, then issue the token.")
    return device


def begin_limit() -> int:
    """Return how many bytes E1 may have here: 64 KiB, or what the largest suite in use needs."""
    return largest_begin_bytes(settings.QFLARE_SUITES)


def begin_enrolment(message: bytes, *, now: datetime) -> SignedAnswer:
    """Answer E1 with E2; the token stays usable until `finish_enrolment`.

    Raises `Refusal`: those of `enrolment.read_begin`, "token-unknown", "token-used",
    "token-expired", "token-revoked", "token-name-mismatch", "suite-refused", "device-name-taken".
    """
    begin = enrolment.read_begin(message, maximum_bytes=begin_limit())
    token = EnrolmentToken.objects.filter(lookup=begin.token_lookup).first()
    if token is None:
        refusal = Refusal("token-unknown", "No such enrolment token was issued here; check that it was copied whole.")
        raise refusal.with_event("token.refused", actor="stranger", token=None, reason="token-unknown")
    _check_token(token, begin.name, begin.keys.suite, now)
    if token.reenrols_id is None and Device.objects.filter(name=begin.name).exists():
        raise Refusal("device-name-taken", f"A device named {begin.name} is already enrolled; choose another name.")
    attempt_id = uuid.uuid4()
    expires_at = now + ATTEMPT_LIFETIME
    identity = server_identity(token.suite)
    challenge = enrolment.make_challenge(
        message, begin, identity=identity, attempt=attempt_id.bytes, expires_at=int(expires_at.timestamp())
    )
    with transaction.atomic():  # the data key lives until its end
        EnrolmentAttempt.objects.create(
            id=attempt_id,
            token=token,
            device_name=begin.name,
            suite=begin.keys.suite,
            kem_key=begin.keys.kem_public,
            signature_key=begin.keys.signature_public,
            identity_fingerprint=identity.fingerprint,
            wrapped_state=envelope.wrap(challenge.secret_state, **_envelope_of(attempt_id)),
            expires_at=expires_at,
        )
    return SignedAnswer(challenge.message, identity_succession(bytes(token.identity_fingerprint), identity.verifier))


def finish_enrolment(attempt_id: bytes, sealed_token: bytes, *, now: datetime) -> bytes:
    """Answer E3 with E4: the token dies in the transaction that makes the device active.

    The same E3 again is answered with the same E4. Raises `Refusal`: "enrolment-refused" and those
    of `begin_enrolment`.
    """
    finish_digest = digest("enrol finish", attempt_id, sealed_token)
    with transaction.atomic():
        # The token is locked too: of two attempts with one token the second sees it used.
        attempt = (
            EnrolmentAttempt.objects.select_for_update(of=("self", "token")).select_related("token")
            .filter(id=uuid.UUID(bytes=attempt_id)).first()
        )  # fmt: skip
        if attempt is None or now >= attempt.expires_at:
            raise Refusal("enrolment-refused", "The enrolment challenge has expired; start the enrolment again.")
        if attempt.confirmation is not None:
            return _repeated_confirmation(attempt, finish_digest)
        if bytes(attempt.identity_fingerprint) != server_identity(attempt.suite).fingerprint:
            raise Refusal("enrolment-refused", "The server's identity key was rotated; start the enrolment again.")
        state = _unwrapped_state(attempt)
        _check_proof(attempt.token, enrolment.open_finish(state, sealed_token))
        _check_token(attempt.token, attempt.device_name, attempt.suite, now)
        device = _use_token(attempt, now)
        attempt.confirmation = _confirm(device, state, sealed_token)
        attempt.finish_digest, attempt.wrapped_state = finish_digest, None
        attempt.save(update_fields=("confirmation", "finish_digest", "wrapped_state"))
        return attempt.confirmation


def _unwrapped_state(attempt: EnrolmentAttempt) -> bytes:
    try:
        return envelope.unwrap(bytes(attempt.wrapped_state), **_envelope_of(attempt.id))
    except envelope.EnvelopeError as error:
        raise Refusal("enrolment-refused", "The challenge's keys are lost; start the enrolment again.") from error


def _repeated_confirmation(attempt: EnrolmentAttempt, finish_digest: bytes) -> bytes:
    if not equal(bytes(attempt.finish_digest), finish_digest):
        raise _refused_token(attempt.token, "used")
    return bytes(attempt.confirmation)


def _check_proof(token: EnrolmentToken, secret: bytes) -> None:
    if not equal(enrolment.token_verifier(secret), bytes(token.verifier)):
        raise Refusal("enrolment-refused", "The proof of possession does not hold; start the enrolment again.")


def _check_token(token: EnrolmentToken, name: str, suite: str, now: datetime) -> None:
    state = token.state(now)
    if state != "unused":
        raise _refused_token(token, state)
    if token.device_name and token.device_name != name:
        refusal = Refusal("token-name-mismatch", "The token was issued for another device name.")
        raise _with_token_event(refusal, token)
    if token.suite != suite:
        raise Refusal("suite-refused", f"The token was issued for the suite {token.suite}.")
    if suite not in settings.QFLARE_SUITES:
        raise Refusal("suite-refused", f"The suite {suite} is not in use here any more; ask for a new token.")


def _refused_token(token: EnrolmentToken, state: str) -> Refusal:
    return _with_token_event(Refusal(*_STATE_REFUSALS[state]), token)


def _with_token_event(refusal: Refusal, token: EnrolmentToken) -> Refusal:
    return refusal.with_event("token.refused", actor="stranger", token=str(token.id), reason=refusal.code)


def _use_token(attempt: EnrolmentAttempt, now: datetime) -> Device:
    keys = RegisteredKeys(attempt.suite, bytes(attempt.kem_key), bytes(attempt.signature_key))
    if attempt.token.reenrols_id is None:
        device = register_device(attempt.device_name, attempt.token.group, keys, now=now)
    else:
        device = reenrol_device(attempt.token.reenrols_id, keys, now=now)
    # Two attempts with one token race here; the row count names the loser, whose device is rolled back.
    used = EnrolmentToken.objects.filter(id=attempt.token_id, used_at=None, revoked_at=None).update(
        used_at=now, used_by=device
    )
    if not used:
        raise _refused_token(attempt.token, "used")
    record_event("token.used", actor=device.actor, payload={"token_id": str(attempt.token_id), "device": device.name})
    return device


def _confirm(device: Device, state: bytes, sealed_token: bytes) -> bytes:
    identity = server_identity(device.suite)
    payload = {
        "device_id": device.id.bytes,
        "name": device.name,
        "log_origin": log_origin(),
        "log_key": server_verifier("log").public,
        "enrolled_at": int(device.enrolled_at.timestamp()),
    }
    return enrolment.make_confirmation(state, sealed_token, payload, identity=identity)


def _envelope_of(attempt_id: uuid.UUID) -> dict[str, str]:
    return {"table": EnrolmentAttempt._meta.db_table, "primary_key": str(attempt_id), "column": "wrapped_state"}


def delete_expired_attempts(*, now: datetime) -> int:
    """Delete exchanges that are over, with the secrets of those never finished."""
    return EnrolmentAttempt.objects.filter(expires_at__lte=now).delete()[0]
