"""Replace the key encryption key while the site runs."""

import time
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from audit.services import record_event
from keyring import rotation as kek_rotation
from keyring.columns import WrappedColumn
from keyring.kek import KekError, ProviderName, configured_provider
from keyring.models import KekRotation
from operator_admin.shell import shell_actor

PROGRESS_EVERY = 1000


class Command(BaseCommand):
    """`manage.py rotate_kek`: new KEK, new data keys, every value wrapped again, the old ones destroyed.

    Killed anywhere, it is continued by running it again.
    """

    help = "Replaces the KEK: wraps every secret under new keys while the site runs, then destroys the old KEK."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--to", choices=ProviderName.values, help="provider of the new KEK; default: as configured")
        parser.add_argument(
            "--grace-seconds",
            type=float,
            default=60,
            help="how long to wait for values that are on their way into the database (default 60)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate, or finish what a killed run began."""
        try:
            rotation = kek_rotation.begin_rotation(options["to"] or configured_provider(), now=timezone.now())
            made = kek_rotation.switch_data_keys(rotation, now=timezone.now())
            self.stdout.write(f"KEK {bytes(rotation.kek_id).hex()} ({rotation.provider}); {made} new data keys")
            self._rewrap(options["grace_seconds"])
            self._finish(rotation)
        except (KekError, kek_rotation.RotationError) as error:
            raise CommandError(str(error)) from error

    def _rewrap(self, grace_seconds: float) -> None:
        """Pass over all values until a pass that follows a wait finds nothing more to do."""
        moved: Counter[str] = Counter()

        def count(column: WrappedColumn) -> None:
            moved[str(column)] += 1
            if moved[str(column)] % PROGRESS_EVERY == 0:
                self.stdout.write(f"{column}: {moved[str(column)]} values")

        done, waited = kek_rotation.rewrap_values(count), False
        while done.values or not waited:
            self.stdout.write(f"{moved.total()} values wrapped again; waiting {grace_seconds:g} s for stragglers")
            time.sleep(grace_seconds)
            done, waited = kek_rotation.rewrap_values(count), True
        for sentence in done.unreadable:
            self.stderr.write(f"Left as it is: {sentence}")

    def _finish(self, rotation: KekRotation) -> None:
        kept = kek_rotation.destroy_retired_keys(rotation)
        if kept:
            names = ", ".join(str(row.id) for row in kept)
            raise CommandError(
                f"Values still stand under the data keys {names}, so these and their KEK are kept. Mend or delete the "
                "rows named above and run this again."
            )
        kek_rotation.destroy_replaced_keks(rotation)
        with transaction.atomic():
            payload = kek_rotation.finish_rotation(rotation, now=timezone.now())
            if payload is not None:
                record_event("kek.rotated", actor=shell_actor(), payload=payload)
        self.stdout.write("The old KEK is destroyed. Back up the new one now, and split the escrow anew.")
