"""What evidence of each attester leaves open: said to whoever relies on it, in console, API and appraisal."""

from qflare_protocol.attestation.roots import CLASSICAL_REASON

SOFTWARE_REASON = "Software evidence: whoever is root on the enclave host can forge it and read its memory."

_CONFIDENTIAL_VM = (
    "It covers what was launched, not what the guest loaded afterwards from a disk that the measurement does not bind."
)
_OPEN: dict[str, tuple[str, ...]] = {
    "software": (SOFTWARE_REASON,),
    "sev-snp": (
        _CONFIDENTIAL_VM,
        "It does not protect against AMD, against physical attacks on the memory bus, or against side channels.",
        CLASSICAL_REASON,
    ),
    "tdx": (
        _CONFIDENTIAL_VM,
        "It does not protect against Intel, against physical attacks on the memory bus, or against side channels.",
        CLASSICAL_REASON,
    ),
    "sgx": (
        "It does not protect against Intel, against physical attacks on the memory bus, or against side channels; "
        "Gramine keeps none of the kernel's own protections around the process.",
        CLASSICAL_REASON,
    ),
    "nitro": (
        "It does not protect against AWS, which makes the hardware, runs the hypervisor and signs the document.",
        CLASSICAL_REASON,
    ),
}


def left_open(attester: str) -> tuple[str, ...]:
    """Return the sentences for an attester; for an unknown one, that nothing is known of it."""
    return _OPEN.get(attester, (f"Nothing is known here of the attester {attester}.",))
