import itertools

import pytest

from qflare_protocol.aggregation_policy import PROTECTIONS, AggregationPolicy
from qflare_protocol.errors import Refusal
from qflare_protocol.sealing_tier import SEALING_TIERS, missing_protections, sealing_tier, tier_of

ALL = dict.fromkeys(PROTECTIONS, True)


def test_each_tier_holds_all_of_the_one_before_it_and_the_highest_holds_everything():
    for lower, higher in itertools.pairwise(SEALING_TIERS):
        assert lower.protections < higher.protections
    assert SEALING_TIERS[0].protections == set()
    assert SEALING_TIERS[-1].protections == set(PROTECTIONS)


def test_what_a_tier_leaves_open_is_one_sentence():
    for tier in SEALING_TIERS:
        assert tier.not_protected_against.endswith(".")
        assert tier.not_protected_against.count(".") == 1


@pytest.mark.parametrize("tier", SEALING_TIERS, ids=lambda tier: tier.name)
def test_a_process_with_just_a_tiers_protections_is_of_that_tier(tier):
    assert tier_of({name: name in tier.protections for name in PROTECTIONS}) is tier


@pytest.mark.parametrize(
    ("refused", "tier"),
    [
        ((), "full"),
        (("namespaces",), "separate"),
        (("own-uid",), "process"),
        (("landlock", "namespaces"), "process"),
        (("seccomp",), "none"),
        (PROTECTIONS, "none"),
    ],
)
def test_one_refusal_lowers_the_tier(refused, tier):
    assert tier_of(ALL | dict.fromkeys(refused, False)).name == tier


def test_a_protection_that_nothing_is_said_about_is_not_held():
    assert tier_of({}).name == "none"
    assert missing_protections({}, "none", ["seccomp"]) == ["seccomp"]


def test_what_is_missing_for_a_tier_is_named():
    held = ALL | {"namespaces": False, "landlock": False}
    assert missing_protections(held, "full") == ["landlock", "namespaces"]
    assert missing_protections(held, "separate") == ["landlock"]
    assert missing_protections(held, "process") == []
    assert missing_protections(held, "process", ["namespaces"]) == ["namespaces"]


@pytest.mark.parametrize("name", ["moat", "", None, 3, ["full"]])
def test_an_unknown_tier_is_refused_by_the_policy(name):
    for action in (lambda: sealing_tier(name), lambda: AggregationPolicy(required_tier=name)):
        with pytest.raises(Refusal) as caught:
            action()
        assert caught.value.code == "policy-refused"
