"""Take a backup of this site."""

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from keyring.custodians import Custodian, read_custodian
from keyring.kek import KekError
from keyring.management.commands.escrow_custodian import read_small
from keyring.shares import EscrowError
from operator_admin.shell import shell_actor
from qflare_site.backup.archive import BackupError
from qflare_site.backup.services import take_backup


class Command(BaseCommand):
    """`manage.py backup FILE --to NAME=PUBLIC_KEY_FILE`: database, blobs and keys in one sealed file."""

    help = (
        "Writes a backup of database, blobs and keys, sealed to the public keys of those who may restore it; the site "
        "goes on meanwhile. Make a key pair with manage.py escrow_custodian keygen, on a machine that stays elsewhere."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("file", type=Path, help="the new file, such as qflare-2026-03-01.qfb")
        parser.add_argument("--to", action="append", required=True, metavar="NAME=PUBLIC_KEY_FILE")

    def handle(self, *args: Any, **options: Any) -> None:
        """Take it, and say what it holds and who opens it."""
        path: Path = options["file"]
        try:
            recipients = [_recipient(text) for text in options["to"]]
            report = take_backup(
                path, recipients, actor=shell_actor(), now=timezone.now(), progress=progress_on_terminal
            )
        except (BackupError, EscrowError, KekError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}; there is no backup.") from error
        size = path.stat().st_size / 1e6
        self.stdout.write(
            f"{path}: {size:.1f} MB, {report.rows} rows, {report.blobs} blobs, {report.files} key files, "
            f"a log of {report.log_size} entries. Opened by:"
        )
        for one in recipients:
            self.stdout.write(f"  {one.name}  key {one.fingerprint.hex()}")
        self.stdout.write(f"Look whether it opens: manage.py restore {path} --key PRIVATE_KEY_FILE --check")


def progress_on_terminal(what: str) -> None:
    """Show on one line of a terminal what is being done."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{what[:100]}")
        sys.stderr.flush()


def _recipient(text: str) -> Custodian:
    name, separator, file = text.partition("=")
    if not separator:
        raise EscrowError(f"{text!r} is not NAME=PUBLIC_KEY_FILE.")
    return read_custodian(name, read_small(Path(file)))
