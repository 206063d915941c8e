"""`manage.py enclave_status`: what this host grants a sealed process, without running a round."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from enclave.sealing_status import probe_sealing, status_as_map, status_lines
from enclave.services import enclave_account
from qflare_protocol.errors import Refusal
from qflare_protocol.sealing_tier import SEALING_TIERS, missing_protections


class Command(BaseCommand):
    """Seal a process, print what it holds as a table or JSON; exit 1 when a demanded tier is not reached."""

    help = (
        "Seals a process on this host as a round would, and shows which protections the kernel gives it. "
        "Run it as the account of the enclave worker: an ordinary user is given less than root."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--json", action="store_true", help="print JSON for machines")
        parser.add_argument(
            "--demand", choices=[tier.name for tier in SEALING_TIERS], default="none", help="fail below this tier"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Probe, print, and fail where less is given than demanded."""
        try:
            status = probe_sealing(enclave_account())
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        shown = json.dumps(status_as_map(status), indent=1) if options["json"] else "\n".join(status_lines(status))
        self.stdout.write(shown)
        if missing := missing_protections(status.protections, options["demand"]):
            raise CommandError(f"The tier {options['demand']} is not reached: {', '.join(missing)} missing.")
