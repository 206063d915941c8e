"""Remote attestation of the enclave in the words of RFC 9334: evidence, verifier, appraisal."""

from qflare_protocol.attestation.appraisal import Appraisal, AppraisalPolicy, appraise, attestation_result
from qflare_protocol.attestation.evidence import (
    EnclaveClaims,
    HardwareEvidence,
    enclave_key_id,
    encode_hardware_evidence,
    sign_software_evidence,
)
from qflare_protocol.attestation.pins import PlatformPin

__all__ = [
    "Appraisal",
    "AppraisalPolicy",
    "EnclaveClaims",
    "HardwareEvidence",
    "PlatformPin",
    "appraise",
    "attestation_result",
    "enclave_key_id",
    "encode_hardware_evidence",
    "sign_software_evidence",
]
