"""`manage.py qkd_policy [GROUP POLICY]`: show or set which device groups have QKD keys in their sessions."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from devices.models import Device
from operator_admin.shell import shell_actor
from qflare_protocol.errors import Refusal
from qflare_protocol.qkd.policy import QkdUse
from sessions.models import QkdPolicy
from sessions.qkd import set_qkd_policy


class Command(BaseCommand):
    """Without arguments list the policies; with a group and a policy set it."""

    help = "Shows the QKD policy of every device group, or sets one. Groups that are not listed are off."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("group", nargs="?", help='name of the group; "" for devices without one')
        parser.add_argument("policy", nargs="?", choices=[use.value for use in QkdUse])

    def handle(self, *args: Any, **options: Any) -> None:
        """List or set."""
        group, policy = options["group"], options["policy"]
        if group is None:
            self._list()
        elif policy is None:
            raise CommandError(f"Name the policy too: {', '.join(QkdUse)}.")
        else:
            self._set(group, policy)

    def _list(self) -> None:
        for row in QkdPolicy.objects.all():
            self.stdout.write(f"{row.policy:10} {row.group or '(no group)'}")

    def _set(self, group: str, policy: str) -> None:
        try:
            row = set_qkd_policy(group, policy, actor=shell_actor(), now=timezone.now())
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        count = Device.objects.filter(group=group).count()
        self.stdout.write(f"{row}: {count} devices are in that group today.")
