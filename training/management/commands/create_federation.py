"""`manage.py create_federation`: create a federation with its first model."""

import json
from argparse import ArgumentTypeError
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import validate_slug
from django.db import transaction
from django.utils import timezone

from operator_admin.shell import shell_actor
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal
from qflare_protocol.sealing_tier import SEALING_TIERS
from training.management.schedule_arguments import add_schedule_arguments, set_schedule
from training.management.term_arguments import add_term_arguments, terms_from
from training.models import Federation
from training.services.federations import create_federation
from training.terms import Mode


class Command(BaseCommand):
    """Create the federation and, with --every, its schedule."""

    help = (
        "Creates a federation whose version 0 is the given safetensors file. "
        "Write that file with: qflare-edge initial-model --trainer MODULE:CLASS --output FILE"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("name", type=_slug, help="letters, digits, dashes and underscores")
        parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="the weights to start from")
        parser.add_argument("--trainer", required=True, metavar="M:C", help="training code that devices run")
        parser.add_argument("--parameters", type=_json_object, default={}, metavar="JSON", help="its parameters")
        parser.add_argument("--evaluator", default="", metavar="M:C", help="evaluates each version on this host")
        parser.add_argument("--group", default="", help="devices of this group take part (default: all)")
        parser.add_argument(
            "--round-minutes", type=_minutes, default=60.0, help="how long a round stays open (default 60)"
        )
        parser.add_argument(
            "--rounds", type=_positive_integer, help="end after this many completed rounds (default: never)"
        )
        parser.add_argument("--minimum-updates", type=int, help="fewest updates aggregated (default 3)")
        parser.add_argument("--privacy-epsilon", type=float, help="open no round that would spend more (default: none)")
        parser.add_argument("--privacy-delta", type=float, help="the delta of epsilon; below one over all devices")
        parser.add_argument(
            "--sealing-tier", choices=[tier.name for tier in SEALING_TIERS],
            help="refuse to aggregate on an enclave host that gives less (default none); see enclave_status",
        )  # fmt: skip
        parser.add_argument(
            "--policy", type=_policy_members, default={}, metavar="FILE",
            help="JSON object with members of the aggregation policy (docs/protocol.md, 10.2)",
        )  # fmt: skip
        add_schedule_arguments(parser)
        add_term_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Create, and say what comes next."""
        model = _read(options["model"])
        try:
            federation, when = _create(model, options, actor=shell_actor())
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        self.stdout.write(f"Federation {federation} is created: {federation.id}.")
        if federation.mode == Mode.ASYNCHRONOUS:
            self.stdout.write("Its buffers open by themselves, when enough devices are enrolled.")
        elif not when:
            self.stdout.write(f"Open a round with: manage.py federated_start {federation}")
        else:
            self.stdout.write(f"A round opens {when}, when enough devices are enrolled.")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandError(f"The model {file} cannot be read: {error.strerror}.") from error


def _policy(options: dict[str, Any]) -> AggregationPolicy:
    given = dict(options["policy"])
    for member, option in (("minimum_updates", "minimum_updates"), ("required_tier", "sealing_tier")):
        if options[option] is not None:
            given[member] = options[option]
    return AggregationPolicy.from_map(AggregationPolicy().to_map() | given)


@transaction.atomic
def _create(model: bytes, options: dict[str, Any], *, actor: str) -> tuple[Federation, str]:
    """Return the federation and when its rounds open, empty: by hand."""
    federation = create_federation(
        options["name"],
        initial_model=model,
        trainer=options["trainer"],
        policy=_policy(options),
        actor=actor,
        now=timezone.now(),
        group=options["group"],
        trainer_parameters=options["parameters"],
        evaluator=options["evaluator"],
        round_time=timedelta(minutes=options["round_minutes"]),
        planned_rounds=options["rounds"],
        privacy_budget_epsilon=options["privacy_epsilon"],
        privacy_delta=options["privacy_delta"],
        terms=terms_from(options),
    )
    return federation, set_schedule(federation, options, actor=actor)


def _slug(text: str) -> str:
    try:
        validate_slug(text)
    except ValidationError as error:
        raise ArgumentTypeError("a name has letters, digits, dashes and underscores only") from error
    return text


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArgumentTypeError("the parameters are a JSON object")
    return value


def _policy_members(name: str) -> dict[str, Any]:
    try:
        return _json_object(Path(name).read_text())
    except OSError as error:
        raise ArgumentTypeError(f"cannot be read: {error.strerror}") from error


def _minutes(text: str) -> float:
    value = float(text)
    if not 1 <= value * 60 < 2**31:
        raise ArgumentTypeError("a round stays open for a second or longer")
    return value


def _positive_integer(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ArgumentTypeError("must be 1 or more")
    return value
