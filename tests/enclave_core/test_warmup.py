"""The warm-up loads what a sealed process could load no more."""

from enclave.core.warmup import warm_up
from qflare_protocol.pqc import registry


def test_every_signature_scheme_that_is_served_here_is_loaded_before_sealing() -> None:
    registry.forget_tests()
    warm_up()
    before = registry.signature.cache_info()
    served = [name for name in registry.SIGNATURE_NAMES if registry.failure_of(name) is None]
    after = registry.signature.cache_info()
    assert after.hits - before.hits == len(served) == after.currsize
