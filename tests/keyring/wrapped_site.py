"""A site with wrapped values in several tables, and what of them opens."""

import secrets
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from devices.models import Device
from keyring.columns import wrapped_columns
from keyring.envelope import unwrap, wrap
from keyring.services import server_signer
from sessions.models import Session, SessionState
from tests.factories import make_device, make_federation

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def populate_secrets(sessions: int = 2) -> None:
    """Make two server keys, sessions of one device and a model version: values in all three scopes."""
    server_signer("identity")
    server_signer("log")
    device = make_device("edge-1")
    for _ in range(sessions):
        make_session(device)
    make_federation()


def make_session(device: Device) -> Session:
    """Open a session with a secret of its own."""
    session = Session(
        id=uuid.uuid4(),
        device=device,
        suite=device.suite,
        state=SessionState.ACTIVE,
        challenge_digest=secrets.token_bytes(64),
        key_version=1,
        identity_fingerprint=bytes(32),
        first_epoch=1,
        epoch=1,
        challenged_at=NOW,
        activated_at=NOW,
        expires_at=NOW + timedelta(days=36500),
    )
    session.wrapped_secret = wrap(secrets.token_bytes(32), **session.envelope())
    session.save(force_insert=True)
    return session


def opened_values() -> dict[tuple[str, Any], bytes]:
    """Return every wrapped value of the site, opened. Raises `EnvelopeError` when one does not open."""
    found = {}
    for column in wrapped_columns():
        for row in column.model._base_manager.exclude(**{column.column: None}):
            place = {"table": column.table, "primary_key": column.bound_to(row), "column": column.column}
            found[str(column), row.pk] = unwrap(getattr(row, column.column), **place)
    return found


def raw_values() -> list[bytes]:
    """Return every wrapped value as its column holds it."""
    rows = ((column, row) for column in wrapped_columns() for row in column.model._base_manager.all())
    return [bytes(value) for column, row in rows if (value := getattr(row, column.column)) is not None]
