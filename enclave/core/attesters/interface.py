"""What every attester is, and what an enclave host adds to a platform's evidence."""

from dataclasses import dataclass
from typing import Protocol

from qflare_protocol.attestation import EnclaveClaims
from qflare_protocol.errors import Refusal


@dataclass(frozen=True)
class Endorsements:
    """What an operator laid beside the evidence: DER certificates, leaf first, and Intel's collateral as JSON.

    Neither is secret, and neither needs to be trusted: the vendors signed them.
    """

    certificates: tuple[bytes, ...] = ()
    collateral: bytes | None = None


class Attester(Protocol):
    """Gives evidence of a sealed process's claims."""

    @property
    def descriptors(self) -> frozenset[int]:
        """The open descriptors that have to outlive the sealing."""

    @property
    def ioctl_request(self) -> int | None:
        """The one ioctl request number that the sealed process needs, or None."""

    def attest(self, claims: EnclaveClaims) -> bytes:
        """Return evidence of the claims. Raises `Refusal("enclave-failed")` where the platform gives none."""


def absent(sentence: str) -> Refusal:
    """Return the refusal of a platform that is not there or does not work."""
    return Refusal("enclave-failed", sentence)
