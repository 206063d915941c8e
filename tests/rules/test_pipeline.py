"""A policy's pipeline: what it claims is what its parts stand, and parts that do not go together are refused."""

import numpy as np
import pytest

from enclave.core.rules.filters import FILTERS
from enclave.core.rules.in_memory import Aggregator
from enclave.core.rules.linear_rules import RULES
from enclave.core.rules.noise import NOISES
from enclave.core.rules.pipeline import Pipeline
from enclave.core.rules.pre_aggregation import PRE_AGGREGATIONS
from enclave.core.rules.server_optimisers import SERVER_OPTIMISERS
from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.errors import Refusal
from tests.policies import bare
from tests.rules.updates import updates_of

ROBUST = [name for name in RULES if name not in ("mean", "weighted-mean", "bulyan")]


def policy(rule="mean", *, filters=(), before=(), fraction=0.0, minimum=20, **more):
    return bare(
        minimum_updates=minimum,
        tolerated_fraction=fraction,
        filters=tuple(Stage(name) for name in filters),
        pre_aggregation=tuple(stage if isinstance(stage, Stage) else Stage(stage) for stage in before),
        rule=rule if isinstance(rule, Stage) else Stage(rule),
        **more,
    )


def assert_refused(because, **options):
    with pytest.raises(Refusal) as caught:
        Pipeline.of(policy(**options))
    assert caught.value.code == "policy-refused"
    assert because in caught.value.detail


@pytest.mark.parametrize("rule", ROBUST)
def test_a_robust_rule_stands_any_minority(rule):
    pipeline = Pipeline.of(policy(rule, fraction=0.45))
    assert [pipeline.breakdown_point(n) for n in (3, 4, 5, 20, 21)] == [1, 1, 2, 9, 10]


def test_bulyan_needs_four_times_its_attackers_and_three():
    assert Pipeline.of(policy("bulyan", fraction=0.2)).breakdown_point(23) == 5
    assert_refused("its parts stand 4", rule="bulyan", fraction=0.25)


@pytest.mark.parametrize("rule", ["mean", "weighted-mean"])
def test_a_mean_stands_nobody(rule):
    assert Pipeline.of(policy(rule)).breakdown_point(100) == 0
    assert_refused("its parts stand 0", rule=rule, fraction=0.1)


@pytest.mark.parametrize("before", ["static-clipping", "median-clipping", "adaptive-clipping"])
def test_the_mean_of_clipped_updates_stands_a_minority(before):
    assert Pipeline.of(policy("mean", before=[before], fraction=0.4)).breakdown_point(20) == 9


def test_the_mean_below_a_norm_bound_stands_a_minority():
    assert Pipeline.of(policy("mean", filters=["norm-bound"], fraction=0.4)).breakdown_point(20) == 9


def test_claimed_sample_counts_are_bounded_by_no_clipping():
    assert_refused("its parts stand 0", rule="weighted-mean", before=["median-clipping"], fraction=0.1)


def test_mixing_without_clipping_does_not_make_the_mean_stand_anybody():
    assert_refused("its parts stand 0", rule="mean", before=["nnm"], fraction=0.1)


def test_buckets_leave_the_rule_fewer_rows_with_as_many_attackers():
    half = Pipeline.of(policy("median", before=["bucketing"], fraction=0.2))
    assert half.breakdown_point(20) == 4
    assert_refused("its parts stand 4", rule="median", before=["bucketing"], fraction=0.3)


def test_a_claim_is_checked_for_every_number_of_updates_that_may_come():
    Pipeline.of(policy("bulyan", fraction=0.14, minimum=7))
    assert_refused("of 8 updates", rule="bulyan", fraction=0.25, minimum=7)


@pytest.mark.parametrize("kind, registry", [("filters", FILTERS), ("before", PRE_AGGREGATIONS)])
def test_an_unknown_part_is_refused_by_its_name(kind, registry):
    assert_refused("There is no", **{kind: ["moat"]})
    assert registry


@pytest.mark.parametrize(
    "options, because",
    [
        ({"rule": "moat"}, "There is no rule 'moat'"),
        ({"rule": Stage("median", {"depth": 1})}, "has no parameter depth"),
        ({"rule": Stage("geometric-median", {"iterations": 1.5})}, "whole number"),
        ({"rule": Stage("geometric-median", {"iterations": 0})}, "between 1 and 1000"),
        ({"before": [Stage("static-clipping", {"radius": -1})]}, "between"),
        ({"rule": "weighted-mean", "before": ["nnm"]}, "are mixed before it"),
        ({"rule": "weighted-mean", "before": ["bucketing"]}, "are mixed before it"),
        ({"filters": ["root-cosine"]}, "go together"),
        ({"root_device": "0f" * 16}, "go together"),
        ({"before": ["quantile-clipping"]}, "belongs to gaussian noise"),
        ({"server_optimiser": Stage("adam")}, "There is no server optimiser"),
        ({"noise": Stage("laplace")}, "There is no noise"),
    ],
    ids=str,
)
def test_parts_that_do_not_hold_together_are_refused(options, because):
    assert_refused(because, **options)


PRIVATE = {"rule": "mean", "before": ["static-clipping"], "noise": Stage("gaussian")}


@pytest.mark.parametrize(
    "options",
    [
        {"filters": ["norm-bound"]},
        {"before": []},
        {"before": ["median-clipping"]},
        {"before": ["static-clipping", "nnm"]},
        {"rule": "median"},
        {"rule": "weighted-mean"},
        {"history": 0.9},
        {"before": [Stage("quantile-clipping", {"count_noise": 0.4})]},
    ],
    ids=str,
)
def test_what_would_void_the_accounting_is_refused(options):
    Pipeline.of(policy(**PRIVATE))
    assert_refused("Differential privacy is accounted for", **(PRIVATE | options))


@pytest.mark.parametrize("registry", [FILTERS, PRE_AGGREGATIONS, RULES, SERVER_OPTIMISERS, NOISES])
def test_every_part_names_its_paper_and_survives_its_stage(registry):
    for name, part in registry.items():
        assert len(part.source) > 15
        assert registry.make(part().stage()) == part()
        assert part().stage().name == name


def test_the_filters_leave_too_few_rather_than_stand_fewer_attackers_than_claimed():
    updates = updates_of("honest", 8, 0, columns=50)
    updates[:3] *= 100
    claimed = policy("median", filters=["norm-bound"], fraction=0.4, minimum=3)
    with pytest.raises(Refusal) as caught:
        Aggregator(claimed).aggregate(updates)
    assert caught.value.code == "too-few-updates"


def test_the_root_device_decides_who_stays_and_enters_no_model():
    updates = updates_of("honest", 6, 0, columns=500)
    updates[:4] *= -1  # a majority turned round, which no consensus would notice
    named = policy("mean", filters=["root-cosine"], minimum=3, root_device="0f" * 16)
    more = np.concatenate((updates, updates_of("honest", 4, 0, columns=500)))
    aggregate, decision = Aggregator(named).aggregate(more)
    assert decision.kept == [4, 5, 6, 7, 8]
    np.testing.assert_allclose(aggregate, more[4:9].mean(axis=0), rtol=1e-4, atol=1e-5)
