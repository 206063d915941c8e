"""Envelope encryption of secrets in database columns.

A wrapped value is `version (1) || KEK id (16) || salt (32) || AES-256-GCM ciphertext and tag`. Key and
nonce of each value are derived from the KEK and its own random salt, so no key ever sees two
messages. Version, KEK id, table, primary key and column are authenticated: a value that is moved to
another row or column does not open.
"""

import secrets
import uuid

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA3_512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyring.kek import KEK_ID_BYTES, Kek, current_kek
from qflare_protocol.encoding import frame, label

_VERSION = b"\x01"
_SALT_BYTES, _KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 32, 12, 16
_HEADER_BYTES = len(_VERSION) + KEK_ID_BYTES + _SALT_BYTES

OVERHEAD_BYTES = _HEADER_BYTES + _TAG_BYTES

PrimaryKey = str | int | uuid.UUID


class EnvelopeError(Exception):
    """A wrapped value does not open here: another row, another KEK, or damaged."""


def wrap(plaintext: bytes, *, table: str, primary_key: PrimaryKey, column: str) -> bytes:
    """Encrypt a secret for one column of one row. Adds `OVERHEAD_BYTES`."""
    kek = current_kek()
    salt = secrets.token_bytes(_SALT_BYTES)
    context = _context(kek.id, table, primary_key, column)
    cipher, nonce = _cipher(kek, salt)
    return _VERSION + kek.id + salt + cipher.encrypt(nonce, plaintext, context)


def unwrap(wrapped: bytes, *, table: str, primary_key: PrimaryKey, column: str) -> bytes:
    """Decrypt what `wrap` made for the same column of the same row. Raises `EnvelopeError`."""
    wrapped, kek = bytes(wrapped), current_kek()
    version, kek_id = wrapped[:1], wrapped[1 : 1 + KEK_ID_BYTES]
    if version != _VERSION or len(wrapped) < OVERHEAD_BYTES:
        raise EnvelopeError(f"{table}.{column} of {primary_key} is not a wrapped value of version 1")
    if kek_id != kek.id:
        raise EnvelopeError(f"{table}.{column} of {primary_key} is wrapped under another KEK ({kek_id.hex()})")
    cipher, nonce = _cipher(kek, wrapped[1 + KEK_ID_BYTES : _HEADER_BYTES])
    try:
        return cipher.decrypt(nonce, wrapped[_HEADER_BYTES:], _context(kek_id, table, primary_key, column))
    except InvalidTag as error:
        raise EnvelopeError(f"{table}.{column} of {primary_key} is damaged or belongs to another row") from error


def _cipher(kek: Kek, salt: bytes) -> tuple[AESGCM, bytes]:
    hkdf = HKDF(SHA3_512(), _KEY_BYTES + _NONCE_BYTES, salt=salt, info=label("key at rest"))
    derived = hkdf.derive(kek.key)
    return AESGCM(derived[:_KEY_BYTES]), derived[_KEY_BYTES:]


def _context(kek_id: bytes, table: str, primary_key: PrimaryKey, column: str) -> bytes:
    row = (table.encode(), str(primary_key).encode(), column.encode())
    return frame(label("envelope"), _VERSION, kek_id, *row)
