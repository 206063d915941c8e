"""The suite table: whole sets of algorithms that are offered, chosen and logged by one name.

A suite is never mixed with another; a peer offers suite names and nothing finer
(docs/protocol.md, "Suites").
"""

from dataclasses import dataclass

from qflare_protocol.errors import Refusal


@dataclass(frozen=True)
class Suite:
    """One row of the table. All algorithm names are FIPS or ISO names."""

    name: str
    registered_kem: str
    ephemeral_kem: str
    signature: str
    hash: str = "SHA3-512"
    kdf: str = "HKDF-SHA3-512"
    aead: str = "AES-256-GCM"


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("QF1-F640", registered_kem="FrodoKEM-640-AES", ephemeral_kem="ML-KEM-1024", signature="ML-DSA-44"),
    )
}

DEFAULT_SUITE = "QF1-F640"

DISPLAY_ALIASES = {
    "ML-DSA-44": "ML-DSA-44 (Dilithium2)",
    "ML-KEM-1024": "ML-KEM-1024 (Kyber1024)",
}


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
