"""`manage.py aggregation_rules`: the parts an aggregation policy can name, and whether a policy holds."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from enclave.core.rules.filters import FILTERS
from enclave.core.rules.linear_rules import RULES
from enclave.core.rules.noise import NOISES
from enclave.core.rules.part import Part
from enclave.core.rules.pipeline import Pipeline
from enclave.core.rules.pre_aggregation import PRE_AGGREGATIONS
from enclave.core.rules.server_optimisers import SERVER_OPTIMISERS
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal

KINDS = {
    "filters": FILTERS,
    "pre_aggregation": PRE_AGGREGATIONS,
    "rule": RULES,
    "server_optimiser": SERVER_OPTIMISERS,
    "noise": NOISES,
}
SHOWN_UPDATES = (5, 10, 20, 50, 100)


class Command(BaseCommand):
    """List the parts, or check a policy file before a federation is made with it."""

    help = (
        "Lists the parts that an aggregation policy can name, with their parameters, defaults and papers. "
        "With --check, says whether a policy file for create_federation holds and how many attackers it stands."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "--check", type=Path, metavar="FILE", help="a JSON object as for create_federation --policy"
        )
        parser.add_argument("--json", action="store_true", help="for machines")

    def handle(self, *args: Any, **options: Any) -> None:
        """List or check."""
        content = _checked(options["check"]) if options["check"] else _parts()
        if options["json"]:
            self.stdout.write(json.dumps(content, indent=1))
        elif options["check"]:
            self.stdout.write("The policy holds. Attackers that it claims to tolerate, and that its parts stand:")
            for row in content:
                self.stdout.write(f"  of {row['updates']:>3} updates  {row['tolerated']:>3}  {row['stood']:>3}")
        else:
            for row in content:
                parameters = ", ".join(f"{name} {value:g}" for name, value in row["parameters"].items())
                self.stdout.write(f"{row['kind']:17}{row['name']:19}{parameters}")
                self.stdout.write(f"{'':17}{row['does']} ({row['source']})")


def _parts() -> list[dict[str, Any]]:
    return [_part(kind, name, part) for kind, parts in KINDS.items() for name, part in parts.items()]


def _part(kind: str, name: str, part: type[Part]) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "does": (part.__doc__ or "").splitlines()[0],
        "needs": part.needs.value,
        "parameters": {member.name: member.default for member in fields(part)},
        "source": part.source,
    }


def _checked(file: Path) -> list[dict[str, int]]:
    try:
        given = json.loads(file.read_text())
        policy = AggregationPolicy.from_map(AggregationPolicy().to_map() | given)
        pipeline = Pipeline.of(policy)
    except OSError as error:
        raise CommandError(f"The policy {file} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError) as error:
        raise CommandError(f"The policy {file} is no JSON object: {error}") from error
    except Refusal as refusal:
        raise CommandError(refusal.detail) from refusal
    counts = [count for count in SHOWN_UPDATES if count >= policy.minimum_updates]
    return [
        {"updates": count, "tolerated": policy.tolerated(count), "stood": pipeline.breakdown_point(count)}
        for count in counts
    ]
