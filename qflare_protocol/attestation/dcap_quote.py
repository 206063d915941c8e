"""The layout of Intel DCAP quotes: version 3 (SGX), 4 (SGX, TDX 1.0) and 5 (SGX, TDX 1.0 and 1.5)
(Intel SGX ECDSA Quote Library API, appendix A; Intel TDX DCAP Quoting Library API, appendix A).
"""

from dataclasses import dataclass

from qflare_protocol.attestation.dcap_bodies import SGX_BODY_BYTES, TDX_10_BODY_BYTES, TDX_15_BODY_BYTES
from qflare_protocol.attestation.layout import FieldReader, refuse, require

SGX_TYPE, TDX_TYPE = 0x00, 0x81
MAX_QUOTE_BYTES = 1 << 14

_ECDSA_P256 = 2
_INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_PCK_CHAIN, _QE_CERTIFICATION = 5, 6
_V5_BODIES = {1: (SGX_TYPE, SGX_BODY_BYTES), 2: (TDX_TYPE, TDX_10_BODY_BYTES), 3: (TDX_TYPE, TDX_15_BODY_BYTES)}
_BODY_BYTES = {(3, SGX_TYPE): SGX_BODY_BYTES, (4, SGX_TYPE): SGX_BODY_BYTES, (4, TDX_TYPE): TDX_10_BODY_BYTES}


@dataclass(frozen=True)
class Quote:
    """A quote taken apart; nothing of it is verified.

    - signed: header and body, what `signature` (64 bytes) by `attestation_key` (x and y, 64 bytes) covers.
    - qe_report: the quoting enclave's SGX report body, signed by the PCK with `qe_signature`.
    - qe_authentication: what the quoting enclave hashed beside the attestation key.
    - pck_chain: certificates in PEM, leaf first.
    """

    version: int
    tee_type: int
    body: bytes
    signed: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_signature: bytes
    qe_authentication: bytes
    pck_chain: bytes


def parse_quote(data: bytes) -> Quote:
    """Read a quote that is all of the data. Raises `Refusal("evidence-refused")`."""
    require(len(data) <= MAX_QUOTE_BYTES, f"A quote is longer than {MAX_QUOTE_BYTES} bytes.")
    reader = FieldReader(data, "quote")
    version, tee_type, body = _signed_part(reader)
    signed = data[: reader.position]
    section = FieldReader(reader.take(reader.number(4)), "signature section of the quote")
    reader.end()
    signature, attestation_key = section.take(64), section.take(64)
    certification = section
    if version >= 4:
        certification = _nested(section, _QE_CERTIFICATION)
        section.end()
    qe_report, qe_signature = certification.take(SGX_BODY_BYTES), certification.take(64)
    qe_authentication = certification.take(certification.number(2))
    pck_chain = _certification_data(certification, _PCK_CHAIN)
    certification.end()
    return Quote(
        version, tee_type, body, signed, signature, attestation_key,
        qe_report, qe_signature, qe_authentication, pck_chain,
    )  # fmt: skip


def without_padding(data: bytes) -> bytes:
    """Return a quote without the zero bytes that some platforms put behind it. Raises `Refusal("evidence-refused")`."""
    reader = FieldReader(data, "quote")
    _signed_part(reader)
    reader.take(reader.number(4))
    end = reader.position
    require(not any(data[end:]), "The quote is followed by other bytes.")
    return data[:end]


def _signed_part(reader: FieldReader) -> tuple[int, int, bytes]:
    """Return version, TEE type and body."""
    version, key_type, tee_type = reader.number(2), reader.number(2), reader.number(4)
    require(version in (3, 4, 5), f"Quotes of version {version} are not known here.")
    require(key_type == _ECDSA_P256, "The attestation key of the quote is not of ECDSA P-256.")
    if tee_type == TDX_TYPE:
        reader.reserved(4)
    elif tee_type == SGX_TYPE:
        reader.take(4)  # QE_SVN, PCE_SVN
    else:
        refuse("The quote is of neither SGX nor TDX.")
    require(reader.take(16) == _INTEL_QE, "The quote was not made by Intel's quoting enclave.")
    reader.take(20)  # user data: an id of the platform
    return version, tee_type, reader.take(_body_bytes(reader, version, tee_type))


def _body_bytes(reader: FieldReader, version: int, tee_type: int) -> int:
    if version < 5:
        if (version, tee_type) not in _BODY_BYTES:
            refuse(f"A quote of version {version} is not of TDX.")
        return _BODY_BYTES[version, tee_type]
    kind, length = reader.number(2), reader.number(4)
    require(_V5_BODIES.get(kind) == (tee_type, length), "The quote states a body of a wrong type or length.")
    return length


def _certification_data(reader: FieldReader, expected: int) -> bytes:
    kind, length = reader.number(2), reader.number(4)
    require(kind == expected, f"The certification data of the quote are of type {kind}, not {expected}.")
    return reader.take(length)


def _nested(reader: FieldReader, expected: int) -> FieldReader:
    return FieldReader(_certification_data(reader, expected), "certification data of the quote")
