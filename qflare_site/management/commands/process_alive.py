"""Container health checks of processes that have no port."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from qflare_site.models import ProcessHeartbeat


class Command(BaseCommand):
    """`manage.py process_alive NAME`: exit with 0 when the process was seen lately, with 1 when not."""

    help = "Say whether worker, audit worker, enclave or beat was seen lately."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("process", choices=["worker", "audit", "enclave", "beat"])

    def handle(self, *args: Any, **options: Any) -> None:
        """Look the heartbeat up."""
        seen_at = ProcessHeartbeat.objects.last_seen_at(options["process"])
        if seen_at is None or timezone.now() - seen_at > ProcessHeartbeat.MAX_AGE:
            raise CommandError(f"The {options['process']} process was last seen at {seen_at}.")
        self.stdout.write(f"The {options['process']} process was seen at {seen_at:%H:%M:%S}.")
