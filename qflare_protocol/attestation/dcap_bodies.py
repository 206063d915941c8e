"""The layouts of what Intel quotes are about: SGX enclave reports and TDX reports 1.0 and 1.5
(Intel SGX SDK, sgx_report.h; Intel TDX DCAP Quoting Library API, appendix A.3).
"""

from dataclasses import dataclass

from qflare_protocol.attestation.layout import FieldReader, require

SGX_BODY_BYTES, TDX_10_BODY_BYTES, TDX_15_BODY_BYTES = 384, 584, 648

_SGX_INIT, _SGX_DEBUG = 1 << 0, 1 << 1
_TD_UNTRUSTED = 0xFF  # the group TUD, whose bit 0 is DEBUG
_TD_MIGRATABLE = 1 << 29
_TD_KNOWN = 0xFF | 1 << 16 | 0b11111 << 27 | 0b11 << 62  # ICSSD; LASS to KL; TPA, PERFMON


@dataclass(frozen=True)
class SgxBody:
    """The fields of an SGX report body (384 bytes) that a verifier uses."""

    mr_enclave: bytes
    mr_signer: bytes
    product_id: int
    report_data: bytes


@dataclass(frozen=True)
class TdxBody:
    """The fields of a TDX report body (584 or 648 bytes) that a verifier uses; `rtmrs` are four of 48 bytes."""

    mr_td: bytes
    rtmrs: tuple[bytes, ...]
    report_data: bytes


def parse_sgx_body(data: bytes) -> SgxBody:
    """Read an SGX report body. Raises `Refusal("evidence-refused")`, for a debug enclave too."""
    reader = FieldReader(data, "SGX report body")
    reader.take(20)  # CPUSVN, MISCSELECT
    reader.reserved(12)
    reader.take(16)  # ISVEXTPRODID
    flags = reader.number(8)
    require(flags & _SGX_DEBUG == 0, "The enclave may be debugged: its host can read all of its memory.")
    require(flags & _SGX_INIT != 0, "The enclave of the quote was never initialised.")
    reader.take(8)  # XFRM
    mr_enclave = reader.take(32)
    reader.reserved(32)
    mr_signer = reader.take(32)
    reader.reserved(32)
    reader.take(64)  # CONFIGID
    product_id = reader.number(2)
    reader.take(4)  # ISVSVN, CONFIGSVN
    reader.reserved(42)
    reader.take(16)  # ISVFAMILYID
    report_data = reader.take(64)
    reader.end()
    return SgxBody(mr_enclave, mr_signer, product_id, report_data)


def parse_tdx_body(data: bytes) -> TdxBody:
    """Read a TDX report body, 1.0 or 1.5 by its length. Raises `Refusal("evidence-refused")`, for debug too."""
    reader = FieldReader(data, "TDX report body")
    reader.take(64)  # TEE_TCB_SVN, MRSEAM
    reader.reserved(48)  # MRSIGNERSEAM is zero for Intel's module
    reader.reserved(8)  # SEAMATTRIBUTES
    _check_attributes(reader.number(8))
    reader.take(8)  # XFAM
    mr_td = reader.take(48)
    reader.take(144)  # MRCONFIGID, MROWNER, MROWNERCONFIG
    rtmrs = tuple(reader.take(48) for _ in range(4))
    report_data = reader.take(64)
    if len(data) == TDX_15_BODY_BYTES:
        reader.take(16)  # TEE_TCB_SVN_2
        require(not any(reader.take(48)), "A service domain that nobody appraises is bound to the trust domain.")
    reader.end()
    return TdxBody(mr_td, rtmrs, report_data)


def _check_attributes(attributes: int) -> None:
    require(attributes & _TD_UNTRUSTED == 0, "The trust domain may be debugged: its host can read all of its memory.")
    require(attributes & _TD_MIGRATABLE == 0, "The trust domain may be migrated by a service that nobody appraises.")
    require(attributes & ~_TD_KNOWN == 0, "A reserved attribute of the trust domain is set.")
