"""Who is told of incidents: channels are made, given a new secret, switched on and off."""

import base64
import secrets
from datetime import datetime
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email, validate_slug
from django.db import IntegrityError, transaction

from audit.services import record_event
from keyring import envelope
from monitor.models import ChannelKind, NotificationChannel
from monitor.terms import Severity
from qflare_protocol.errors import Refusal

SECRET_PREFIX = "whsec_"  # noqa: S105 - the mark of a Standard Webhooks secret, not one
SECRET_BYTES = 32


def create_channel(
    name: str, kind: ChannelKind, address: str, *, least_severity: Severity, actor: str, now: datetime
) -> tuple[NotificationChannel, str | None]:
    """Make a channel; return it with a webhook's secret, which is shown this once.

    Raises `Refusal("conflict")` for a name that is taken or an address that is not usable.
    """
    _check_name(name)
    check_address(kind, address)
    secret = _new_secret() if kind == ChannelKind.WEBHOOK else None
    with transaction.atomic():
        channel = NotificationChannel(
            name=name, kind=kind, address=address, least_severity=least_severity, created_at=now
        )
        channel.wrapped_secret = _wrapped(name, secret) if secret else None
        try:
            with transaction.atomic():
                channel.save(force_insert=True)
        except IntegrityError as error:
            raise Refusal("conflict", f"There is a channel {name} already; choose another name.") from error
        payload = {"channel": name, "channel_kind": str(kind), "least_severity": str(least_severity)}
        record_event("channel.created", actor=actor, payload=payload, now=now)
    return channel, secret


@transaction.atomic
def renew_secret(name: str, *, actor: str, now: datetime) -> str:
    """Give a webhook a new secret and return it; the old one signs nothing any more.

    Raises `Refusal`: "not-found", "conflict" for a channel that has none.
    """
    if _locked(name).kind != ChannelKind.WEBHOOK:
        raise Refusal("conflict", "Only a webhook has a secret.")
    secret = _new_secret()
    NotificationChannel.objects.filter(name=name).update(wrapped_secret=_wrapped(name, secret))
    record_event("channel.changed", actor=actor, payload={"channel": name, "change": "new secret"}, now=now)
    return secret


@transaction.atomic
def switch_channel(name: str, *, enabled: bool, actor: str, now: datetime) -> None:
    """Switch a channel on or off. Raises `Refusal`: "not-found", "conflict" where it is so already."""
    change = "switched on" if enabled else "switched off"
    if _locked(name).enabled == enabled:
        raise Refusal("conflict", f"The channel is {change} already.")
    NotificationChannel.objects.filter(name=name).update(enabled=enabled)
    record_event("channel.changed", actor=actor, payload={"channel": name, "change": change}, now=now)


def signing_key(channel: NotificationChannel) -> bytes:
    """Return what a webhook's messages are signed with. Raises `EnvelopeError`, `KekError`."""
    return envelope.unwrap(bytes(channel.wrapped_secret or b""), **NotificationChannel.envelope(channel.name))


def check_address(kind: ChannelKind, address: str) -> None:
    """Refuse (`conflict`) what is no e-mail address, or no URL that a webhook may have."""
    if kind == ChannelKind.EMAIL:
        try:
            validate_email(address)
        except ValidationError as error:
            raise Refusal("conflict", "This is no e-mail address.") from error
        return
    schemes = ("https", "http") if settings.QFLARE_INSECURE_HTTP else ("https",)
    try:
        parts = urlsplit(address)
        usable = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or parts.username is not None:
        raise Refusal("conflict", f"A webhook is a URL that begins with {' or '.join(schemes)}://, without a password.")


def _check_name(name: str) -> None:
    try:
        validate_slug(name)
    except ValidationError as error:
        raise Refusal("conflict", "A name has letters, digits, dashes and underscores only.") from error


def _locked(name: str) -> NotificationChannel:
    channel = NotificationChannel.objects.select_for_update(no_key=True).filter(name=name).first()
    if channel is None:
        raise Refusal("not-found", "There is no such channel.")
    return channel


def _new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def _wrapped(name: str, secret: str) -> bytes:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return envelope.wrap(key, **NotificationChannel.envelope(name))
