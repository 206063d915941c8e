"""`manage.py rotate_identity_key`: replace the server's identity key; pinned devices follow."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from keyring.models import KeyPurpose, ServerKey
from operator_admin.shell import shell_actor
from qflare_protocol.errors import Refusal
from sessions.key_rotation import rotate_identity_key


class Command(BaseCommand):
    """Rotate each identity key in use, or the one of a named algorithm."""

    help = (
        "Replaces the server's identity key. The old key signs its successor and is destroyed; every session "
        "ends and each device follows at its next handshake. No answer to a stolen key: see docs/operations.md."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--reason", required=True, help="kept in the audit log")
        parser.add_argument("--algorithm", help="only the key of this algorithm, such as ML-DSA-44 (default: all)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate, and print the new fingerprints."""
        live = ServerKey.objects.filter(purpose=KeyPurpose.IDENTITY, retired_at=None)
        algorithms = sorted(live.values_list("algorithm", flat=True))
        if options["algorithm"]:
            algorithms = [name for name in algorithms if name == options["algorithm"]]
        if not algorithms:
            raise CommandError("There is no such identity key to rotate.")
        for algorithm in algorithms:
            try:
                fingerprint = rotate_identity_key(
                    algorithm, reason=options["reason"], actor=shell_actor(), now=timezone.now()
                )
            except Refusal as refusal:
                raise CommandError(refusal.detail) from refusal
            self.stdout.write(f"{algorithm}: the new identity key is {fingerprint.hex()}")
