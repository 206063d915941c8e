"""Certificates for the KME simulator: one authority, its two KMEs, and one certificate for each SAE."""

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CERTIFICATE_LIFETIME = timedelta(days=7)
KME_IDS = ("kme-simulator-1", "kme-simulator-2")
_HOST_NAMES = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


@dataclass(frozen=True)
class SimulatorFiles:
    """Where the PEM files of the simulator lie; a file is named for the KME or SAE it belongs to."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.directory / "ca.pem"

    def certificate(self, name: str) -> Path:
        """The certificate of a KME or an SAE."""
        return self.directory / f"{name}.pem"

    def private_key(self, name: str) -> Path:
        """The private key of a KME or an SAE, mode 0600."""
        return self.directory / f"{name}.key"


@dataclass(frozen=True)
class _Issuer:
    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    not_before: datetime
    not_after: datetime


def make_certificates(
    directory: Path, sae_ids: Iterable[str], *, now: datetime, lifetime: timedelta = CERTIFICATE_LIFETIME
) -> SimulatorFiles:
    """Write the authority, the KMEs and every SAE into the folder, in place of what a former run left there.

    The authority's private key is not kept. Raises `ValueError` for an SAE id that is not 1 to 64
    letters, digits, dots, dashes and underscores: it becomes a file's name and a certificate's.
    """
    files = SimulatorFiles(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    # One hour back: a device's clock may be behind.
    issuer = _Issuer(_named("QFLARE KME simulator"), key, now - timedelta(hours=1), now + lifetime)
    authority = _builder(issuer, issuer.name, key).add_extension(x509.BasicConstraints(True, 0), critical=True)
    _write(files.ca, _pem(authority.sign(key, hashes.SHA256())))
    for kme_id in KME_IDS:
        _issue(files, issuer, kme_id, ExtendedKeyUsageOID.SERVER_AUTH, _HOST_NAMES)
    for sae_id in sae_ids:
        if not 1 <= len(sae_id) <= 64 or not sae_id.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ValueError(f"{sae_id!r} cannot be an SAE of the simulator: letters, digits, dots, dashes, 1 to 64.")
        _issue(files, issuer, sae_id, ExtendedKeyUsageOID.CLIENT_AUTH, ())
    return files


def _issue(
    files: SimulatorFiles,
    issuer: _Issuer,
    name: str,
    usage: x509.ObjectIdentifier,
    host_names: tuple[x509.GeneralName, ...],
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(issuer, _named(name), key)
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if host_names:
        builder = builder.add_extension(x509.SubjectAlternativeName(host_names), critical=False)
    _write(files.certificate(name), _pem(builder.sign(issuer.key, hashes.SHA256())))
    _write(files.private_key(name), _private_pem(key))


def _builder(issuer: _Issuer, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.name).public_key(key.public_key())
    builder = builder.not_valid_before(issuer.not_before).not_valid_after(issuer.not_after)
    return builder.serial_number(x509.random_serial_number())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    """Write the file with mode 0600; it never exists with another one."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
