import json

import pytest

from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal

DEFAULT = AggregationPolicy()


def assert_refused(action):
    with pytest.raises(Refusal) as caught:
        action()
    assert caught.value.code == "policy-refused"


def test_a_policy_survives_its_map_and_json_with_the_same_digest():
    policy = AggregationPolicy(minimum_updates=5, required_protections=("landlock", "seccomp"))
    again = AggregationPolicy.from_map(json.loads(json.dumps(policy.to_map())))
    assert again == policy
    assert again.digest() == policy.digest()
    assert len(policy.digest()) == 64


def test_a_whole_number_where_a_float_is_meant_is_the_same_policy():
    assert AggregationPolicy(maximum_norm_ratio=3).digest() == AggregationPolicy(maximum_norm_ratio=3.0).digest()


@pytest.mark.parametrize(
    "member, value",
    [
        ("minimum_updates", 4),
        ("maximum_norm_ratio", 2.5),
        ("minimum_cosine", 0.1),
        ("maximum_sample_count", 5),
        ("maximum_update_bytes", 5000),
        ("maximum_memory_bytes", 1 << 30),
        ("required_protections", ["seccomp"]),
    ],
)
def test_every_member_changes_the_digest(member, value):
    assert AggregationPolicy.from_map(DEFAULT.to_map() | {member: value}).digest() != DEFAULT.digest()


@pytest.mark.parametrize(
    "member, value",
    [
        ("minimum_updates", 2),
        ("minimum_updates", 0),
        ("minimum_updates", True),
        ("minimum_updates", 3.0),
        ("minimum_updates", "3"),
        ("rule", "median"),
        ("rule", None),
        ("maximum_norm_ratio", 0.5),
        ("maximum_norm_ratio", float("nan")),
        ("maximum_norm_ratio", float("inf")),
        ("maximum_norm_ratio", None),
        ("minimum_cosine", -1.5),
        ("minimum_cosine", 1.0),
        ("minimum_cosine", True),
        ("maximum_sample_count", 0),
        ("maximum_sample_count", 10**12),
        ("maximum_update_bytes", 1),
        ("maximum_memory_bytes", 1),
        ("required_protections", "seccomp"),
        ("required_protections", ["moat"]),
        ("required_protections", ["seccomp", "landlock"]),
        ("required_protections", ["seccomp", "seccomp"]),
    ],
)
def test_a_value_out_of_range_is_refused(member, value):
    assert_refused(lambda: AggregationPolicy.from_map(DEFAULT.to_map() | {member: value}))


@pytest.mark.parametrize("value", [None, [], {}, DEFAULT.to_map() | {"more": 1}])
def test_a_map_with_other_members_is_refused(value):
    assert_refused(lambda: AggregationPolicy.from_map(value))


def test_no_policy_aggregates_fewer_than_three_updates():
    assert_refused(lambda: AggregationPolicy(minimum_updates=2))
