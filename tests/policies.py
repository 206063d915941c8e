"""Policies for tests whose arithmetic is easy to follow; the default's is not."""

from dataclasses import replace
from typing import Any

from qflare_protocol.aggregation_policy import NONE, AggregationPolicy, Stage

BARE = AggregationPolicy(
    tolerated_fraction=0.0, filters=(), pre_aggregation=(), rule=Stage("mean"), server_optimiser=NONE
)
SCREENED = replace(BARE, filters=(Stage("norm-bound"), Stage("consensus-cosine")), rule=Stage("weighted-mean"))


def bare(**changes: Any) -> AggregationPolicy:
    """Return a policy of the mean alone, with changes."""
    return replace(BARE, **changes)


def screened(**changes: Any) -> AggregationPolicy:
    """Return a policy of both filters and the mean weighted by samples, with changes."""
    return replace(SCREENED, **changes)
