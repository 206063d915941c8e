"""The meter of the fleet bench finds the PostgreSQL process that serves a connection."""

import psutil
import pytest

from bench.fleet.meter import backends_of, backends_of_others, postgres_background


@pytest.mark.services
@pytest.mark.django_db
def test_the_backend_of_a_connection_is_its_clients() -> None:
    from django.db import connection

    connection.ensure_connection()
    info = connection.connection.info
    me, database = [psutil.Process()], info.dbname
    assert info.backend_pid in [backend.pid for backend in backends_of(me, database)]
    assert info.backend_pid not in [backend.pid for backend in backends_of_others(me, database)]
    assert info.backend_pid in [backend.pid for backend in backends_of_others([], database)]
    assert info.backend_pid not in [process.pid for process in postgres_background()]
    assert postgres_background()
