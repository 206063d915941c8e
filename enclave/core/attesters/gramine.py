"""The attester of SGX enclaves under Gramine: the pseudo-files of /dev/attestation.

Gramine makes the quote when its file is opened, from the report data that were written before. So
both are opened when the keys are there, after the sealing: Gramine has neither Landlock nor seccomp
that would forbid it, and the evidence says so.
"""

from pathlib import Path

from enclave.core.attesters.interface import Endorsements, absent
from qflare_protocol.attestation import EnclaveClaims, HardwareEvidence, encode_hardware_evidence
from qflare_protocol.attestation.dcap_quote import without_padding

DEVICE = Path("/dev/attestation")


class GramineAttester:
    """Asks Gramine for a DCAP quote of this enclave."""

    descriptors: frozenset[int] = frozenset()
    ioctl_request: int | None = None

    def __init__(self, endorsements: Endorsements, directory: Path = DEVICE) -> None:
        self._endorsements, self._directory = endorsements, directory
        try:
            kind = (directory / "attestation_type").read_text().strip()
        except OSError as error:
            raise absent(
                f"{directory} cannot be read ({error.strerror}): this is no SGX enclave of Gramine."
            ) from error
        if kind != "dcap":
            raise absent(f'Gramine attests by {kind[:20]!r}; its manifest must say sgx.remote_attestation = "dcap".')

    def attest(self, claims: EnclaveClaims) -> bytes:
        """Return evidence by the platform. Raises `Refusal("enclave-failed")` where Gramine gives no quote."""
        try:
            with (self._directory / "user_report_data").open("wb", buffering=0) as file:
                file.write(claims.report_data)
            quote = (self._directory / "quote").read_bytes()
        except OSError as error:
            raise absent(f"Gramine gives no quote ({error.strerror}).") from error
        given = HardwareEvidence("sgx", without_padding(quote), collateral=self._endorsements.collateral)
        return encode_hardware_evidence(claims, given)
