"""Make the database's roles and give each the least it needs."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection, transaction
from psycopg import sql

from qflare_site.database_roles import ROLES, RolesError, look_around, role_names, statements


class Command(BaseCommand):
    """`manage.py setup_database_roles [--password web=FILE ...] [--dry-run]`: idempotent; run it after `migrate`."""

    help = "Makes the PostgreSQL roles migration, web, worker and audit, and grants each the least it needs."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--password",
            action="append",
            default=[],
            metavar="ROLE=FILE",
            help=f"let a role log in with the password in FILE; ROLE is one of {', '.join(ROLES)}. May be repeated.",
        )
        parser.add_argument("--dry-run", action="store_true", help="print the SQL, passwords left out; change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it in one transaction: a process that runs meanwhile never stands without its rights."""
        files = [_role_and_file(option) for option in options["password"]]
        try:
            found = look_around(connection)
            names = role_names(found.database)
            if options["dry_run"]:
                self._print(list(statements(found, dict.fromkeys(dict(files), "..."))))
                return
            passwords = {role: _verifier(file, names[role]) for role, file in files}
            with transaction.atomic(), connection.cursor() as cursor:
                for statement in statements(found, passwords):
                    cursor.execute(statement)
        except RolesError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{', '.join(names.values())} have what qflare_site/database_roles.py says, and no more.")

    def _print(self, composed: list[sql.Composed]) -> None:
        for statement in composed:
            self.stdout.write(f"{statement.as_string(connection.connection)};")


def _role_and_file(option: str) -> tuple[str, Path]:
    role, _, file = option.partition("=")
    if role not in ROLES or not file:
        raise CommandError(f"--password wants ROLE=FILE with a role of {', '.join(ROLES)}.")
    return role, Path(file)


def _verifier(file: Path, name: str) -> str:
    """Return what PostgreSQL keeps of a password: sent in clear, the server's own log would hold it."""
    try:
        password = file.read_text().strip()
    except OSError as error:
        raise CommandError(f"The password file {file} cannot be read: {error.strerror}.") from error
    if not password:
        raise CommandError(f"The password file {file} is empty.")
    made: bytes = connection.connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256")
    return made.decode()
