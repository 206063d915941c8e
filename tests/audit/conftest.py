"""What the tests of the log share: kinds of their own and a log with a few entries."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import transaction

from audit import services
from audit.kinds import register_kind
from audit.models import Event
from keyring import announcements

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)

register_kind("test.happened", "Number {number} happened")


def record(number: int = 0, moment: datetime | None = None, **changes: object) -> Event:
    """Record one event in a transaction of its own."""
    with transaction.atomic():
        moment = moment or NOW + timedelta(seconds=number)
        return services.record_event("test.happened", actor="system", payload={"number": number, **changes}, now=moment)


@pytest.fixture(autouse=True)
def first_keys_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the events of keys made on first use aside, so that a log has the entries that a test put there.

    `tests/keyring/test_first_keys.py` is about them.
    """
    monkeypatch.setattr(announcements, "_LISTENERS", [])


@pytest.fixture
def make_log(db: None) -> Callable[[int], None]:
    """Return a function that makes a signed log of so many entries."""

    def make(size: int) -> None:
        with transaction.atomic():
            for number in range(size):
                record(number, NOW + timedelta(milliseconds=number))
        services.sequence_log(NOW)

    return make
