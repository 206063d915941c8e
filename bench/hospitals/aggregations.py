"""The enclave's aggregations that the study compares, for four hospitals."""

from collections.abc import Callable

from bench.attacks.pipelines import BY_NAME as PIPELINES
from bench.attacks.pipelines import DEFAULT, Pipeline, enclave_aggregate
from bench.attacks.run import Aggregate
from bench.hospitals.study import ROUNDS
from qflare_protocol.aggregation_policy import SMALLEST_MINIMUM, AggregationPolicy, Stage
from training.privacy import noise_for

HOSPITALS, POISONERS = 4, 1
HOSPITAL_CLIP = 0.3
MEAN = "mean"


def _of(pipeline: Pipeline) -> Callable[[], Aggregate]:
    """Return what makes a fresh aggregation of a pipeline that stands one of four."""
    return lambda: enclave_aggregate(pipeline.policy(HOSPITALS, POISONERS, SMALLEST_MINIMUM))


AGGREGATIONS = {
    MEAN: _of(PIPELINES["mean"]),
    "trimmed mean": _of(PIPELINES["trimmed-mean"]),
    "the default": _of(PIPELINES[DEFAULT]),
}


def hospital_privacy(epsilon: float, delta: float) -> Aggregate:
    """Return the enclave's clip, mean, noise, that hides a whole hospital through all rounds."""
    return enclave_aggregate(
        AggregationPolicy(
            filters=(),
            pre_aggregation=(Stage("static-clipping", {"radius": HOSPITAL_CLIP}),),
            rule=Stage("mean"),
            noise=Stage(
                "gaussian",
                {"noise_multiplier": noise_for(ROUNDS, epsilon, delta), "expected_cohort": HOSPITALS},
            ),
        )
    )
