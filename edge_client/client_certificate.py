"""The certificate that a device shows where its server's proxy demands mutual TLS; QF/1 itself needs none."""

import argparse
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qflare_protocol.errors import Refusal

# flag without dashes: (environment variable, what it is)
_OPTIONS = {
    "tls_certificate": ("QFLARE_EDGE_TLS_CERTIFICATE", "PEM file of this device's TLS certificate"),
    "tls_private_key": ("QFLARE_EDGE_TLS_PRIVATE_KEY", "PEM file of its private key, mode 0600"),
}


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    private_key: Path

    def load_into(self, context: ssl.SSLContext) -> None:
        """Show this certificate to whoever asks for one. Raises `Refusal("invalid-key")` where the files do not fit."""
        try:
            # An encrypted key would make OpenSSL ask on the terminal; with a password it fails instead.
            context.load_cert_chain(self.certificate, self.private_key, password="")
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            detail = f"{self.certificate} and {self.private_key} are no certificate with its key ({error})."
            raise Refusal("invalid-key", detail) from error


def add_certificate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `client_certificate`; each can stand in the environment instead."""
    group = parser.add_argument_group("mutual TLS", "where the server's proxy demands a certificate of each device")
    for name, (variable, what) in _OPTIONS.items():
        group.add_argument(f"--{name.replace('_', '-')}", help=f"{what} ({variable})")


def client_certificate(
    options: argparse.Namespace, environment: Mapping[str, str] = os.environ
) -> ClientCertificate | None:
    """Return the certificate of the flags or the environment, None without one.

    Raises `Refusal`: "malformed-message" for one file without the other, "invalid-key" for a key that others can read.
    """
    names = [getattr(options, name, None) or environment.get(row[0], "") for name, row in _OPTIONS.items()]
    if not any(names):
        return None
    if not all(names):
        raise Refusal("malformed-message", "For mutual TLS name both --tls-certificate and --tls-private-key.")
    certificate, key = map(Path, names)
    if key.exists() and key.stat().st_mode & 0o077:
        raise Refusal("invalid-key", f"{key} can be read by others; chmod 600 it.")
    return ClientCertificate(certificate, key)
