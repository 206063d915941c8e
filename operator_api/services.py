"""Create, revoke and check API keys."""

import base64
import binascii
import hmac
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.validators import validate_slug
from django.db import IntegrityError, transaction
from django.db.models import Q

from audit.services import record_event
from operator_api.models import ApiKey
from operator_api.scopes import Scope
from qflare_protocol.encoding import digest
from qflare_protocol.errors import Refusal

PREFIX = "qfk_"
LOOKUP_BYTES, SECRET_BYTES = 16, 32
TEXT_LENGTH = len(PREFIX) + (LOOKUP_BYTES + SECRET_BYTES) * 4 // 3
MAX_LIFETIME = timedelta(days=366)
MAX_NAME_LENGTH = 100
USE_NOTED_EVERY = timedelta(minutes=1)
NOT_ACCEPTED = "The API key is not accepted; an operator can make another."


@dataclass(frozen=True)
class CreatedKey:
    """A key's row with its text, which exists only here and is shown once."""

    row: ApiKey
    text: str = field(repr=False)


def create_key(
    name: str, *, scopes: Sequence[str], lifetime: timedelta, actor: str, now: datetime, maker: User | None = None
) -> CreatedKey:
    """Create a key; it does what its `maker` may do, no longer than that person may; None is a shell.

    Raises `Refusal("conflict")` for a bad or taken name, no or unknown scopes, an impossible life.
    """
    _check_name(name)
    unknown = sorted(set(scopes) - set(Scope.values))
    if unknown or not scopes:
        raise Refusal("conflict", f"Name scopes of {', '.join(Scope.values)}; not {', '.join(unknown) or 'none'}.")
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        raise Refusal("conflict", f"A key lives between a second and {MAX_LIFETIME.days} days.")
    lookup, secret = secrets.token_bytes(LOOKUP_BYTES), secrets.token_bytes(SECRET_BYTES)
    try:
        with transaction.atomic():
            row = ApiKey.objects.create(
                name=name,
                lookup=lookup,
                verifier=_verifier(lookup, secret),
                scopes=sorted(set(scopes)),
                created_by=actor,
                made_by_person=maker is not None,
                maker=maker,
                created_at=now,
                expires_at=now + lifetime,
            )
            said = {"name": name, "scopes": " ".join(row.scopes), "expires_at": row.expires_at.isoformat()}
            record_event("api_key.created", actor=actor, payload=said)
    except IntegrityError as error:
        raise Refusal("conflict", f"There is or was a key named {name}; names are not given twice.") from error
    return CreatedKey(row, PREFIX + base64.urlsafe_b64encode(lookup + secret).decode())


@transaction.atomic
def revoke_key(key_id: uuid.UUID, *, reason: str, actor: str, now: datetime) -> None:
    """Revoke a key from now on. Raises `Refusal("conflict")` without a reason, or when it is revoked already."""
    if not reason.strip():
        raise Refusal("conflict", "State the reason; it is kept in the audit log.")
    if not ApiKey.objects.filter(id=key_id, revoked_at=None).update(revoked_at=now):
        raise Refusal("conflict", "There is no such key that is not revoked already.")
    name = ApiKey.objects.values_list("name", flat=True).get(id=key_id)
    record_event("api_key.revoked", actor=actor, payload={"name": name, "reason": reason.strip()})


def revoke_keys_of(maker: User, *, reason: str, actor: str, now: datetime) -> None:
    """Revoke whatever a person made and is not revoked, in the caller's transaction with what the person did."""
    for key_id in ApiKey.objects.filter(maker=maker, revoked_at=None).values_list("id", flat=True):
        revoke_key(key_id, reason=reason, actor=actor, now=now)


def live_key(text: str, *, now: datetime) -> ApiKey:
    """Return the key of a text and note that it is used.

    Raises `Refusal("authentication-failed")`, which does not tell an unknown key from an expired or revoked one.
    """
    lookup, secret = _parts(text)
    key = ApiKey.objects.select_related("maker").filter(lookup=lookup).first()
    expected = bytes(key.verifier) if key else bytes(64)
    if not hmac.compare_digest(_verifier(lookup, secret), expected) or key is None:
        raise _not_accepted("stranger", "unknown")
    if (state := key.state(now)) != "live":
        raise _not_accepted(key.actor, state)
    if key.maker_is_gone:
        raise _not_accepted(key.actor, "its maker has no access any more")
    unnoted = Q(last_used_at=None) | Q(last_used_at__lt=now - USE_NOTED_EVERY)
    ApiKey.objects.filter(unnoted, id=key.id).update(last_used_at=now)
    return key


def _not_accepted(actor: str, reason: str) -> Refusal:
    """Return the refusal of a key: the log learns what the caller is not told, and never the key's text."""
    return Refusal("authentication-failed", NOT_ACCEPTED).with_event("api_key.refused", actor=actor, reason=reason)


def _check_name(name: str) -> None:
    try:
        validate_slug(name)
    except ValidationError as error:
        raise Refusal("conflict", "A key's name has letters, digits, dashes and underscores.") from error
    if len(name) > MAX_NAME_LENGTH:
        raise Refusal("conflict", f"A key's name has at most {MAX_NAME_LENGTH} characters.")


def _parts(text: str) -> tuple[bytes, bytes]:
    if len(text) != TEXT_LENGTH or not text.startswith(PREFIX):
        raise _not_accepted("stranger", "malformed")
    try:
        raw = base64.b64decode(text.removeprefix(PREFIX), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _not_accepted("stranger", "malformed") from error
    return raw[:LOOKUP_BYTES], raw[LOOKUP_BYTES:]


def _verifier(lookup: bytes, secret: bytes) -> bytes:
    """Return what is stored of a secret; it is random, so that one hash is enough."""
    return digest("api key", lookup, secret)
