"""`manage.py generate_token`: issue enrolment tokens from the shell."""

import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from devices.models import Device
from enrollment.device_command import device_command
from enrollment.services import MAX_TOKENS_AT_ONCE, issue_tokens
from operator_admin.shell import shell_actor
from qflare_protocol.errors import Refusal


class Command(BaseCommand):
    """Print each token once, with the command that uses it; the texts are kept nowhere."""

    help = "Issues one-time enrolment tokens and prints the command to run on each device."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        several = f"how many, 1 to {MAX_TOKENS_AT_ONCE} (default 1); several for one name are for NAME-1, NAME-2, ..."
        parser.add_argument("--name", default="", help="name under which the device must enrol (default: its choice)")
        parser.add_argument("--group", default="", help="group that the device will belong to")
        parser.add_argument("--reenrol", metavar="NAME", help="let this revoked device come back, with new keys")
        suites, default = settings.QFLARE_SUITES, settings.QFLARE_DEFAULT_SUITE
        parser.add_argument("--suite", choices=suites, default=default, help="default: %(default)s")
        parser.add_argument("--hours", type=float, default=24.0, help="lifetime in hours (default 24)")
        parser.add_argument("--count", type=int, default=1, help=several)
        address = "address at which the device reaches this site (default: %(default)s)"
        parser.add_argument("--server", default="http://127.0.0.1:8000", metavar="URL", help=address)

    def handle(self, *args: Any, **options: Any) -> None:
        """Issue, and print what to do with each token."""
        try:
            issued = issue_tokens(
                options["count"],
                actor=shell_actor(),
                now=timezone.now(),
                device_name=options["name"],
                group=options["group"],
                suite=options["suite"],
                lifetime=timedelta(hours=options["hours"]),
                reenrols_id=_device_id(options["reenrol"]),
            )
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        for token in issued:
            self.stdout.write(
                f"For {token.row.device_name or 'any device'}, until {token.row.expires_at:%Y-%m-%d %H:%M} UTC:"
            )
            self.stdout.write(f"  token  {token.text}")
            self.stdout.write(f"  run    {device_command(token, options['server'].rstrip('/'))}")


def _device_id(name: str | None) -> uuid.UUID | None:
    if name is None:
        return None
    device = Device.objects.filter(name=name).first()
    if device is None:
        raise CommandError(f"There is no device named {name}.")
    return device.id
