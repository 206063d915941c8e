"""`manage.py audit_export DIR`: write the log for offline verification."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit.export import export_log
from audit.services import current_checkpoint, sequence_log


class Command(BaseCommand):
    """Sequence what waits, sign, and export the log as the last checkpoint covers it."""

    help = "Writes the audit log as C2SP tiles into a new or empty folder; check it with qflare-verify DIR."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the folder."""
        parser.add_argument("folder", metavar="DIR", type=Path)

    def handle(self, *args: Any, **options: Any) -> None:
        """Export and say how to check it."""
        folder: Path = options["folder"]
        sequence_log()
        head = current_checkpoint()
        if head is None:
            raise CommandError("The log is empty; there is nothing to export.")
        try:
            export_log(head, folder)
        except OSError as error:
            raise CommandError(f"The log cannot be exported to {folder}: {error}.") from error
        self.stdout.write(f"Exported {head.size} entries to {folder}. Check them with: qflare-verify {folder}")
