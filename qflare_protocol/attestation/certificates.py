"""X.509 chains of hardware vendors, verified to a pinned root at a stated time (RFC 5280 section 6.1)."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID, NameOID

from qflare_protocol.attestation.layout import refuse, require

MAX_CERTIFICATE_BYTES = 8192
MAX_CHAIN = 8

_LAST_MOMENT = 253_402_300_799  # the end of the year 9999; a stated time can lie behind it
_UNDERSTOOD_WHEN_CRITICAL = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})


def fingerprint(der: bytes) -> bytes:
    """Return the SHA-256 of a certificate's DER encoding, by which roots are pinned."""
    return hashlib.sha256(der).digest()


def load_certificate(der: bytes) -> x509.Certificate:
    """Return the parsed certificate. Raises `Refusal("evidence-refused")`."""
    require(len(der) <= MAX_CERTIFICATE_BYTES, f"A certificate is longer than {MAX_CERTIFICATE_BYTES} bytes.")
    try:
        with warnings.catch_warnings():
            # AMD gives every VCEK the serial number 0, which `cryptography` warns of.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return x509.load_der_x509_certificate(der)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        refuse("A certificate cannot be read.")


def verify_chain(chain: Sequence[bytes], roots: Mapping[bytes, str], at: int) -> tuple[list[x509.Certificate], str]:
    """Return the parsed chain and the name of its root.

    `chain` holds DER certificates, leaf first and root last; `roots` maps pinned fingerprints to
    names; `at` is the stated time in Unix seconds. Raises `Refusal("evidence-refused")`.
    """
    require(2 <= len(chain) <= MAX_CHAIN, "The certificate chain has no fitting length.")
    root = roots.get(fingerprint(chain[-1]))
    if root is None:
        refuse("The certificate chain does not end in a root that is pinned here.")
    certificates = [load_certificate(der) for der in chain]
    for depth, certificate in enumerate(certificates):
        _require_valid(certificate, at)
        _require_role(certificate, below=depth - 1)
    for certificate, issuer in zip(certificates, [*certificates[1:], certificates[-1]], strict=True):
        _require_issued(certificate, issuer)
    return certificates, root


def common_name(certificate: x509.Certificate) -> str:
    """Return the subject's one common name. Raises `Refusal("evidence-refused")`."""
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        refuse("The name of a certificate cannot be read.")
    require(len(names) == 1, "A certificate does not have one common name.")
    return str(names[0].value)


def extension_bytes(certificate: x509.Certificate, oid: str) -> bytes | None:
    """Return the raw value of an extension that the library does not know, or None without it."""
    for extension in _extensions(certificate):
        if extension.oid.dotted_string == oid and isinstance(extension.value, x509.UnrecognizedExtension):
            return extension.value.value
    return None


def verify_ecdsa(certificate_key: object, curve: type[ec.EllipticCurve], signature: bytes, signed: bytes) -> None:
    """Verify `signature` (r and s big-endian, as long as the curve's field) with the curve's usual hash.

    `curve` is P-256 (SHA-256) or P-384 (SHA-384). Raises `Refusal("evidence-refused")`.
    """
    if not isinstance(certificate_key, ec.EllipticCurvePublicKey) or not isinstance(certificate_key.curve, curve):
        refuse("A key is not of the curve that its signature needs.")
    half = (certificate_key.curve.key_size + 7) // 8
    require(len(signature) == 2 * half, "A signature has the wrong length.")
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    algorithm = hashes.SHA256() if curve is ec.SECP256R1 else hashes.SHA384()
    try:
        certificate_key.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(algorithm))
    except InvalidSignature:
        refuse("The signature of the evidence does not verify.")


def public_key(certificate: x509.Certificate) -> object:
    """Return a certificate's public key. Raises `Refusal("evidence-refused")`."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        refuse("The key of a certificate cannot be read.")


def _require_valid(certificate: x509.Certificate, at: int) -> None:
    moment = datetime.fromtimestamp(min(at, _LAST_MOMENT), UTC)
    began, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    require(began <= moment <= ends, f"A certificate is not valid at {moment:%Y-%m-%d %H:%M:%S} UTC.")


def _require_role(certificate: x509.Certificate, below: int) -> None:
    """Demand of a leaf (`below` -1) that it is no CA, of the others that they may sign `below` CAs beneath them."""
    values = {type(extension.value): extension.value for extension in _extensions(certificate)}
    constraints: Any = values.get(x509.BasicConstraints)
    usage: Any = values.get(x509.KeyUsage)
    if below < 0:
        require(constraints is None or not constraints.ca, "The chain begins with a certificate of an authority.")
        return
    require(constraints is not None and constraints.ca, "A certificate was issued by one that is no authority.")
    require(constraints.path_length is None or constraints.path_length >= below, "The certificate chain is too long.")
    require(usage is None or usage.key_cert_sign, "A certificate was issued by a key that may not do so.")


def _require_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        refuse("A certificate of the chain was not issued by the next one.")


def _extensions(certificate: x509.Certificate) -> list[x509.Extension[x509.ExtensionType]]:
    try:
        extensions = list(certificate.extensions)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        refuse("The extensions of a certificate cannot be read.")
    unknown = any(extension.critical and extension.oid not in _UNDERSTOOD_WHEN_CRITICAL for extension in extensions)
    require(not unknown, "A certificate has a critical extension that is not understood here.")
    return extensions
