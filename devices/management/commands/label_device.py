"""`manage.py label_device`: give devices the labels by which federations choose whom they invite."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from devices.labels import parse_labels
from devices.models import Device
from devices.services import set_device_labels
from operator_admin.shell import shell_actor
from qflare_protocol.errors import Refusal


class Command(BaseCommand):
    """Replace the labels of one device, or of every device of a group."""

    help = "Gives a device, or each device of a group, these labels and no others; without labels it takes all away."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        whom = parser.add_mutually_exclusive_group(required=True)
        whom.add_argument("--device", metavar="NAME")
        whom.add_argument("--group")
        parser.add_argument("labels", nargs="*", metavar="NAME=VALUE")

    def handle(self, *args: Any, **options: Any) -> None:
        """Label, and say how many devices."""
        chosen = {"name": options["device"]} if options["device"] is not None else {"group": options["group"]}
        device_ids = list(Device.objects.filter(**chosen).values_list("id", flat=True))
        if not device_ids:
            raise CommandError("There is no such device.")
        try:
            labels = parse_labels(options["labels"])
            for device_id in device_ids:
                set_device_labels(device_id, labels, actor=shell_actor())
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        self.stdout.write(f"{len(device_ids)} devices are labelled.")
