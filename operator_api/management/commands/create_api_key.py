"""`manage.py create_api_key`: make a key of the operator API from the shell."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from operator_admin.shell import shell_actor
from operator_api.scopes import READING, Scope
from operator_api.services import MAX_LIFETIME, create_key
from qflare_protocol.errors import Refusal


class Command(BaseCommand):
    """Print the key once; its text is kept nowhere."""

    help = "Creates a named API key with scopes and an end, and prints it this once."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("name", help="what it is for; the audit log names whoever uses the key by this")
        parser.add_argument(
            "--scope", action="append", dest="scopes", choices=Scope.values, help="may be repeated (default: all :read)"
        )
        parser.add_argument("--days", type=int, default=90, help=f"lifetime, 1 to {MAX_LIFETIME.days} (default 90)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Create it."""
        try:
            created = create_key(
                options["name"],
                scopes=options["scopes"] or READING,
                lifetime=_lifetime(options["days"]),
                actor=shell_actor(),
                now=timezone.now(),
            )
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        self.stderr.write(f"{created.row} may {', '.join(created.row.scopes)} until {created.row.expires_at:%Y-%m-%d}.")
        self.stdout.write(created.text)


def _lifetime(days: int) -> timedelta:
    try:
        return timedelta(days=days)
    except OverflowError as error:
        raise CommandError(f"A key lives at most {MAX_LIFETIME.days} days.") from error
