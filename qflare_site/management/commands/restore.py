"""Restore a backup on an empty site."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from keyring.custodians import read_private_key
from keyring.kek import KekError
from keyring.management.commands.escrow_custodian import read_small
from keyring.shares import EscrowError
from operator_admin.shell import shell_actor
from qflare_site.backup.archive import BackupError
from qflare_site.backup.services import check_backup, restore_backup
from qflare_site.management.commands.backup import progress_on_terminal


class Command(BaseCommand):
    """`manage.py restore FILE --key PRIVATE_KEY_FILE`: put a site back as it was."""

    help = "Restores a backup on a migrated site that nobody has used yet; with --check it only reads it to its end."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("file", type=Path, help="the backup")
        parser.add_argument("--key", type=Path, required=True, help="the private key it is sealed to")
        parser.add_argument("--check", action="store_true", help="read it to its end and restore nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it, and say what an older state means."""
        path: Path = options["file"]
        try:
            private = read_private_key(read_small(options["key"]))
            if options["check"]:
                report = check_backup(path, private, progress=progress_on_terminal)
            else:
                actor, now = shell_actor(), timezone.now()
                report = restore_backup(path, private, actor=actor, now=now, progress=progress_on_terminal)
        except (BackupError, EscrowError, KekError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}.") from error
        verb = "opens" if options["check"] else "is restored"
        self.stdout.write(
            f"{path} {verb}: taken {report.taken_at:%Y-%m-%d %H:%M:%S} UTC, {report.rows} rows, {report.blobs} blobs, "
            f"{report.files} key files, a log of {report.log_size} entries, root {report.log_root.hex()}."
        )
        if not options["check"]:
            self.stdout.write(
                "What happened after that moment is gone. Devices, tokens and operators that were revoked since are "
                "valid again: revoke them anew. A device that has seen a later checkpoint refuses this log and says "
                "so (log.fork_reported); rounds that were running begin anew. Operators sign in again."
            )
