"""The device's key store: its private keys in one file, encrypted under a passphrase or a key file.

Content: magic, 16-byte salt, 12-byte nonce, AES-256-GCM ciphertext of deterministic CBOR. The key is
scrypt (RFC 7914; N = 2^16, r = 8, p = 1) of the passphrase, or HKDF of the key file's 32 bytes.
"""

import hashlib
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge_client.storage import write_private_file
from qflare_protocol.cose import Signer, Verifier
from qflare_protocol.device_keys import DeviceKeys
from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map, text_field
from qflare_protocol.kdf import expand, extract
from qflare_protocol.pqc import KeyPair

MAGIC = b"QFLARE/1 key store\n"
SALT_BYTES, NONCE_BYTES, KEY_BYTES = 16, 12, 32
_MEMBERS = frozenset(
    {
        "server", "device_id", "name", "keys", "earlier_keys", "next_keys", "identity_algorithm", "identity_public",
        "log_origin", "log_key",
    }
)  # fmt: skip
_KEYS = frozenset(
    {"suite", "kem_private", "kem_public", "signature_algorithm", "signature_private", "signature_public"}
)
MAX_STORE_BYTES = 16 << 20


class StoreLock(ABC):
    """What the key store is encrypted under."""

    @abstractmethod
    def key(self, salt: bytes) -> bytes:
        """Return the 32-byte encryption key for a store's salt."""


class PassphraseLock(StoreLock):
    """A passphrase that a person types or a secret manager provides."""

    def __init__(self, passphrase: str) -> None:
        if len(passphrase) < 8:
            raise Refusal("invalid-key", "The passphrase must have at least 8 characters.")
        self._passphrase = passphrase

    def key(self, salt: bytes) -> bytes:
        """Return scrypt of the passphrase."""
        return hashlib.scrypt(
            self._passphrase.encode(), salt=salt, n=1 << 16, r=8, p=1, maxmem=1 << 27, dklen=KEY_BYTES
        )


class KeyFileLock(StoreLock):
    """A file of 32 random bytes that only its owner can read; made on first use."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            write_private_file(path, secrets.token_bytes(KEY_BYTES))
        if path.stat().st_mode & 0o077:
            raise Refusal("invalid-key", f"Others can read the key file {path}; set its mode to 0600.")
        self._secret = path.read_bytes()
        if len(self._secret) != KEY_BYTES:
            raise Refusal("invalid-key", f"The key file {path} must hold {KEY_BYTES} bytes.")

    def key(self, salt: bytes) -> bytes:
        """Return HKDF of the file's bytes."""
        return expand(extract(salt, self._secret), "key store")


@dataclass(frozen=True)
class EarlierKeys:
    """Keys that were rotated and stay valid for a while (Unix seconds): open rounds may still name them."""

    keys: DeviceKeys = field(repr=False)
    valid_until: int


@dataclass(frozen=True)
class DeviceIdentity:
    """All that a device keeps secret or pins for good: who it is, and whose server it trusts.

    `next_keys` are new keys whose registration was begun: they are kept before the server hears of them, so
    that a lost answer or power cannot lock the device out.
    """

    server: str
    device_id: bytes
    name: str
    keys: DeviceKeys = field(repr=False)
    identity: Verifier
    log_origin: str
    log_key: bytes
    earlier_keys: tuple[EarlierKeys, ...] = ()
    next_keys: DeviceKeys | None = field(default=None, repr=False)

    def signer(self, fingerprint: bytes) -> Signer:
        """Return the signature key with a fingerprint, current or earlier. Raises `Refusal("invalid-key")`."""
        for keys in (self.keys, *(earlier.keys for earlier in self.earlier_keys)):
            if keys.signer.fingerprint == fingerprint:
                return keys.signer
        raise Refusal("invalid-key", "The server expects a signature by a key that this device does not have.")


def save_identity(path: Path, lock: StoreLock, identity: DeviceIdentity) -> None:
    """Write the key store, replacing an earlier one whole."""
    content = {
        "server": identity.server,
        "device_id": identity.device_id,
        "name": identity.name,
        "keys": _keys_to_map(identity.keys),
        "earlier_keys": [[_keys_to_map(earlier.keys), earlier.valid_until] for earlier in identity.earlier_keys],
        "next_keys": None if identity.next_keys is None else _keys_to_map(identity.next_keys),
        "identity_algorithm": identity.identity.algorithm,
        "identity_public": identity.identity.public,
        "log_origin": identity.log_origin,
        "log_key": identity.log_key,
    }
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    sealed = AESGCM(lock.key(salt)).encrypt(nonce, encode(content), MAGIC + salt)
    write_private_file(path, MAGIC + salt + nonce + sealed)


def load_identity(path: Path, lock: StoreLock) -> DeviceIdentity:
    """Read the key store.

    Raises `Refusal`: "not-found" before enrolment, "decryption-failed" for another passphrase or key
    file or a damaged store.
    """
    if not path.exists():
        raise Refusal("not-found", f"There is no key store at {path}; enrol this device first (qflare-edge enroll).")
    data = path.read_bytes()
    salt_end = len(MAGIC) + SALT_BYTES
    salt, nonce, sealed = (
        data[len(MAGIC) : salt_end],
        data[salt_end : salt_end + NONCE_BYTES],
        data[salt_end + NONCE_BYTES :],
    )
    if not data.startswith(MAGIC) or len(sealed) < 16:
        raise Refusal("decryption-failed", f"{path} is not a QFLARE key store.")
    try:
        content = AESGCM(lock.key(salt)).decrypt(nonce, sealed, MAGIC + salt)
    except InvalidTag as error:
        raise Refusal(
            "decryption-failed", "The key store does not open: another passphrase or key, or a damaged file."
        ) from error
    return _identity_from(content)


def _identity_from(content: bytes) -> DeviceIdentity:
    members = decode(content, what="key store", maximum_bytes=MAX_STORE_BYTES)
    members = require_map(members, _MEMBERS, "key store")
    following = members["next_keys"]
    return DeviceIdentity(
        text_field(members, "server"),
        bytes_field(members, "device_id", 16),
        text_field(members, "name"),
        _keys_from_map(members["keys"]),
        Verifier(text_field(members, "identity_algorithm"), bytes_field(members, "identity_public")),
        text_field(members, "log_origin"),
        bytes_field(members, "log_key"),
        tuple(EarlierKeys(_keys_from_map(keys), int(until)) for keys, until in members["earlier_keys"]),
        None if following is None else _keys_from_map(following),
    )


def _keys_to_map(keys: DeviceKeys) -> dict[str, Any]:
    return {
        "suite": keys.suite,
        "kem_private": keys.kem.private,
        "kem_public": keys.kem.public,
        "signature_algorithm": keys.signer.algorithm,
        "signature_private": keys.signer.private,
        "signature_public": keys.signer.public,
    }


def _keys_from_map(value: object) -> DeviceKeys:
    members = require_map(value, _KEYS, "keys of the key store")
    kem_public = bytes_field(members, "kem_public", maximum=MAX_STORE_BYTES)
    signer = Signer(
        text_field(members, "signature_algorithm"),
        bytes_field(members, "signature_private"),
        bytes_field(members, "signature_public"),
    )
    return DeviceKeys(text_field(members, "suite"), KeyPair(bytes_field(members, "kem_private"), kem_public), signer)
