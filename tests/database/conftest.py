"""What the tests of the database share: its roles on PostgreSQL, and the people who take part."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from qflare_site.database_roles import role_names
from tests.admin.conftest import olga, root, site, vera
from tests.open_rounds import carol, dave, enclave_here, federation, running
from tests.people import alice, bob, mallory, raised_rates

__all__ = [
    "alice", "bob", "carol", "dave", "enclave_here", "federation", "mallory", "olga", "raised_rates", "root",
    "running", "site", "vera",
]  # fmt: skip


@pytest.fixture(scope="session")
def roles(django_db_setup: None, django_db_blocker: Any) -> Iterator[dict[str, str]]:
    """Set the roles up in the test database by the command, and drop them at the end; PostgreSQL only."""
    if connection.vendor != "postgresql":
        pytest.skip("roles and row-level security are PostgreSQL's")
    with django_db_blocker.unblock():
        names = role_names(connection.settings_dict["NAME"])
        call_command("setup_database_roles", verbosity=0)
    yield names
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        for name in names.values():
            cursor.execute(f'REASSIGN OWNED BY "{name}" TO CURRENT_USER')
            cursor.execute(f'DROP OWNED BY "{name}"')
            cursor.execute(f'DROP ROLE "{name}"')
