"""The arguments by which commands take a federation's schedule."""

from argparse import ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser

from training.models import Federation
from training.services.schedules import schedule_rounds, schedule_rounds_by_crontab, schedule_rounds_when_idle


def add_schedule_arguments(parser: CommandParser) -> Any:
    """Declare them; one of them may be given. Returns their group."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--every", type=_interval, metavar="SECONDS", help="open a round at this interval")
    one.add_argument("--crontab", metavar="EXPRESSION", help="open a round by these five fields, in UTC")
    one.add_argument("--idle-devices", type=int, metavar="N", help="open a round whenever so many devices are idle")
    return one


def set_schedule(federation: Federation, options: dict[str, Any], *, actor: str) -> str:
    """Set the schedule that was given; return when rounds open, empty where none was given."""
    if options["every"] is not None:
        schedule_rounds(federation, every=timedelta(seconds=options["every"]), actor=actor)
        return f"every {options['every']} seconds"
    if options["crontab"] is not None:
        schedule_rounds_by_crontab(federation, expression=options["crontab"], actor=actor)
        return f"by the crontab {options['crontab']}"
    if options["idle_devices"] is not None:
        schedule_rounds_when_idle(federation, idle_devices=options["idle_devices"], actor=actor)
        return f"whenever {options['idle_devices']} devices are idle"
    return ""


def _interval(text: str) -> int:
    value = int(text)
    if not 1 <= value < 2**31:
        raise ArgumentTypeError("an interval is a second or longer")
    return value
