"""The software attester: the enclave host's own ML-DSA-44 key signs the claims."""

from qflare_protocol.attestation import EnclaveClaims, sign_software_evidence
from qflare_protocol.cose import Signer


class SoftwareAttester:
    """Signs in memory; it needs nothing of the kernel."""

    descriptors: frozenset[int] = frozenset()
    ioctl_request: int | None = None

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def attest(self, claims: EnclaveClaims) -> bytes:
        """Return evidence signed by the enclave host's attestation key."""
        return sign_software_evidence(claims, self._signer)
