"""`manage.py federated_start`: open a round now."""

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from operator_admin.shell import shell_actor
from qflare_protocol.errors import Refusal
from training.dispatch import start_round
from training.models import UNFINISHED, Federation, ParticipationState, Round, RoundState

POLL_SECONDS = 0.5


class Command(BaseCommand):
    """Open a round of a federation and, with --wait, follow it to its end."""

    help = "Opens a round of a federation now and prints its id. The workers of the site have to run."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("federation", help="name of the federation")
        parser.add_argument(
            "--wait", action="store_true", help="follow the round; exit with 1 when it does not complete"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Open, print the id, and wait where that is asked for."""
        federation = Federation.objects.filter(name=options["federation"]).first()
        if federation is None:
            raise CommandError(f"There is no federation named {options['federation']}; {_federations_there_are()}")
        try:
            opened = start_round(federation.id, actor=shell_actor(), now=timezone.now())
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        self.stdout.write(str(opened.id))
        if options["wait"]:
            self._follow(opened)

    def _follow(self, round_: Round) -> None:
        """Print each change of state or count; raise `CommandError` unless the round completes."""
        shown = ""
        while True:
            round_.refresh_from_db()
            progress = f"{round_.get_state_display()}: {round_.submissions} of {round_.target_updates} updates"
            if progress != shown:
                self.stdout.write(progress)
                shown = progress
            if round_.state not in UNFINISHED:
                break
            time.sleep(POLL_SECONDS)
        if round_.state != RoundState.COMPLETED:
            raise CommandError(f"Round {round_.number} {round_.state}: {round_.end_reason}")
        accepted = round_.participations.filter(state=ParticipationState.ACCEPTED).count()
        rejected = round_.participations.filter(state=ParticipationState.REJECTED).count()
        self.stdout.write(f"{round_.resulting_version} is published: {accepted} accepted, {rejected} rejected.")


def _federations_there_are() -> str:
    names = list(Federation.objects.values_list("name", flat=True)[:20])
    return f"there are {', '.join(names)}." if names else "create one with create_federation."
