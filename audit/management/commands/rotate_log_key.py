"""`manage.py rotate_log_key`: replace the key that signs checkpoints; devices and auditors follow."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit.services import rotate_log_key
from operator_admin.shell import shell_actor
from qflare_protocol.errors import Refusal


class Command(BaseCommand):
    """Rotate the log's key and print the new fingerprint."""

    help = (
        "Replaces the key that signs the log's checkpoints. The log records it under the old key, which signs its "
        "successor and is destroyed. No answer to a stolen key: see docs/operations.md."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--reason", required=True, help="kept in the audit log")

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate."""
        try:
            fingerprint = rotate_log_key(reason=options["reason"], actor=shell_actor())
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        self.stdout.write(f"The log's new key is {fingerprint.hex()}")
