"""Which engine serves which algorithm in this process.

Each algorithm has candidates in order of preference. The first one that is here and has the algorithm
serves it, unless the operator names another one (`use_engines`). An engine passes its known-answer
self-test before an algorithm is handed out; one that fails serves nothing, and no other engine steps in
for it, because that would hide a broken or exchanged library.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from typing import TypeVar

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import cryptography_engine, frodo, liboqs_engine, pqcrypto_engine, self_test
from qflare_protocol.pqc.algorithms import KEMS, SIGNATURES
from qflare_protocol.pqc.interface import (
    EngineUnavailable,
    KemAlgorithm,
    KemEngine,
    SignatureAlgorithm,
    SignatureEngine,
)

ENVIRONMENT_VARIABLE = "QFLARE_PQC_ENGINES"
"""Where site and device read the operator's choice, such as `FrodoKEM-640-AES=numpy, ML-KEM-1024=liboqs`."""

CANDIDATES: dict[str, tuple[str, ...]] = {
    "ML-KEM-768": ("cryptography", "liboqs"),
    "ML-KEM-1024": ("cryptography", "liboqs"),
    "FrodoKEM-640-AES": ("liboqs", "numpy"),
    "FrodoKEM-976-AES": ("liboqs", "numpy"),
    "FrodoKEM-1344-AES": ("liboqs", "numpy"),
    "X-Wing": ("cryptography",),
    "MLKEM1024-P384": ("cryptography",),
    "Classic-McEliece-6960119": ("liboqs", "pqcrypto"),
    "ML-DSA-44": ("cryptography", "liboqs"),
    "ML-DSA-65": ("cryptography", "liboqs"),
    "ML-DSA-87": ("cryptography", "liboqs"),
    "SLH-DSA-SHA2-128f": ("liboqs", "pqcrypto"),
}
"""The engines that may serve an algorithm, the preferred one first."""

KEM_NAMES = tuple(KEMS)
SIGNATURE_NAMES = tuple(SIGNATURES)

_choice: dict[str, str] = {}


@dataclass(frozen=True)
class _Library:
    kem: Callable[[str], KemEngine]
    signature: Callable[[str], SignatureEngine]
    version: Callable[[], str | None]


def _no_signatures(name: str) -> SignatureEngine:
    raise EngineUnavailable(f"numpy does not have {name}")


# The functions are looked up at each call: a test can put another library in place of a module's.
_LIBRARIES: dict[str, _Library] = {
    cryptography_engine.ENGINE: _Library(
        lambda name: cryptography_engine.serve_kem(name),
        lambda name: cryptography_engine.serve_signature(name),
        lambda: metadata.version("cryptography"),
    ),
    liboqs_engine.ENGINE: _Library(
        lambda name: liboqs_engine.serve_kem(name),
        lambda name: liboqs_engine.serve_signature(name),
        lambda: liboqs_engine.version(),
    ),
    frodo.ENGINE: _Library(lambda name: frodo.serve_kem(name), _no_signatures, lambda: metadata.version("numpy")),
    pqcrypto_engine.ENGINE: _Library(
        lambda name: pqcrypto_engine.serve_kem(name),
        lambda name: pqcrypto_engine.serve_signature(name),
        lambda: pqcrypto_engine.version(),
    ),
}


def parse_engines(text: str) -> dict[str, str]:
    """Read `ALGORITHM=ENGINE, ALGORITHM=ENGINE`. Raises `ValueError` with a sentence for anything else."""
    choice = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        algorithm, separator, engine = (piece.strip() for piece in part.partition("="))
        if not separator:
            raise ValueError("Must be a comma separated list of ALGORITHM=ENGINE.")
        if algorithm not in CANDIDATES:
            raise ValueError(f"Names the algorithm {algorithm}, which is not one of {', '.join(CANDIDATES)}.")
        if engine not in CANDIDATES[algorithm]:
            candidates = " or ".join(CANDIDATES[algorithm])
            raise ValueError(f"Names the engine {engine} for {algorithm}, which only {candidates} can serve.")
        choice[algorithm] = engine
    return choice


