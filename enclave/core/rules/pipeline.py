"""The pipeline a policy names: its parts, whether they hold what it claims, and the order in which they decide."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from enclave.core.rules.combination import Combination, CoordinateCombination, LinearCombination
from enclave.core.rules.coordinate_rules import CoordinateRule
from enclave.core.rules.filters import FILTERS, Filter, Sight
from enclave.core.rules.linear_rules import RULES, LinearRule, Mean, Rule
from enclave.core.rules.noise import NOISES, GaussianNoise, standard_normals
from enclave.core.rules.part import Need, Part, minority
from enclave.core.rules.pre_aggregation import PRE_AGGREGATIONS, PreAggregation, QuantileClipping, StaticClipping, clip
from enclave.core.rules.server_optimisers import SERVER_OPTIMISERS, ServerOptimiser
from enclave.core.rules.span import Matrix, Span, Vector
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal
from qflare_protocol.update_forms import RANDOM_MASK, WEIGHTS

CLAIM_CHECKED_UP_TO = 1000
"""For how many updates above the minimum a policy's claim is checked one by one."""

_CODE = "policy-refused"


@dataclass(frozen=True)
class Rows:
    """What a decision is made of.

    - updates: the n updates' span, in order of device id.
    - samples: (n,) claimed sample counts.
    - root, centre: the root device's update and the last aggregate, rows over the same basis.
    - seed: 32 secret bytes drawn after all updates were committed.
    - radius: the clipping radius carried from the last round, where one is.
    """

    updates: Span
    samples: Vector
    seed: bytes = field(repr=False)
    root: Span | None = None
    centre: Span | None = None
    radius: float | None = None


@dataclass(frozen=True)
class Decision:
    """What became of every update, and how the aggregate is made.

    - kept: the indices of the updates that take part.
    - reasons: why each of the others was left out, by index.
    - norms, norm_ratios, cosines: (n,) what the filters see, whether or not the pipeline has any.
    - shares: (n,) each update's part in the outcome, 0 to 1.
    - combination: how a range of the aggregate is made of the rows.
    - noise_deviation: the standard deviation of the noise on each coordinate of the aggregate.
    - next_radius: the clipping radius to carry to the next round, where one is.
    - shortfall: why nothing may be combined, where the filters leave too few updates; else empty.
    """

    kept: list[int]
    reasons: dict[int, str]
    norms: Vector
    norm_ratios: Vector
    cosines: Vector
    shares: Vector
    combination: Combination
    noise_deviation: float = 0.0
    next_radius: float | None = None
    shortfall: str = ""


