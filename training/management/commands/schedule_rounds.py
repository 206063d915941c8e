"""`manage.py schedule_rounds`: let a federation's rounds open by themselves, or no more."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from operator_admin.shell import shell_actor
from qflare_protocol.errors import Refusal
from training.management.schedule_arguments import add_schedule_arguments, set_schedule
from training.models import Federation
from training.services.schedules import unschedule_rounds


class Command(BaseCommand):
    """Set the one schedule of a federation, which takes the place of the one before."""

    help = "Opens rounds of a federation at an interval, by a crontab or when enough devices are idle; or no more."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("federation", help="name of the federation")
        add_schedule_arguments(parser).add_argument("--never", action="store_true", help="open rounds by hand only")

    def handle(self, *args: Any, **options: Any) -> None:
        """Set it, and say when rounds open."""
        federation = Federation.objects.filter(name=options["federation"]).first()
        if federation is None:
            raise CommandError(f"There is no federation named {options['federation']}.")
        try:
            when = self._set(federation, options)
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        self.stdout.write(f"Rounds of {federation} open {when}.")

    def _set(self, federation: Federation, options: dict[str, Any]) -> str:
        if options["never"]:
            unschedule_rounds(federation, actor=shell_actor())
            return "by hand only"
        when = set_schedule(federation, options, actor=shell_actor())
        if not when:
            raise CommandError("Say when: --every, --crontab, --idle-devices or --never.")
        return when
