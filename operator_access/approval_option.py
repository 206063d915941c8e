"""The option `--approval` of commands that may take two persons."""

import uuid

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from operator_access.services.approvals import use_approval
from operator_admin.actions import action_by_name, takes_two
from operator_admin.shell import shell_actor
from qflare_protocol.errors import Refusal


def add_approval_option(parser: CommandParser) -> None:
    """Declare the option."""
    parser.add_argument(
        "--approval", type=uuid.UUID, metavar="ID", help="of manage.py request_approval, where this takes two persons"
    )


def require_approval(action: str, approval: uuid.UUID | None) -> None:
    """Use the approval of an action, in the transaction of the command; nothing is asked where one person is enough.

    Raises `CommandError` without one that may be used.
    """
    if not takes_two(action_by_name(action).subject):
        return
    if approval is None:
        raise CommandError(
            f"This takes two persons here: run manage.py request_approval {action}, then give --approval."
        )
    try:
        use_approval(approval, action, actor=shell_actor(), now=timezone.now())
    except Refusal as refusal:
        raise CommandError(refusal.detail) from refusal
