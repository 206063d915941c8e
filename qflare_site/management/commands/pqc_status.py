"""`manage.py pqc_status`: what serves each algorithm here, how fast, and which suites that makes."""

import json
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from qflare_protocol.pqc.registry import engine_faults
from qflare_protocol.status_report import read_report, report_as_map, report_lines


class Command(BaseCommand):
    """Run every self-test and print tables, or JSON; exit 1 when a suite in use cannot be served."""

    help = (
        "Shows the suites, the engine that serves each algorithm, its sizes, rates, and whether its self-test passes."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--json", action="store_true", help="print JSON for machines")
        parser.add_argument("--no-rates", action="store_true", help="do not measure the rates, which takes seconds")

    def handle(self, *args: Any, **options: Any) -> None:
        """Test, measure and print."""
        report = read_report(settings.QFLARE_SUITES, settings.QFLARE_DEFAULT_SUITE, with_rates=not options["no_rates"])
        shown = json.dumps(report_as_map(report), indent=1) if options["json"] else "\n".join(report_lines(report))
        self.stdout.write(shown)
        faults = [*report.faults_in_use.values(), *engine_faults().values()]
        if faults:
            raise CommandError(" ".join(dict.fromkeys(faults)))
