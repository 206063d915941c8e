"""`manage.py kek_status`: what protects the secrets at rest, how old it is, and how much stands under it."""

import uuid
from collections import Counter
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from keyring.columns import Scope, wrapped_columns
from keyring.kek import KekError, configured_provider, find_kek, provider_named
from keyring.models import DataKey
from keyring.rotation import unfinished_rotation


class Command(BaseCommand):
    """Open the provider and print the KEK, the data keys and what an operator still has to do."""

    help = "Shows the KEK, its provider, the data keys with age and number of values, rotation and escrow."

    def handle(self, *args: Any, **options: Any) -> None:
        """Print; exit with 1 where a data key's KEK cannot be had."""
        rows = list(DataKey.objects.select_related("escrow"))
        try:
            self._write_kek()
        except KekError as error:
            self.stderr.write(str(error))
        counts: Counter[uuid.UUID] = Counter()
        for column in wrapped_columns():
            counts.update(column.counts())
        out_of_reach = [row for row in rows if not _within_reach(row)]
        for row in rows:
            self.stdout.write(_line(row, counts.pop(row.id, 0), row not in out_of_reach, timezone.now()))
        if counts:
            self.stdout.write(f"{counts.total()} values name no data key of this site and do not open.")
        self._write_duties(rows)
        if out_of_reach:
            raise CommandError(f"The KEK of {len(out_of_reach)} data keys cannot be had.")

    def _write_kek(self) -> None:
        provider = configured_provider()
        keks = provider_named(provider).keks()
        shown = f"{keks[-1].id.hex()}, {keks[-1].place}" if keks else "none yet"
        self.stdout.write(f"Provider {provider}; current KEK: {shown}")

    def _write_duties(self, rows: list[DataKey]) -> None:
        current = [row for row in rows if row.retired_at is None]
        if (rotation := unfinished_rotation()) is not None:
            target = f"manage.py rotate_kek --to {rotation.provider}"
            self.stdout.write(f"A rotation of {rotation.started_at:%Y-%m-%d %H:%M} is unfinished; run: {target}")
        elsewhere = {row.kek_provider for row in current} - {configured_provider()}
        if elsewhere:
            self.stdout.write(f"Data keys stand under {', '.join(elsewhere)}: set QFLARE_KEK_PROVIDER, or rotate.")
        for row in current:
            if row.scope == Scope.SERVER_KEYS:
                shown = str(row.escrow) if row.escrow else "none; run: manage.py escrow_split"
                self.stdout.write(f"Escrow of the server keys: {shown}")


def _within_reach(row: DataKey) -> bool:
    try:
        return find_kek(row.kek_provider, bytes(row.kek_id)) is not None
    except KekError:
        return False


def _line(row: DataKey, values: int, within_reach: bool, now: datetime) -> str:
    state = ("current" if row.retired_at is None else "retired") + ("" if within_reach else ", KEK out of reach")
    kek = f"KEK {bytes(row.kek_id).hex()[:16]} ({row.kek_provider})"
    return f"{row.get_scope_display():12} {row.id}  {state}, {(now - row.created_at).days} days, {values} values, {kek}"
