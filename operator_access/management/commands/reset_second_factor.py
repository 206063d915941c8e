"""Take away the second factors of somebody who has lost them."""

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser

from operator_access.services.second_factor import reset_second_factor
from operator_admin.shell import shell_actor
from qflare_protocol.errors import Refusal


class Command(BaseCommand):
    """`manage.py reset_second_factor NAME --reason TEXT`."""

    help = "Takes away the second factors of somebody who has lost them; the next sign-in asks to enrol a new one."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("name")
        parser.add_argument("--reason", required=True, help="kept in the audit log")

    def handle(self, *args: Any, **options: Any) -> None:
        """Reset, with its event."""
        user = User.objects.filter(username=options["name"]).first()
        if user is None:
            raise CommandError(f"There is nobody named {options['name']}.")
        try:
            reset_second_factor(user, reason=options["reason"], actor=shell_actor())
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        self.stdout.write(f"{user} has no second factor any more; the next sign-in asks to enrol one.")
