"""Create somebody who may sign in, with a role."""

import sys
from getpass import getpass
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from operator_access.roles import MEANINGS, Role
from operator_access.services.people import create_operator
from operator_admin.shell import shell_actor
from qflare_protocol.errors import Refusal

WORDS = {role.value.lower().replace(" ", "-"): role for role in Role}


class Command(BaseCommand):
    """`manage.py create_operator NAME --role operator`."""

    help = "Creates somebody who may sign in. Roles: " + " ".join(f"{word}: {MEANINGS[WORDS[word]]}" for word in WORDS)

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("name", help="the name to sign in with")
        parser.add_argument("--role", action="append", required=True, choices=sorted(WORDS))
        parser.add_argument(
            "--password-file", type=Path, help="file that holds the password; it is asked for otherwise"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Create the person."""
        try:
            password = _password(options["password_file"])
            roles = [WORDS[word] for word in options["role"]]
            user = create_operator(options["name"], roles=roles, password=password, actor=shell_actor())
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"The password file cannot be read: {error}.") from error
        self.stdout.write(f"{user} may sign in; the first sign-in asks to enrol a second factor.")


def _password(file: Path | None) -> str:
    if file is not None:
        return file.read_text(encoding="utf-8").rstrip("\n")
    if not sys.stdin.isatty():
        raise CommandError("There is no terminal to ask for a password; give --password-file.")
    password = getpass("Password: ")
    if getpass("Password again: ") != password:
        raise CommandError("The two passwords differ.")
    return password
