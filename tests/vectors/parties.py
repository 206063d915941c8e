"""Who takes part in the cases: keys as values of a case and back, and chance that is played again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, Verifier
from qflare_protocol.device_keys import DeviceKeys, RegisteredKeys
from qflare_protocol.pqc import KeyPair
from qflare_protocol.pqc.interface import KemAlgorithm
from qflare_protocol.suites import suite_by_name

SUITE = "QF1-K1024"
NOW = 1_772_366_400
DEVICE_ID, SESSION_ID = bytes(range(16)), bytes(range(16, 32))
ROUND_ID, FEDERATION_ID = bytes(range(32, 48)), bytes(range(48, 64))


def new_signer(algorithm: str = "ML-DSA-44") -> Signer:
    """Make a signature key pair."""
    pair = pqc.signature(algorithm).generate()
    return Signer(algorithm, pair.private, pair.public)


def signer_values(name: str, signer: Signer) -> dict[str, Any]:
    """Return a signature key pair as values of a case."""
    return {f"{name}_private": signer.private, f"{name}_public": signer.public}


def device_values(keys: DeviceKeys, prefix: str = "device") -> dict[str, Any]:
    """Return a device's key pairs as values of a case."""
    return {
        "suite": keys.suite,
        "signature_algorithm": keys.signer.algorithm,
        f"{prefix}_kem_private": keys.kem.private,
        f"{prefix}_kem_public": keys.kem.public,
        **signer_values(f"{prefix}_signature", keys.signer),
    }


def device_keys(values: dict[str, Any], prefix: str = "device") -> DeviceKeys:
    """Return the device's keys of a case."""
    kem = KeyPair(values[f"{prefix}_kem_private"], values[f"{prefix}_kem_public"])
    return DeviceKeys(values["suite"], kem, signer_of(values, f"{prefix}_signature"))


def registered_keys(values: dict[str, Any], prefix: str = "device") -> RegisteredKeys:
    """Return the device's keys of a case as the server has them."""
    return RegisteredKeys(values["suite"], values[f"{prefix}_kem_public"], values[f"{prefix}_signature_public"])


def signer_of(values: dict[str, Any], name: str) -> Signer:
    """Return a signature key pair of a case."""
    return Signer(values["signature_algorithm"], values[f"{name}_private"], values[f"{name}_public"])


def verifier_of(values: dict[str, Any], name: str) -> Verifier:
    """Return a public signature key of a case."""
    return Verifier(values["signature_algorithm"], values[f"{name}_public"])


def registered_kem(values: dict[str, Any]) -> str:
    """Return the name of the suite's registered KEM."""
    return suite_by_name(values["suite"]).registered_kem


def ephemeral_kem(values: dict[str, Any]) -> str:
    """Return the name of the suite's ephemeral KEM."""
    return suite_by_name(values["suite"]).ephemeral_kem


@contextmanager
def played_again(
    encapsulations: dict[bytes, tuple[bytes, bytes]] | None = None, *, random_bytes: bytes | None = None
) -> Iterator[None]:
    """Let the code draw what was drawn when the case was made.

    `encapsulations` gives (secret, ciphertext) by public key, `random_bytes` what `secrets.token_bytes` returns.
    """

    def encapsulate(kem: KemAlgorithm, public: bytes) -> tuple[bytes, bytes]:
        return (encapsulations or {})[kem.check_public_key(public)]

    with patch.object(KemAlgorithm, "encapsulate", encapsulate):
        if random_bytes is None:
            yield
        else:
            with patch("secrets.token_bytes", return_value=random_bytes):
                yield
