"""`manage.py audit_verify`: recompute the log from the database."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audit.verification import LogDamagedError, verify_log


class Command(BaseCommand):
    """Recompute chain, tree and checkpoints; exit 1 and name the first row that does not fit."""

    help = "Recomputes the audit log from the database and names the first row that does not fit."

    def handle(self, *args: Any, **options: Any) -> None:
        """Verify and report."""
        try:
            report = verify_log()
        except LogDamagedError as damage:
            raise CommandError(f"The log does NOT hold. {damage}") from damage
        self.stdout.write(
            f"The log holds: {report.entries} entries and {report.checkpoints} checkpoints agree; "
            f"{report.waiting_events} events wait to be sequenced.\nRoot {report.root.hex()}"
        )
