"""Ask a second person to approve a command that one person may not run alone."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from operator_access.escrow_actions import ESCROW_COMMANDS
from operator_access.services.approvals import ask_for
from operator_admin.actions import Wish, action_by_name
from operator_admin.shell import shell_actor
from qflare_protocol.errors import Refusal


class Command(BaseCommand):
    """`manage.py request_approval escrow.split --remark TEXT`."""

    help = "Asks for a second person's approval; whoever may decide finds the request in the console under Approvals."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("command_name", choices=sorted(ESCROW_COMMANDS), metavar="COMMAND")
        parser.add_argument("--remark", required=True, help="why; shown to whoever decides")

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the request down and print its number."""
        action = action_by_name(options["command_name"])
        wish = Wish(action, "", "the server keys", {"remark": [options["remark"]]})
        try:
            row = ask_for(wish, user=None, actor=shell_actor(), now=timezone.now())
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        self.stdout.write(f"{row.id}\nWhen it is approved, run the command within a day with --approval {row.id}")
