"""Recover the server keys from escrow after the KEK was lost."""

from getpass import getpass
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from audit.services import record_event
from keyring.columns import Scope
from keyring.custodians import OpenedShare, read_opened_share
from keyring.escrow import recover_escrow
from keyring.kek import KekError
from keyring.management.commands.escrow_custodian import read_small
from keyring.models import DataKey
from keyring.shares import EscrowError
from operator_access.approval_option import add_approval_option, require_approval
from operator_admin.shell import shell_actor
from sessions.services import end_all_sessions


class Command(BaseCommand):
    """`manage.py escrow_recover`: combine opened shares and wrap the server keys under the current KEK.

    Sessions whose keys were lost with the KEK are ended, so that their devices make new ones.
    """

    help = "Combines opened escrow shares (asks for them when none is named) and saves the server keys from a lost KEK."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("shares", nargs="*", type=Path, metavar="SHARE", help="file of an opened share")
        add_approval_option(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Recover in one transaction, with its events."""
        try:
            shares = [read_opened_share(read_small(path)) for path in options["shares"]] or _asked()
            with transaction.atomic():
                require_approval("escrow.recover", options["approval"])
                escrow, lost = recover_escrow(shares, now=timezone.now())
                row = DataKey.objects.get(scope=Scope.SERVER_KEYS, retired_at=None)
                payload = {
                    "escrow_id": str(escrow.id),
                    "kek_id": bytes(row.kek_id).hex(),
                    "provider": row.kek_provider,
                    "lost": [row.scope for row in lost],
                }
                record_event("escrow.recovered", actor=shell_actor(), payload=payload)
                ended = 0
                if any(row.scope == Scope.SESSIONS for row in lost):
                    reason = "the session keys were lost with the KEK"
                    ended = end_all_sessions(reason=reason, actor=shell_actor(), now=timezone.now())
        except (EscrowError, KekError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}.") from error
        self.stdout.write(f"The server keys are recovered under the KEK {payload['kek_id']} ({row.kek_provider}).")
        for lost_row in lost:
            self.stdout.write(f"Lost with the old KEK: everything under the {lost_row}.")
        self.stdout.write(f"{ended} sessions ended. Destroy the opened shares, then run: manage.py escrow_split")


def _asked() -> list[OpenedShare]:
    """Ask for opened shares without showing them, until an empty line."""
    shares: list[OpenedShare] = []
    while line := getpass(f"Share {len(shares) + 1} (empty when all are given): "):
        shares.append(read_opened_share(line))
    return shares
