"""The suite table: whole sets of algorithms that are offered, chosen and logged by one name.

A suite is never mixed with another; a peer offers suite names and nothing finer
(docs/protocol.md, "Suites").
"""

from collections.abc import Iterable
from dataclasses import dataclass

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import registry
from qflare_protocol.pqc.algorithms import KEMS, SIGNATURES


@dataclass(frozen=True)
class Suite:
    """One row of the table. All algorithm names are FIPS, ISO or IETF names."""

    name: str
    registered_kem: str
    ephemeral_kem: str
    signature: str
    hash: str = "SHA3-512"
    kdf: str = "HKDF-SHA3-512"
    aead: str = "AES-256-GCM"

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The public-key algorithms of the suite, each once."""
        return tuple(dict.fromkeys((self.registered_kem, self.ephemeral_kem, self.signature)))


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("QF1-F640", registered_kem="FrodoKEM-640-AES", ephemeral_kem="ML-KEM-1024", signature="ML-DSA-44"),
        Suite("QF1-K1024", registered_kem="ML-KEM-1024", ephemeral_kem="ML-KEM-1024", signature="ML-DSA-44"),
        Suite("QF1-F976", registered_kem="FrodoKEM-976-AES", ephemeral_kem="ML-KEM-1024", signature="ML-DSA-65"),
        Suite("QF1-F1344", registered_kem="FrodoKEM-1344-AES", ephemeral_kem="ML-KEM-1024", signature="ML-DSA-87"),
        Suite("QF1-H1024", registered_kem="MLKEM1024-P384", ephemeral_kem="X-Wing", signature="ML-DSA-65"),
        Suite("QF1-M", registered_kem="Classic-McEliece-6960119", ephemeral_kem="ML-KEM-1024", signature="ML-DSA-87"),
        Suite("QF1-S", registered_kem="FrodoKEM-640-AES", ephemeral_kem="ML-KEM-1024", signature="SLH-DSA-SHA2-128f"),
    )
}

DEFAULT_SUITE = "QF1-F640"

DEFAULT_SUITES = ("QF1-F640", "QF1-K1024", "QF1-F976", "QF1-F1344", "QF1-H1024")
"""The suites that every installation can serve; the others need an engine that is not always there."""

DISPLAY_ALIASES = {
    "ML-DSA-44": "ML-DSA-44 (Dilithium2)",
    "ML-DSA-65": "ML-DSA-65 (Dilithium3)",
    "ML-DSA-87": "ML-DSA-87 (Dilithium5)",
    "ML-KEM-768": "ML-KEM-768 (Kyber768)",
    "ML-KEM-1024": "ML-KEM-1024 (Kyber1024)",
    "SLH-DSA-SHA2-128f": "SLH-DSA-SHA2-128f (SPHINCS+)",
}

LEAST_BEGIN_BYTES = 64 * 1024
_BEGIN_OVERHEAD_BYTES = 8 * 1024


def suite_by_name(name: object) -> Suite:
    """Return the suite of that name. Raises `Refusal("suite-refused")` for any other value."""
    if not isinstance(name, str) or name not in SUITES:
        raise Refusal("suite-refused", f"The suite is not known here; this peer offers {', '.join(SUITES)}.")
    return SUITES[name]


def choose_suite(offered: object, *, registered: str) -> Suite:
    """Return the device's registered suite when it is among the offered names.

    The registered KEM key fixes the suite, so the server never chooses a weaker one: an offer that
    was cut down on the way is refused. Raises `Refusal("suite-refused")`.
    """
    if not isinstance(offered, list) or not all(isinstance(name, str) for name in offered):
        raise Refusal("malformed-message", "The offered suites must be a list of suite names.")
    if registered not in offered:
        raise Refusal("suite-refused", f"The device is enrolled for {registered}, which it does not offer.")
    return suite_by_name(registered)


def available_suites() -> list[str]:
    """Return the names of the suites whose every algorithm an engine serves here, each engine tested once."""
    unavailable = unavailable_suites()
    return [name for name in SUITES if name not in unavailable]


def unavailable_suites(names: Iterable[str] = tuple(SUITES)) -> dict[str, str]:
    """Return, of these suites, those that cannot be served here, each with a sentence that says why."""
    faults: dict[str, str] = {}
    for name in names:
        if name not in SUITES:
            faults[name] = f"There is no suite {name}; the suites are {', '.join(SUITES)}."
            continue
        sentences = [registry.failure_of(algorithm) for algorithm in SUITES[name].algorithms]
        if any(sentences):
            faults[name] = " ".join(sentence for sentence in sentences if sentence)
    return faults


def largest_begin_bytes(names: Iterable[str]) -> int:
    """Return how large E1 may be where these suites are in use: 64 KiB, or what their largest keys need."""
    sizes = [LEAST_BEGIN_BYTES]
    for suite in (SUITES[name] for name in names if name in SUITES):
        kem, signature = KEMS[suite.registered_kem], SIGNATURES[suite.signature]
        keys = kem.public_key_bytes + signature.public_key_bytes
        sizes.append(keys + signature.signature_bytes + _BEGIN_OVERHEAD_BYTES)
    return max(sizes)
