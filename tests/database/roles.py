"""Acting as one of the database's roles: the superuser of the tests is bound by no grant and no policy."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

from qflare_site.database_roles import role_names


@contextmanager
def acting_as(role: str) -> Iterator[None]:
    """Run what is inside as the role of a process: web, worker, audit or migration."""
    name = role_names(connection.settings_dict["NAME"])[role]
    with connection.cursor() as cursor:
        cursor.execute(f'SET ROLE "{name}"')
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE")