@dataclass(frozen=True)
class Pipeline:
    """The parts in the order in which they run. Make it with `of`, which refuses what does not hold together."""

    policy: AggregationPolicy
    filters: tuple[Filter, ...]
    pre_aggregation: tuple[PreAggregation, ...]
    rule: Rule
    server_optimiser: ServerOptimiser
    noise: GaussianNoise | None

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, policy: AggregationPolicy) -> "Pipeline":
        """Make the pipeline of a policy.

        Raises `Refusal("policy-refused")` for unknown parts and parameters, for a claim to stand more
        attackers than the parts can, for parts that do not go together, and for differential privacy
        whose accounting the pipeline would void.
        """
        noise = NOISES.make(policy.noise)
        pipeline = cls(
            policy,
            tuple(FILTERS.make(stage) for stage in policy.filters),
            tuple(PRE_AGGREGATIONS.make(stage) for stage in policy.pre_aggregation),
            RULES.make(policy.rule),
            SERVER_OPTIMISERS.make(policy.server_optimiser),
            noise if isinstance(noise, GaussianNoise) else None,
        )
        pipeline._check_composition()
        pipeline._check_claim()
        if pipeline.noise is not None:
            pipeline._check_privacy(pipeline.noise)
        return pipeline

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts that see the updates."""
        return (*self.filters, *self.pre_aggregation, self.rule)

    @cached_property
    def carries_centre(self) -> bool:
        """Whether the aggregate is kept for the next round's rule."""
        return self.rule.starts_from_last_aggregate

    @cached_property
    def private(self) -> bool:
        """Whether the round is a release of differential privacy, so that scores stay inside."""
        return self.noise is not None

    def stands(self, updates: int, attackers: int) -> bool:
        """Return whether the outcome stays bounded when that many of the updates are arbitrary."""
        rows, bounded = updates, False
        bounding: tuple[Filter | PreAggregation, ...] = (*self.filters, *self.pre_aggregation)
        for part in bounding:
            if attackers > part.tolerates(rows):
                return False
            bounded = bounded or part.bounds_norms
            rows = part.rows_left(rows)
        limit = minority(rows) if bounded and isinstance(self.rule, Mean) else self.rule.tolerates(rows)
        return attackers <= limit

    def breakdown_point(self, updates: int) -> int:
        """Return the largest number of attackers that the pipeline stands among that many updates."""
        return max((f for f in range(minority(updates) + 1) if self.stands(updates, f)), default=0)

    def foreseen(self, samples: Vector) -> Combination | None:
        """Return how updates with these (n,) sample counts are combined, where their rows cannot change it; else None.

        So it is where a rule that looks at no products stands alone: a mean, or a rule by coordinate.
        """
        policy = self.policy
        alone = self.parts == (self.rule,) and not (self.private or policy.history or self.server_optimiser.state)
        if not alone or self.rule.needs is Need.GRAM:
            return None
        decision = self.decide(Rows(Span.of_gram(np.eye(len(samples))), samples, seed=bytes(32)))
        return None if decision.shortfall else decision.combination

    def decide(self, rows: Rows) -> Decision:
        """Return what becomes of the updates, and how they are combined where enough of them are left."""
        sight = Sight(rows.updates, rows.root)
        kept, reasons = self._filtered(sight)
        tolerated = self.policy.tolerated(len(rows.updates))
        combination: Combination = LinearCombination((), ())
        shortfall = ""
        if kept and self.stands(len(kept), tolerated):
            mixing, span = self._mixed(rows, kept, tolerated)
            combination = self._combination(rows, span, mixing, kept, tolerated)
        else:
            shortfall = f"are left by the filters, too few to stand the {tolerated} attackers the policy names"
        return Decision(
            kept=kept,
            reasons=reasons,
            norms=sight.norms,
            norm_ratios=sight.norm_ratios,
            cosines=sight.consensus_cosines(kept),
            shares=combination.shares(len(rows.updates)),
            combination=combination,
            noise_deviation=self._noise_deviation(rows),
            next_radius=self._next_radius(rows),
            shortfall=shortfall,
        )

    def _filtered(self, sight: Sight) -> tuple[list[int], dict[int, str]]:
        kept, reasons = list(range(len(sight.updates))), {}
        for part in self.filters:
            left = part.kept(sight, kept)
            reasons.update(dict.fromkeys(set(kept) - set(left), part.reason))
            kept = left
        return kept, reasons

    def _mixed(self, rows: Rows, kept: Sequence[int], tolerated: int) -> tuple[Matrix, Span]:
        mixing, span = np.eye(len(kept)), rows.updates.take(list(kept))
        for part in self.pre_aggregation:
            if isinstance(part, QuantileClipping):
                weights = clip(span.norms(), self._radius(rows))
            else:
                weights = part.weights(span, tolerated, rows.seed)
            mixing, span = weights @ mixing, span.mixed(weights)
        return mixing, span

    def _combination(self, rows: Rows, span: Span, mixing: Matrix, kept: Sequence[int], tolerated: int) -> Combination:
        if isinstance(self.rule, CoordinateRule):
            chosen = self.rule.chosen(span, tolerated)
            return CoordinateCombination(tuple(kept), mixing[chosen], self.rule, tolerated)
        assert isinstance(self.rule, LinearRule)  # noqa: S101 - there are two kinds of rules
        start = np.zeros(span.coefficients.shape[1]) if rows.centre is None else rows.centre.coefficients[0]
        outcome = self.rule.weights(span, tolerated, start, rows.samples[list(kept)])
        if self.noise is not None:
            outcome = outcome * (len(kept) / self.noise.expected_cohort)
        return LinearCombination.of(span, outcome, len(rows.updates))

    def _radius(self, rows: Rows) -> float:
        part = self.pre_aggregation[0]
        if isinstance(part, QuantileClipping):
            return part.initial_radius if rows.radius is None else rows.radius
        assert isinstance(part, StaticClipping)  # noqa: S101 - `_check_privacy` lets no other through
        return part.radius

    def _noise_deviation(self, rows: Rows) -> float:
        if self.noise is None:
            return 0.0
        part = self.pre_aggregation[0]
        multiplier = self.noise.noise_multiplier
        if isinstance(part, QuantileClipping):
            multiplier = part.sum_noise_multiplier(multiplier)
        return multiplier * self._radius(rows) / self.noise.expected_cohort

    def _next_radius(self, rows: Rows) -> float | None:
        part = self.pre_aggregation[0] if self.pre_aggregation else None
        if self.noise is None or not isinstance(part, QuantileClipping):
            return None
        normal = float(standard_normals(rows.seed, 0, 1)[0])
        return part.next_radius(self._radius(rows), rows.updates.norms(), self.noise.expected_cohort, normal)

    def _check_composition(self) -> None:
        if self.rule.weighs_samples and any(part.mixes for part in self.pre_aggregation):
            raise Refusal(_CODE, f"{self.rule.name} weighs updates, which are mixed before it; choose another rule.")
        if any(part.name == "root-cosine" for part in self.filters) != bool(self.policy.root_device):
            raise Refusal(_CODE, "The filter root-cosine and a root_device go together; name both or neither.")
        carried = self.policy.history or self.server_optimiser.state or self.carries_centre
        if self.policy.form.name == RANDOM_MASK and carried:
            raise Refusal(
                _CODE,
                "With a random mask every round is about other columns: nothing can be carried from round to round. "
                "Choose no history, a server optimiser without state and another rule than centered-clipping.",
            )
        if self.policy.form.name == WEIGHTS and self.policy.maximum_staleness:
            raise Refusal(
                _CODE,
                "Weights of an older base model cannot be taken: the enclave has the newest alone to subtract. "
                "Choose the form delta, or a maximum_staleness of 0.",
            )
        if self.noise is None and any(isinstance(part, QuantileClipping) for part in self.pre_aggregation):
            raise Refusal(_CODE, "quantile-clipping belongs to gaussian noise; median-clipping needs none.")

    def _check_claim(self) -> None:
        least = self.policy.minimum_updates
        for updates in range(least, least + CLAIM_CHECKED_UP_TO):
            claimed = self.policy.tolerated(updates)
            if not self.stands(updates, claimed):
                stood = self.breakdown_point(updates)
                raise Refusal(
                    _CODE,
                    f"The policy claims to tolerate {claimed} attackers of {updates} updates; its parts stand {stood}. "
                    "Lower tolerated_fraction, raise minimum_updates, or choose parts that stand more.",
                )

    def _check_privacy(self, noise: GaussianNoise) -> None:
        clipping = self.pre_aggregation[0] if len(self.pre_aggregation) == 1 else None
        held = {
            "no filters": not self.filters,
            "exactly one pre-aggregation, static-clipping or quantile-clipping": isinstance(
                clipping, StaticClipping | QuantileClipping
            ),
            "the rule mean": isinstance(self.rule, Mean),
            "no history": self.policy.history == 0.0,
            "a count_noise above half the noise_multiplier": not isinstance(clipping, QuantileClipping)
            or 2.0 * clipping.count_noise > noise.noise_multiplier,
        }
        missing = [what for what, satisfied in held.items() if not satisfied]
        if missing:
            raise Refusal(_CODE, f"Differential privacy is accounted for with {' and '.join(missing)} only.")


def needs_gram(pipeline: Pipeline) -> bool:
    """Return whether any part looks at the Gram matrix."""
    return any(part.needs is Need.GRAM for part in pipeline.parts)
