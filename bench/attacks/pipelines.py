"""The pipelines under test: every rule by itself, and the candidates for the default."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.attacks.run import Aggregate, Federation
from bench.attacks.training import Matrix, Vector
from enclave.core.rules.in_memory import Aggregator
from qflare_protocol.aggregation_policy import NONE as NO_OPTIMISER
from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_protocol.errors import Refusal

MEDIAN_CLIPPING, ARC, NNM = Stage("median-clipping"), Stage("adaptive-clipping"), Stage("nnm")
BUCKETING = Stage("bucketing", {"size": 2})


@dataclass(frozen=True)
class Pipeline:
    """A pipeline by the name it has in the tables; `stands_attackers` is what its policy may claim."""

    name: str
    rule: Stage
    pre_aggregation: tuple[Stage, ...] = ()
    filters: tuple[Stage, ...] = ()
    history: float = 0.0
    server_optimiser: Stage = NO_OPTIMISER
    stands_attackers: bool = True

    def policy(self, devices: int, attackers: int, minimum_updates: int | None = None) -> AggregationPolicy:
        """Return the policy of a federation that tolerates so many attackers; all devices take part by default."""
        return AggregationPolicy(
            minimum_updates=minimum_updates or devices,
            tolerated_fraction=attackers / devices if self.stands_attackers else 0.0,
            filters=self.filters,
            pre_aggregation=self.pre_aggregation,
            rule=self.rule,
            history=self.history,
            server_optimiser=self.server_optimiser,
        )

    def aggregate(self, federation: Federation) -> Aggregate:
        """Return the enclave's own aggregation with this pipeline. Raises `Refusal("policy-refused")`."""
        return enclave_aggregate(self.policy(federation.devices, federation.attackers))

    def refused(self, federation: Federation) -> bool:
        """Return whether the enclave refuses the policy: its parts do not stand so many attackers."""
        try:
            self.aggregate(federation)
        except Refusal as refusal:
            if refusal.code != "policy-refused":
                raise
            return True
        return False


def enclave_aggregate(policy: AggregationPolicy) -> Aggregate:
    """Return the enclave's aggregation under a policy; it carries state from round to round.

    A round that the enclave refuses for want of updates leaves the model as it is.
    """
    aggregator = Aggregator(policy)

    def aggregate(deltas: Matrix, sample_counts: Sequence[int], seed: bytes) -> Vector:
        try:
            return aggregator.aggregate(deltas, sample_counts, seed=seed)[0]
        except Refusal as refusal:
            if refusal.code != "too-few-updates":
                raise
            return np.zeros(deltas.shape[1], np.float32)

    return aggregate


RULES = (
    Pipeline("mean", Stage("mean"), stands_attackers=False),
    *(
        Pipeline(name, Stage(name))
        for name in (
            "median", "trimmed-mean", "meamed", "krum", "multi-krum", "bulyan", "geometric-median",
            "centered-clipping",
        )
    ),
)  # fmt: skip
"""Every rule by itself."""
CLIPPED_AND_MIXED = (MEDIAN_CLIPPING, NNM)
MOMENTUM, MOMENTUM_TENFOLD = (Stage("fedavgm", {"momentum": momentum, "learning_rate": 1.0}) for momentum in (0.6, 0.9))
"""Server momentum, whose steps come to 1 / (1 - momentum) times an aggregate that stays the same."""
HISTORY = 0.9
FILTERS = (Stage("norm-bound"), Stage("consensus-cosine"))


def _candidate(
    rule: str,
    *pre_aggregation: Stage,
    filters: tuple[Stage, ...] = (),
    history: float = 0.0,
    server_optimiser: Stage = NO_OPTIMISER,
) -> Pipeline:
    """Return a pipeline that is named by its parts in their order."""
    parts = [f"history {history:g}"] if history else []
    parts += [*(stage.name for stage in (*filters, *pre_aggregation)), rule]
    if server_optimiser != NO_OPTIMISER:
        parts.append(f"{server_optimiser.name} {server_optimiser.parameters['momentum']:g}")
    return Pipeline(", ".join(parts), Stage(rule), pre_aggregation, filters, history, server_optimiser)


CANDIDATES = (
    _candidate("mean", MEDIAN_CLIPPING),
    _candidate("centered-clipping", BUCKETING),
    _candidate("centered-clipping", history=HISTORY),
    _candidate("geometric-median", *CLIPPED_AND_MIXED),
    _candidate("geometric-median", *CLIPPED_AND_MIXED, history=HISTORY),
    _candidate("centered-clipping", server_optimiser=MOMENTUM),
    _candidate("geometric-median", *CLIPPED_AND_MIXED, server_optimiser=MOMENTUM_TENFOLD),
    _candidate("geometric-median", *CLIPPED_AND_MIXED, filters=FILTERS, server_optimiser=MOMENTUM),
    _candidate("trimmed-mean", ARC, NNM, server_optimiser=MOMENTUM),
    _candidate("geometric-median", ARC, NNM, server_optimiser=MOMENTUM),
    _candidate("trimmed-mean", *CLIPPED_AND_MIXED, server_optimiser=MOMENTUM),
    _candidate("geometric-median", *CLIPPED_AND_MIXED, server_optimiser=MOMENTUM),
)
"""What the default was chosen from."""
DEFAULT = CANDIDATES[-1].name
FINALISTS = tuple(one.name for one in CANDIDATES if one.server_optimiser == MOMENTUM and not one.filters)
"""Those whose worst cases lie so close together that one seed does not tell them apart."""
PIPELINES = (*RULES, *CANDIDATES)
BY_NAME = {pipeline.name: pipeline for pipeline in PIPELINES}
