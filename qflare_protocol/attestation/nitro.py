"""The verifier of AWS Nitro Enclaves attestation documents: COSE_Sign1 with ES384 (RFC 9052 section 4.2) over a
CBOR map, as in AWS's "Verifying the Root of Trust" and the Nitro Secure Module API.
"""

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from qflare_protocol.attestation.certificates import (
    MAX_CERTIFICATE_BYTES,
    load_certificate,
    public_key,
    verify_chain,
    verify_ecdsa,
)
from qflare_protocol.attestation.layout import CODE, refuse, require
from qflare_protocol.attestation.platform import PlatformReport
from qflare_protocol.attestation.roots import AWS_ROOTS
from qflare_protocol.encoding import decode_unordered, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_map, short_text, whole_number

NITRO = "nitro"
MAX_DOCUMENT_BYTES = 1 << 14

_PROTECTED = bytes.fromhex("a1013822")  # {1: -35}, alg ES384
_MEMBERS = frozenset(
    {
        "module_id",
        "digest",
        "timestamp",
        "pcrs",
        "certificate",
        "cabundle",
        "public_key",
        "user_data",
        "nonce",
    }
)
_PCR_BYTES = 48  # of SHA-384, the only digest there is
_MAX_PCRS = 24


def verify_nitro(evidence: bytes, at: int | None = None, roots: Mapping[bytes, str] = AWS_ROOTS) -> PlatformReport:
    """Return what a Nitro enclave vouches for; its `report_data` is the document's `user_data`, empty without one.

    `at` is in Unix seconds, by default the document's own time: its certificate lives for hours. The
    caller judges the age by `made_at`. Raises `Refusal("evidence-refused")`.
    """
    payload, signature, signed = _signed_parts(evidence)
    document = _document(payload)
    leaf = load_certificate(document["certificate"])
    verify_ecdsa(public_key(leaf), ec.SECP384R1, signature, signed)
    made_at = document["timestamp"] // 1000  # stated in milliseconds
    chain = [document["certificate"], *reversed(document["cabundle"])]
    verify_chain(chain, roots, made_at if at is None else at)
    registers = {f"PCR{index}": value for index, value in sorted(document["pcrs"].items())}
    require(any(registers.get("PCR0", b"")), "The enclave runs in debug mode: its host can read its console.")
    return PlatformReport(NITRO, document["user_data"] or b"", registers, made_at=made_at)


def _signed_parts(evidence: bytes) -> tuple[bytes, bytes, bytes]:
    """Return payload, signature, and the bytes that are signed."""
    parts = _decoded(evidence, "attestation document")
    well_formed = isinstance(parts, list) and len(parts) == 4 and parts[0] == _PROTECTED and parts[1] == {}
    require(well_formed, "An attestation document is a COSE_Sign1 array with ES384 and no unprotected header.")
    payload, signature = parts[2:]
    require(isinstance(payload, bytes) and isinstance(signature, bytes), "The members of COSE_Sign1 are byte strings.")
    return payload, signature, encode(["Signature1", _PROTECTED, b"", payload])


def _document(payload: bytes) -> Mapping[str, Any]:
    document = exact_map(_decoded(payload, "attestation document"), _MEMBERS, what="attestation document", code=CODE)
    short_text(document["module_id"], 256, what="module_id of the document", code=CODE)
    require(document["digest"] == "SHA384", "The document's digest is not SHA384.")
    whole_number(document["timestamp"], 1, 1 << 50, what="timestamp of the document", code=CODE)
    _check_registers(document["pcrs"])
    bundle = document["cabundle"]
    require(isinstance(bundle, list) and 1 <= len(bundle) <= 7, "The document's cabundle has no fitting length.")
    for certificate in (document["certificate"], *bundle):
        fits = isinstance(certificate, bytes) and len(certificate) <= MAX_CERTIFICATE_BYTES
        require(fits, "A certificate of the document is not a short byte string.")
    user_data = document["user_data"]
    fits = user_data is None or isinstance(user_data, bytes) and len(user_data) <= 512
    require(fits, "The document's user_data is not a short byte string.")
    return document


def _check_registers(registers: object) -> None:
    if not isinstance(registers, dict) or not 1 <= len(registers) <= _MAX_PCRS:
        refuse("The document's pcrs are no map of registers.")
    for index, value in registers.items():
        whole_number(index, 0, _MAX_PCRS - 1, what="number of a PCR", code=CODE)
        require(isinstance(value, bytes) and len(value) == _PCR_BYTES, f"A PCR has {_PCR_BYTES} bytes.")


def _decoded(data: bytes, what: str) -> Any:
    try:
        return decode_unordered(data, what=what, maximum_bytes=MAX_DOCUMENT_BYTES)
    except Refusal as malformed:
        raise Refusal(CODE, malformed.detail) from malformed
