"""What serves each algorithm in this process, for the console and the commands `pqc_status`."""

from collections.abc import Iterable
from dataclasses import dataclass

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import registry
from qflare_protocol.pqc.algorithms import KEMS, SIGNATURES, KemParameters
from qflare_protocol.pqc.interface import EngineUnavailable, KemAlgorithm, SignatureAlgorithm


@dataclass(frozen=True)
class CandidateStatus:
    """One engine that may serve an algorithm; `reason` says why it cannot, or is None where it has it."""

    engine: str
    reason: str | None


@dataclass(frozen=True)
class EngineStatus:
    """One algorithm: its engine and the engine's version, sizes in bytes, and the self-test's outcome.

    `output_bytes` is the size of a ciphertext or a signature; `shared_secret_bytes` is None for a
    signature scheme. `engine` and `version` are empty where no engine is here. `failure` is None where
    the self-test passed, else the sentence that says why not.
    """

    algorithm: str
    kind: str
    engine: str
    version: str
    private_key_bytes: int
    public_key_bytes: int
    output_bytes: int
    shared_secret_bytes: int | None
    candidates: tuple[CandidateStatus, ...]
    failure: str | None

    @property
    def self_test_passed(self) -> bool:
        """Whether the engine may serve the algorithm."""
        return self.failure is None


ALGORITHMS = (*KEMS, *SIGNATURES)
"""The names of all algorithms, KEMs first."""


def engine_status(names: Iterable[str] = ALGORITHMS) -> list[EngineStatus]:
    """Return one row for each of the algorithms; a self-test that this process has passed is not run again."""
    return [_row(name) for name in names]


def _row(name: str) -> EngineStatus:
    parameters = KEMS.get(name) or SIGNATURES[name]
    engine = _serving_engine(name)
    return EngineStatus(
        algorithm=name,
        kind="kem" if isinstance(parameters, KemParameters) else "signature",
        engine=engine,
        version=registry.engine_version(engine) or "" if engine else "",
        private_key_bytes=parameters.private_key_bytes,
        public_key_bytes=parameters.public_key_bytes,
        output_bytes=parameters.ciphertext_bytes
        if isinstance(parameters, KemParameters)
        else parameters.signature_bytes,
        shared_secret_bytes=parameters.shared_secret_bytes if isinstance(parameters, KemParameters) else None,
        candidates=_candidates(name),
        failure=registry.failure_of(name),
    )


def _serving_engine(name: str) -> str:
    try:
        algorithm: KemAlgorithm | SignatureAlgorithm = (
            registry.untested_kem(name) if name in KEMS else registry.untested_signature(name)
        )
    except Refusal:
        return ""
    return algorithm.engine


def _candidates(name: str) -> tuple[CandidateStatus, ...]:
    return tuple(CandidateStatus(engine, _absence(engine, name)) for engine in registry.CANDIDATES[name])


def _absence(engine: str, name: str) -> str | None:
    try:
        if name in KEMS:
            registry.kem_by(engine, name)
        else:
            registry.signature_by(engine, name)
    except EngineUnavailable as reason:
        return str(reason)
    return None