def use_engines(choice: Mapping[str, str]) -> None:
    """Serve these algorithms by these engines from now on, all others by the first candidate that is here.

    The engines are not tried out here: `engine_faults` says which cannot serve, and handing out such an
    algorithm is refused. Raises `ValueError` for an algorithm or engine that is not in `CANDIDATES`.
    """
    checked = parse_engines(", ".join(f"{algorithm}={engine}" for algorithm, engine in choice.items()))
    if checked != _choice:
        _choice.clear()
        _choice.update(checked)
        forget_tests()


def engine_faults() -> dict[str, str]:
    """Return, for each algorithm whose engine the operator named and that cannot serve it, why not."""
    faults = {}
    for name in _choice:
        fault = failure_of(name)
        if fault is not None:
            faults[name] = fault
    return faults


def failure_of(name: str) -> str | None:
    """Return None where the algorithm is served here, else the sentence that says why not."""
    try:
        if name in KEMS:
            kem(name)
        else:
            signature(name)
    except Refusal as refusal:
        return refusal.detail
    return None


def forget_tests() -> None:
    """Have every engine pass its self-test anew before it serves again."""
    kem.cache_clear()
    signature.cache_clear()


@cache
def kem(name: str) -> KemAlgorithm:
    """Return the tested KEM of that name. Raises `Refusal("algorithm-unavailable")` where no engine serves it."""
    algorithm = untested_kem(name)
    self_test.check_kem(algorithm)
    return algorithm


@cache
def signature(name: str) -> SignatureAlgorithm:
    """Return the tested signature scheme of that name. Raises `Refusal("algorithm-unavailable")`."""
    algorithm = untested_signature(name)
    self_test.check_signature(algorithm)
    return algorithm


def untested_kem(name: str) -> KemAlgorithm:
    """Return the KEM before its self-test, by the engine chosen here. Raises `Refusal("algorithm-unavailable")`."""
    if name not in KEMS:
        raise Refusal("algorithm-unavailable", f"No engine here serves the KEM {name}.")
    return _first(name, lambda engine: kem_by(engine, name))


def untested_signature(name: str) -> SignatureAlgorithm:
    """Return the signature scheme before its self-test. Raises `Refusal("algorithm-unavailable")`."""
    if name not in SIGNATURES:
        raise Refusal("algorithm-unavailable", f"No engine here serves the signature scheme {name}.")
    return _first(name, lambda engine: signature_by(engine, name))


def kem_by(engine: str, name: str) -> KemAlgorithm:
    """Return the KEM by one engine, untested. Raises `EngineUnavailable` with the reason."""
    return KemAlgorithm(**asdict(KEMS[name]), implementation=_LIBRARIES[engine].kem(name))


def signature_by(engine: str, name: str) -> SignatureAlgorithm:
    """Return the signature scheme by one engine, untested. Raises `EngineUnavailable` with the reason."""
    return SignatureAlgorithm(**asdict(SIGNATURES[name]), implementation=_LIBRARIES[engine].signature(name))


def engine_version(engine: str) -> str | None:
    """Return the version of an engine's library, or None where it is not here."""
    return _LIBRARIES[engine].version()


_Algorithm = TypeVar("_Algorithm", KemAlgorithm, SignatureAlgorithm)


def _first(name: str, serve: Callable[[str], _Algorithm]) -> _Algorithm:
    reasons = []
    for engine in (_choice[name],) if name in _choice else CANDIDATES[name]:
        try:
            return serve(engine)
        except EngineUnavailable as reason:
            reasons.append(str(reason))
    raise Refusal("algorithm-unavailable", f"No engine here serves {name}: {'; '.join(reasons)}.")
