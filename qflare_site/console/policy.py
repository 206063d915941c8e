"""An aggregation policy in words: what each part does, by the first sentence of the code that does it."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from enclave.core.rules.part import Part, Registry
from enclave.core.rules.pipeline import FILTERS, NOISES, PRE_AGGREGATIONS, RULES, SERVER_OPTIMISERS
from qflare_protocol.aggregation_policy import AggregationPolicy, Stage

KINDS: Mapping[str, tuple[str, Registry[Any]]] = {
    "filters": ("Filters", FILTERS),
    "pre_aggregation": ("Pre-aggregation", PRE_AGGREGATIONS),
    "rule": ("Rule", RULES),
    "server_optimiser": ("Server optimiser", SERVER_OPTIMISERS),
    "noise": ("Noise", NOISES),
}
"""The members of a policy that are stages: what people call them, and the parts there are."""


@dataclass(frozen=True)
class Parameter:
    """One number of a part: its default and the range it may lie in."""

    name: str
    default: float
    low: float
    high: float
    whole: bool


@dataclass(frozen=True)
class PartView:
    """One part that a policy may name: what it does, where it comes from, and its parameters."""

    name: str
    explanation: str
    source: str
    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, part: type[Part]) -> "PartView":
        """Describe a part by its own docstring and fields."""
        told = (inspect.getdoc(part) or "").replace("`", "")
        parameters = (
            Parameter(one.name, one.default, one.metadata["low"], one.metadata["high"], one.metadata["whole"])
            for one in fields(part)
        )
        return cls(part.name, " ".join(told.split("\n\n")[0].split()), part.source, tuple(parameters))


@dataclass(frozen=True)
class StageView:
    """One stage of a policy: which part, with which values, defaults among them."""

    kind: str
    part: PartView
    values: tuple[tuple[str, float], ...]


def parts_of(kind: str) -> list[PartView]:
    """Return the parts of a kind by name, "none" first. Raises `KeyError` for a kind that is none."""
    registry = KINDS[kind][1]
    return [PartView.of(registry[name]) for name in sorted(registry, key=lambda name: (name != "none", name))]


def explained_policy(policy: AggregationPolicy) -> list[StageView]:
    """Return every stage of a policy in the order in which they run."""
    stages: list[tuple[str, Stage]] = []
    for kind in KINDS:
        value = getattr(policy, kind)
        stages += [(kind, stage) for stage in (value if isinstance(value, tuple) else (value,))]
    return [_explained(kind, stage) for kind, stage in stages]


def _explained(kind: str, stage: Stage) -> StageView:
    title, registry = KINDS[kind]
    made = registry.make(stage).stage()
    return StageView(title, PartView.of(registry[stage.name]), tuple(made.parameters.items()))
