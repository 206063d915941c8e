"""Put the server keys into escrow with k of n custodians."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from audit.services import record_event
from keyring.custodians import Custodian, read_custodian
from keyring.escrow import split_escrow
from keyring.kek import KekError
from keyring.management.commands.escrow_custodian import read_small, write_private
from keyring.shares import EscrowError
from operator_access.approval_option import add_approval_option, require_approval
from operator_admin.shell import shell_actor


class Command(BaseCommand):
    """`manage.py escrow_split`: a second wrapping of the server keys under a key that exists only in shares."""

    help = "Escrows the server keys: writes one sealed share for each custodian. Replaces an earlier split."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--custodian", action="append", required=True, metavar="NAME=PUBLIC_KEY_FILE")
        parser.add_argument(
            "--threshold", type=int, required=True, help="how many custodians recover together; 2 to 16"
        )
        parser.add_argument("--out", type=Path, required=True, help="folder for the sealed shares")
        add_approval_option(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Split; the shares are on disk before the database believes in them."""
        folder: Path = options["out"]
        try:
            custodians = [_custodian(text) for text in options["custodian"]]
            with transaction.atomic():
                require_approval("escrow.split", options["approval"])
                escrow, files = split_escrow(custodians, options["threshold"], now=timezone.now())
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                for person, text in files:
                    write_private(folder / f"{person.name}.share", text)
                names = ", ".join(person.name for person in custodians)
                payload = {"escrow_id": str(escrow.id), "threshold": escrow.threshold, "custodians": names}
                record_event("escrow.split", actor=shell_actor(), payload=payload)
        except (EscrowError, KekError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}; nothing was changed.") from error
        for person in custodians:
            self.stdout.write(f"{folder / person.name}.share  key {person.fingerprint.hex()}")
        self.stdout.write(
            f"Escrow {escrow.id}: any {escrow.threshold} of {len(custodians)} recover. Earlier shares are void."
        )


def _custodian(text: str) -> Custodian:
    name, separator, file = text.partition("=")
    if not separator:
        raise EscrowError(f"{text!r} is not NAME=PUBLIC_KEY_FILE.")
    return read_custodian(name, read_small(Path(file)))
