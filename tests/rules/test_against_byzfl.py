"""Every rule that byzfl has too gives what byzfl gives, over honest, clustered and adversarial updates."""

import numpy as np
import pytest

from enclave.core.rules.in_memory import Aggregator
from enclave.core.rules.linear_rules import weiszfeld
from enclave.core.rules.pre_aggregation import StaticClipping
from enclave.core.rules.span import Span
from qflare_protocol.aggregation_policy import Stage
from tests.policies import bare
from tests.rules import byzfl_oracle
from tests.rules.updates import KINDS, updates_of

TOLERANCE = 1e-5
SIZES = ((11, 2), (20, 6), pytest.param((25, 5), marks=pytest.mark.slow))


def ours(updates, attackers, rule="mean", *before):
    """Return the pipeline's aggregate of the updates."""
    fraction = (attackers + 0.5) / len(updates)
    policy = bare(
        minimum_updates=len(updates),
        tolerated_fraction=fraction if rule != "mean" else 0.0,
        pre_aggregation=before,
        rule=Stage(rule) if isinstance(rule, str) else rule,
    )
    return Aggregator(policy).aggregate(updates, seed=bytes(32))[0]


def assert_agree(mine, theirs, where=slice(None)):
    scale = np.linalg.norm(theirs)
    assert np.linalg.norm((np.asarray(mine, dtype=np.float64) - theirs)[where]) <= TOLERANCE * scale


def without_near_ties(rule, rows, attackers):
    """Return the coordinates where float32 and float64 choose the same values.

    Of two values on either side of the median and equally far off, meamed keeps one: which is a matter of rounding.
    """
    if rule != "meamed":
        return slice(None)
    offsets = rows - np.median(rows, axis=0)
    order = np.argsort(np.abs(offsets), axis=0)
    last_kept, first_dropped = np.take_along_axis(offsets, order, axis=0)[[-attackers - 1, -attackers]]
    rounding = np.finfo(np.float32).eps * np.abs(rows).max(axis=0)
    clear = (last_kept * first_dropped >= 0) | (np.abs(first_dropped) - np.abs(last_kept) > rounding)
    assert clear.mean() > 0.95
    return clear


@pytest.fixture(params=SIZES, ids=lambda size: f"n={size[0]}, f={size[1]}")
def size(request):
    return request.param


@pytest.fixture(params=KINDS)
def updates(request, size):
    return updates_of(request.param, *size)


RULES = {
    "mean": lambda byzfl, f: byzfl.Average(),
    "median": lambda byzfl, f: byzfl.Median(),
    "trimmed-mean": lambda byzfl, f: byzfl.TrMean(f),
    "meamed": lambda byzfl, f: byzfl.Meamed(f),
    "krum": lambda byzfl, f: byzfl.Krum(f),
    "multi-krum": lambda byzfl, f: byzfl.MultiKrum(f),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_alone(rule, updates, size):
    theirs = RULES[rule](byzfl_oracle.aggregators(), size[1])(updates.astype(np.float64))
    assert_agree(ours(updates, size[1], rule), theirs)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "mean"])
def test_a_rule_after_nearest_neighbour_mixing(rule, updates, size):
    mixed = byzfl_oracle.pre_aggregators().NNM(size[1])(updates.astype(np.float64))
    theirs = RULES[rule](byzfl_oracle.aggregators(), size[1])(mixed)
    assert_agree(ours(updates, size[1], rule, Stage("nnm")), theirs, without_near_ties(rule, mixed, size[1]))


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum"])
def test_a_rule_after_adaptive_clipping(rule, updates, size):
    clipped = byzfl_oracle.pre_aggregators().ARC(size[1])(updates.astype(np.float64))
    theirs = RULES[rule](byzfl_oracle.aggregators(), size[1])(clipped)
    assert_agree(ours(updates, size[1], rule, Stage("adaptive-clipping")), theirs)


def test_adaptive_clipping_and_mixing_together(updates, size):
    byzfl = byzfl_oracle.pre_aggregators()
    mixed = byzfl.NNM(size[1])(byzfl.ARC(size[1])(updates.astype(np.float64)))
    theirs = byzfl_oracle.aggregators().TrMean(size[1])(mixed)
    before = (Stage("adaptive-clipping"), Stage("nnm"))
    assert_agree(ours(updates, size[1], "trimmed-mean", *before), theirs)


def test_static_clipping_before_the_mean(updates):
    radius = float(np.median(np.linalg.norm(updates, axis=1)))
    clipped = byzfl_oracle.pre_aggregators().Clipping(radius)(updates.astype(np.float64))
    assert_agree(ours(updates, 0, "mean", Stage("static-clipping", {"radius": radius})), clipped.mean(axis=0))


def test_the_smoothed_geometric_median(updates):
    theirs = byzfl_oracle.aggregators().GeometricMedian(nu=0.1, T=3)(updates.astype(np.float64))
    exact = updates.astype(np.float64)
    weights = weiszfeld(Span.of_gram(exact @ exact.T), 0.1, 3)
    assert_agree(weights @ exact, theirs)


def test_centered_clipping_from_the_origin(updates):
    radius = float(np.median(np.linalg.norm(updates, axis=1))) / 2
    theirs = byzfl_oracle.aggregators().CenteredClipping(L=3, tau=radius)(updates.astype(np.float64))
    rule = Stage("centered-clipping", {"absolute_radius": radius, "iterations": 3})
    assert_agree(ours(updates, 0, rule), theirs)


def test_centered_clipping_carries_its_centre_as_byzfl_does():
    first, second = updates_of("honest", 12, 2), updates_of("honest", 12, 2) * 2
    theirs = byzfl_oracle.aggregators().CenteredClipping(L=1, tau=5.0)
    theirs(first.astype(np.float64))
    rule = Stage("centered-clipping", {"absolute_radius": 5.0, "iterations": 1})
    mine = Aggregator(bare(rule=rule))
    mine.aggregate(first)
    assert_agree(mine.aggregate(second)[0], theirs(second.astype(np.float64)))


def test_clipping_is_by_the_norm_alone():
    rows = Span.of_gram(np.diag([4.0, 0.25, 0.0]))
    assert StaticClipping(radius=1.0).weights(rows, 0, b"").tolist() == np.diag([0.5, 1.0, 1.0]).tolist()
