import json

import pytest

from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_protocol.errors import Refusal

DEFAULT = AggregationPolicy()


def assert_refused(action):
    with pytest.raises(Refusal) as caught:
        action()
    assert caught.value.code == "policy-refused"


def test_a_policy_survives_its_map_and_json_with_the_same_digest():
    policy = AggregationPolicy(
        minimum_updates=5,
        pre_aggregation=(Stage("bucketing", {"size": 3}),),
        noise=Stage("gaussian", {"noise_multiplier": 1.5, "expected_cohort": 20}),
        root_device="0f" * 16,
        required_protections=("landlock", "seccomp"),
    )
    again = AggregationPolicy.from_map(json.loads(json.dumps(policy.to_map())))
    assert again == policy
    assert again.digest() == policy.digest()
    assert len(policy.digest()) == 64


def test_a_whole_number_where_a_float_is_meant_is_the_same_policy():
    assert AggregationPolicy(history=0).digest() == AggregationPolicy(history=0.0).digest()


@pytest.mark.parametrize(
    "member, value",
    [
        ("minimum_updates", 4),
        ("tolerated_fraction", 0.1),
        ("pre_aggregation", []),
        ("filters", [{"name": "norm-bound", "parameters": {"ratio": 2.5}}]),
        ("pre_aggregation", [{"name": "nnm", "parameters": {}}]),
        ("rule", {"name": "median", "parameters": {}}),
        ("history", 0.9),
        ("server_optimiser", {"name": "fedadam", "parameters": {}}),
        ("noise", {"name": "gaussian", "parameters": {}}),
        ("root_device", "00" * 16),
        ("maximum_sample_count", 5),
        ("maximum_update_bytes", 5000),
        ("maximum_memory_bytes", 1 << 30),
        ("required_tier", "full"),
        ("required_protections", ["seccomp"]),
        ("ranges", 2),
        ("form", {"name": "bfloat16", "parameters": {}}),
        ("parameters", ["adapter.*"]),
        ("maximum_staleness", 4),
        ("staleness_exponent", 1.0),
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
        ("tolerated_fraction", 0.5),
        ("tolerated_fraction", -0.1),
        ("tolerated_fraction", float("nan")),
        ("rule", "median"),
        ("rule", None),
        ("rule", {"name": "median"}),
        ("rule", {"name": "", "parameters": {}}),
        ("rule", {"name": "median", "parameters": {"a": float("inf")}}),
        ("rule", {"name": "median", "parameters": {"a": True}}),
        ("rule", {"name": "median", "parameters": {"a": "1"}}),
        ("rule", {"name": "median", "parameters": {str(number): 1 for number in range(9)}}),
        ("filters", {"name": "norm-bound", "parameters": {}}),
        ("filters", [{"name": "norm-bound", "parameters": {}}] * 9),
        ("history", 1.0),
        ("history", True),
        ("root_device", "0F" * 16),
        ("root_device", "0f" * 15),
        ("root_device", "mallory"),
        ("root_device", None),
        ("maximum_sample_count", 0),
        ("maximum_sample_count", 10**12),
        ("maximum_update_bytes", 1),
        ("maximum_memory_bytes", 1),
        ("required_protections", "seccomp"),
        ("required_protections", ["moat"]),
        ("required_protections", ["seccomp", "landlock"]),
        ("required_protections", ["seccomp", "seccomp"]),
        ("ranges", 0),
        ("ranges", 1),
        ("ranges", 17),
        ("ranges", True),
        ("ranges", 2.0),
        ("form", {"name": "delta", "parameters": {}}),
        ("form", {"name": "delta"}),
        ("form", "bfloat16"),
        ("parameters", []),
        ("parameters", "adapter.*"),
        ("parameters", ["b", "a"]),
        ("parameters", ["a", "a"]),
        ("parameters", [""]),
        ("parameters", ["a\n"]),
        ("parameters", [1]),
        ("maximum_staleness", 0),
        ("maximum_staleness", 65),
        ("maximum_staleness", True),
        ("staleness_exponent", 0.5),
        ("staleness_exponent", 4.5),
        ("staleness_exponent", -0.1),
        ("staleness_exponent", float("nan")),
        ("parameters", [str(number) for number in range(257)]),
    ],
)
def test_a_value_out_of_range_is_refused(member, value):
    assert_refused(lambda: AggregationPolicy.from_map(DEFAULT.to_map() | {member: value}))


@pytest.mark.parametrize("value", [None, [], {}, DEFAULT.to_map() | {"more": 1}])
def test_a_map_with_other_members_is_refused(value):
    assert_refused(lambda: AggregationPolicy.from_map(value))


def test_no_policy_aggregates_fewer_than_three_updates():
    assert_refused(lambda: AggregationPolicy(minimum_updates=2))
