"""The key pairs a device makes for itself and registers: one KEM and one signature key per suite."""

from dataclasses import dataclass

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, Verifier, key_fingerprint
from qflare_protocol.pqc import KeyPair
from qflare_protocol.suites import suite_by_name


@dataclass(frozen=True)
class DeviceKeys:
    """A device's private keys for one suite; they never leave the device."""

    suite: str
    kem: KeyPair
    signer: Signer


def generate_device_keypair(suite: str) -> DeviceKeys:
    """Make the KEM and signature key pairs of a suite. Raises `Refusal("suite-refused")`."""
    row = suite_by_name(suite)
    signing = pqc.signature(row.signature).generate()
    return DeviceKeys(
        suite, pqc.kem(row.registered_kem).generate(), Signer(row.signature, signing.private, signing.public)
    )


@dataclass(frozen=True)
class RegisteredKeys:
    """The public keys of a device as the server knows them; lengths are checked on creation."""

    suite: str
    kem_public: bytes
    signature_public: bytes

    def __post_init__(self) -> None:
        row = suite_by_name(self.suite)
        pqc.kem(row.registered_kem).check_public_key(self.kem_public)
        pqc.signature(row.signature).check_public_key(self.signature_public)

    @property
    def verifier(self) -> Verifier:
        """The key that checks this device's signatures."""
        return Verifier(suite_by_name(self.suite).signature, self.signature_public)

    @property
    def kem_fingerprint(self) -> bytes:
        """The 32-byte fingerprint of the registered KEM key."""
        return key_fingerprint(suite_by_name(self.suite).registered_kem, self.kem_public)
