"""Remote attestation of the enclave in the words of RFC 9334: evidence, verifier, appraisal."""

from qflare_protocol.attestation.appraisal import Appraisal, AppraisalPolicy, appraise
from qflare_protocol.attestation.evidence import EnclaveClaims, enclave_key_id, sign_software_evidence

__all__ = ["Appraisal", "AppraisalPolicy", "EnclaveClaims", "appraise", "enclave_key_id", "sign_software_evidence"]
