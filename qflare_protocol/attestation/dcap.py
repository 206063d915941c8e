"""The verifier of Intel DCAP quotes: body, attestation key, quoting enclave, PCK chain to Intel's root.

What it cannot tell is whether the platform's TCB is up to date: see `dcap_collateral`.
"""

import hashlib
import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec

from qflare_protocol.attestation.certificates import common_name, public_key, verify_chain, verify_ecdsa
from qflare_protocol.attestation.dcap_bodies import SgxBody, parse_sgx_body, parse_tdx_body
from qflare_protocol.attestation.dcap_quote import SGX_TYPE, TDX_TYPE, Quote, parse_quote
from qflare_protocol.attestation.layout import refuse, require
from qflare_protocol.attestation.platform import PlatformReport
from qflare_protocol.attestation.roots import INTEL_ROOTS

SGX, TDX = "sgx", "tdx"

_QUOTING_ENCLAVES = {
    SGX_TYPE: (bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"), 1),
    TDX_TYPE: (bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"), 2),
}
"""MRSIGNER and ISVPRODID of Intel's quoting enclaves, as its signed QE identities state them.

Without this any enclave on a genuine platform that gets itself a PCK signature could sign quotes.
"""

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)-----END CERTIFICATE-----\n?")
_LEAF_NAME = "Intel SGX PCK Certificate"


def verify_quote(evidence: bytes, at: int, roots: Mapping[bytes, str] = INTEL_ROOTS) -> PlatformReport:
    """Return what an SGX enclave or a TDX trust domain vouches for, `at` in Unix seconds.

    Raises `Refusal("evidence-refused")`.
    """
    quote = parse_quote(evidence)
    report = _report(quote)
    verify_ecdsa(_attestation_key(quote), ec.SECP256R1, quote.signature, quote.signed)
    _require_quoting_enclave(quote, parse_sgx_body(quote.qe_report))
    certificates, _ = verify_chain(pem_chain(quote.pck_chain), roots, at)
    require(common_name(certificates[0]) == _LEAF_NAME, "The quoting enclave is not certified by a PCK.")
    verify_ecdsa(public_key(certificates[0]), ec.SECP256R1, quote.qe_signature, quote.qe_report)
    return report


def pem_chain(data: bytes) -> list[bytes]:
    """Return the DER certificates of a PEM chain, which Intel ends with a zero byte or not.

    Raises `Refusal("evidence-refused")` where anything else stands between or behind them.
    """
    text, chain = data.removesuffix(b"\0"), []
    while text:
        block = _PEM.match(text)
        if block is None:
            refuse("The certificate chain of the quote cannot be read.")
        try:
            chain.append(a2b_base64(block[1].replace(b"\n", b""), strict_mode=True))
        except Base64Error:
            refuse("The certificate chain of the quote cannot be read.")
        text = text[block.end() :]
    return chain


def _report(quote: Quote) -> PlatformReport:
    if quote.tee_type == SGX_TYPE:
        enclave = parse_sgx_body(quote.body)
        return PlatformReport(
            SGX, enclave.report_data, {"MRENCLAVE": enclave.mr_enclave, "MRSIGNER": enclave.mr_signer}
        )
    domain = parse_tdx_body(quote.body)
    registers = {"MRTD": domain.mr_td} | {f"RTMR{index}": value for index, value in enumerate(domain.rtmrs)}
    return PlatformReport(TDX, domain.report_data, registers)


def _attestation_key(quote: Quote) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + quote.attestation_key)
    except ValueError:
        refuse("The attestation key of the quote is not a point of P-256.")


def _require_quoting_enclave(quote: Quote, enclave: SgxBody) -> None:
    identity = enclave.mr_signer, enclave.product_id
    require(identity == _QUOTING_ENCLAVES[quote.tee_type], "The quote was not made by Intel's quoting enclave.")
    bound = hashlib.sha256(quote.attestation_key + quote.qe_authentication).digest() + bytes(32)
    require(bound == enclave.report_data, "The quoting enclave does not vouch for the attestation key.")
