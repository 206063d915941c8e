"""What serves each algorithm in this process, for the console and `pqc_status`."""

from dataclasses import dataclass
from importlib import metadata

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import liboqs_engine, registry, self_test
from qflare_protocol.pqc.interface import KemAlgorithm, SignatureAlgorithm


@dataclass(frozen=True)
class EngineStatus:
    """One algorithm: its engine and the engine's version, sizes in bytes, and the self-test's outcome.

    `output_bytes` is the size of a ciphertext or a signature; `shared_secret_bytes` is None for a
    signature scheme. `failure` is None where the self-test passed, else the sentence that says why not.
    """

    algorithm: str
    kind: str
    engine: str
    version: str
    private_key_bytes: int
    public_key_bytes: int
    output_bytes: int
    shared_secret_bytes: int | None
    failure: str | None

    @property
    def self_test_passed(self) -> bool:
        """Whether the engine may serve the algorithm."""
        return self.failure is None


def engine_status() -> list[EngineStatus]:
    """Run every self-test anew and return one row for each algorithm, KEMs first."""
    kems = [_kem_row(registry.untested_kem(name)) for name in registry.KEM_NAMES]
    signatures = [_signature_row(registry.untested_signature(name)) for name in registry.SIGNATURE_NAMES]
    return kems + signatures


def _kem_row(kem: KemAlgorithm) -> EngineStatus:
    return EngineStatus(
        algorithm=kem.name,
        kind="kem",
        engine=kem.engine,
        version=_version(kem.engine),
        private_key_bytes=kem.private_key_bytes,
        public_key_bytes=kem.public_key_bytes,
        output_bytes=kem.ciphertext_bytes,
        shared_secret_bytes=kem.shared_secret_bytes,
        failure=_failure(kem),
    )


def _signature_row(signature: SignatureAlgorithm) -> EngineStatus:
    return EngineStatus(
        algorithm=signature.name,
        kind="signature",
        engine=signature.engine,
        version=_version(signature.engine),
        private_key_bytes=signature.private_key_bytes,
        public_key_bytes=signature.public_key_bytes,
        output_bytes=signature.signature_bytes,
        shared_secret_bytes=None,
        failure=_failure(signature),
    )


def _failure(algorithm: KemAlgorithm | SignatureAlgorithm) -> str | None:
    try:
        if isinstance(algorithm, KemAlgorithm):
            self_test.check_kem(algorithm)
        else:
            self_test.check_signature(algorithm)
    except Refusal as refusal:
        return refusal.detail
    return None


def _version(engine: str) -> str:
    """Return the version of the native liboqs, or of the package that has the engine's name."""
    native = liboqs_engine.version() if engine == liboqs_engine.ENGINE else None
    return native or metadata.version(engine)
