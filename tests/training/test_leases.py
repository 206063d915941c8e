"""A lease that a thread extends while its step runs."""

import threading
from datetime import timedelta

import pytest
from django.db import InterfaceError, OperationalError, connection, transaction
from structlog.testing import capture_logs

from training.services.leases import kept_lease

LEASE_TIME = timedelta(seconds=0.3)
IN_TIME = 10.0
on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite's database never goes away")


class Extension:
    """What extends a lease: it fails as told, then works, and says so."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.worked = threading.Event()

    def __call__(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.worked.set()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("failure", [OperationalError, InterfaceError])
def test_a_lease_is_kept_over_a_moment_without_the_database(failure: type[Exception]) -> None:
    extension = Extension(failure("the connection is closed"), failure("the database is starting up"))
    with capture_logs() as logs, kept_lease(extension, LEASE_TIME):
        assert extension.worked.wait(IN_TIME)
    assert [(line["event"], line["reason"]) for line in logs] == [("lease_not_extended", "the connection is closed")]


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_a_lease_is_kept_over_a_connection_that_the_server_ended() -> None:
    questions = ["SELECT pg_terminate_backend(pg_backend_pid())", "SELECT 1"]
    answered = threading.Event()

    def extend() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(questions.pop(0) if questions else "SELECT 1")
            answered.set()

    with kept_lease(extend, LEASE_TIME):
        assert answered.wait(IN_TIME)
