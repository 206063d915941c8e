"""The arguments by which `create_federation` takes the terms of a federation's rounds."""

from typing import Any

from django.core.management.base import CommandParser

from devices.labels import parse_labels
from training.terms import Direction, Mode, Selection, Terms


def add_term_arguments(parser: CommandParser) -> None:
    """Declare them."""
    terms = parser.add_argument_group("terms of its rounds")
    terms.add_argument(
        "--mode", choices=Mode.values, default=Mode.SYNCHRONOUS.value,
        help="asynchronous: a round is a buffer of --target updates, the next one opens at once (FedBuff)",
    )  # fmt: skip
    terms.add_argument(
        "--selection", choices=Selection.values, default=Selection.ALL.value, help="whom a round invites (default all)"
    )
    terms.add_argument(
        "--labels", nargs="+", default=[], metavar="NAME=VALUE", help="invite only devices that bear all of these"
    )
    terms.add_argument("--fraction", type=float, help="invite this fraction of them, where there is no target")
    terms.add_argument("--target", type=int, help="close a round with this many updates (default: of all invited)")
    terms.add_argument(
        "--over-selection", type=float, default=1.0, metavar="FACTOR",
        help="invite this many times the target, for stragglers (default 1)",
    )  # fmt: skip
    terms.add_argument(
        "--extension-seconds", type=int, default=0, help="put a deadline off by this while devices still train"
    )
    terms.add_argument("--maximum-extensions", type=int, default=0, help="how often at most, in one round")
    terms.add_argument(
        "--evaluated-by-devices", action="store_true", help="ask each device what each version is worth on its own data"
    )
    terms.add_argument("--stop-metric", default="", metavar="NAME", help="end the federation by this metric")
    terms.add_argument("--stop-goal", type=float, help="when it is this good")
    terms.add_argument("--stop-patience", type=int, metavar="VERSIONS", help="when it did not improve for so many")
    terms.add_argument(
        "--stop-direction", choices=Direction.values, default=Direction.MAXIMISE.value, help="default: maximise"
    )


def terms_from(options: dict[str, Any]) -> Terms:
    """Return the terms that were given. Raises `Refusal` as `Terms` does."""
    return Terms(
        mode=options["mode"],
        selection=options["selection"],
        selection_fraction=options["fraction"],
        selection_labels=parse_labels(options["labels"]),
        target_updates=options["target"],
        over_selection=options["over_selection"],
        extension_seconds=options["extension_seconds"],
        maximum_extensions=options["maximum_extensions"],
        evaluated_by_devices=options["evaluated_by_devices"],
        stop_metric=options["stop_metric"],
        stop_direction=options["stop_direction"],
        stop_goal=options["stop_goal"],
        stop_patience=options["stop_patience"],
    )
