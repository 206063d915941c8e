"""The warm-up loads what a sealed process could load no more."""

from enclave.core.rules.filters import FILTERS
from enclave.core.rules.linear_rules import RULES
from enclave.core.rules.noise import NOISES
from enclave.core.rules.pre_aggregation import PRE_AGGREGATIONS
from enclave.core.rules.server_optimisers import SERVER_OPTIMISERS
from enclave.core.warmup import every_part, warm_up
from qflare_protocol.pqc import registry


def test_every_signature_scheme_that_is_served_here_is_loaded_before_sealing() -> None:
    registry.forget_tests()
    warm_up()
    before = registry.signature.cache_info()
    served = [name for name in registry.SIGNATURE_NAMES if registry.failure_of(name) is None]
    after = registry.signature.cache_info()
    assert after.hits - before.hits == len(served) == after.currsize


def test_every_registered_part_is_run_before_the_process_is_sealed():
    named = {
        stage.name
        for policy in every_part()
        for stage in (
            *policy.filters, *policy.pre_aggregation, policy.rule, policy.server_optimiser, policy.noise,
        )
    }  # fmt: skip
    assert named == {*FILTERS, *PRE_AGGREGATIONS, *RULES, *SERVER_OPTIMISERS, *NOISES}
