"""Archive and remove what has had its time, now instead of with the daily tasks."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import models
from django.utils import timezone

from audit.retention import archive_disclosures, disclosures_to_erase
from sessions.archiving import archive_sessions, sessions_to_archive

_Due = Callable[[datetime], models.QuerySet[Any]]
PARTS: dict[str, tuple[_Due, Callable[..., int], str]] = {
    "sessions": (sessions_to_archive, archive_sessions, "ended sessions to archive and delete"),
    "disclosures": (disclosures_to_erase, archive_disclosures, "disclosures of the log to archive and erase"),
}


class Command(BaseCommand):
    """`manage.py clean_up [--only PART] [--dry-run]`: what the daily tasks do, by the same services."""

    help = "Archives and removes old sessions and disclosures, by QFLARE_RETENTION_*; --dry-run only counts."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--only", choices=PARTS, help="one part: each wants the database role of its task")
        parser.add_argument("--dry-run", action="store_true", help="say what is due; change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        """Count, or clean up; what was done stays done where a later batch fails."""
        now = timezone.now()
        for name in [options["only"]] if options["only"] else PARTS:
            due, clean_up, words = PARTS[name]
            if options["dry_run"]:
                self.stdout.write(f"{due(now).count()} {words}; nothing is changed.")
                continue
            try:
                self.stdout.write(f"{clean_up(now=now)} {words}: done.")
            except OSError as error:
                raise CommandError(f"The archive cannot be written, so nothing more is removed: {error}") from error
