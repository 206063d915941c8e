"""How many operations a second each algorithm does in this process, for `pqc_status`."""

import time
from collections.abc import Callable

from qflare_protocol.pqc.algorithms import KEMS
from qflare_protocol.pqc.registry import kem, signature

SECONDS_PER_OPERATION = 0.2

_MESSAGE = bytes(1024)


def measure_rates(name: str, *, seconds: float = SECONDS_PER_OPERATION) -> dict[str, float]:
    """Return operations per second by name: keygen, encapsulate, decapsulate, or keygen, sign, verify.

    Each one is run for about so many seconds and at least once, by the engine that serves the algorithm.
    Raises `Refusal("algorithm-unavailable")`.
    """
    operations = _kem_operations(name) if name in KEMS else _signature_operations(name)
    return {operation: _rate(run, seconds) for operation, run in operations.items()}


def _kem_operations(name: str) -> dict[str, Callable[[], object]]:
    algorithm = kem(name)
    pair = algorithm.generate()
    ciphertext = algorithm.encapsulate(pair.public)[1]
    return {
        "keygen": algorithm.generate,
        "encapsulate": lambda: algorithm.encapsulate(pair.public),
        "decapsulate": lambda: algorithm.decapsulate(pair.private, ciphertext),
    }


def _signature_operations(name: str) -> dict[str, Callable[[], object]]:
    algorithm = signature(name)
    pair = algorithm.generate()
    signed = algorithm.sign(pair.private, _MESSAGE)
    return {
        "keygen": algorithm.generate,
        "sign": lambda: algorithm.sign(pair.private, _MESSAGE),
        "verify": lambda: algorithm.verify(pair.public, _MESSAGE, signed),
    }


def _rate(run: Callable[[], object], seconds: float) -> float:
    count, begin = 0, time.perf_counter()
    elapsed = 0.0
    while count == 0 or elapsed < seconds:
        run()
        count += 1
        elapsed = time.perf_counter() - begin
    return count / elapsed
