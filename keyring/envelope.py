"""Envelope encryption of secrets in database columns (`keyring.wrapped_value`, `keyring.data_keys`)."""

import secrets
import uuid

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA3_512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyring.columns import scope_of
from keyring.data_keys import OpenDataKey, UnknownDataKey, current_data_key, data_key
from keyring.kek import KekDoesNotOpen, KekMissing
from keyring.wrapped_value import OVERHEAD_BYTES, SALT_BYTES, VERSION, WrappedValue, read_wrapped_value
from qflare_protocol.encoding import frame, label

__all__ = ["OVERHEAD_BYTES", "EnvelopeError", "PrimaryKey", "unwrap", "wrap"]

_KEY_BYTES, _NONCE_BYTES = 32, 12

PrimaryKey = str | int | uuid.UUID


class EnvelopeError(Exception):
    """A wrapped value does not open here: another row, an unknown data key, or damaged."""


def wrap(plaintext: bytes, *, table: str, primary_key: PrimaryKey, column: str) -> bytes:
    """Encrypt a secret for one column of one row, under the current data key of its scope. Adds `OVERHEAD_BYTES`.

    Inside a transaction that key lives at least until its end. Raises `LookupError` for a column that is
    not registered, `KekError` where the data key cannot be opened.
    """
    key, salt = current_data_key(scope_of(table, column)), secrets.token_bytes(SALT_BYTES)
    cipher, nonce = _cipher(key, salt)
    ciphertext = cipher.encrypt(nonce, plaintext, _context(key.id, table, primary_key, column))
    return WrappedValue(key.id, salt, ciphertext).to_bytes()


def unwrap(wrapped: bytes, *, table: str, primary_key: PrimaryKey, column: str) -> bytes:
    """Decrypt what `wrap` made for the same column of the same row.

    Raises `EnvelopeError`, and `KekError` where the KEK is out of reach.
    """
    place = f"{table}.{column} of {primary_key}"
    try:
        value = read_wrapped_value(bytes(wrapped))
        key = data_key(value.data_key)
    except ValueError as error:
        raise EnvelopeError(f"{place} is {error}") from error
    except UnknownDataKey as error:
        raise EnvelopeError(f"{place} is wrapped under an unknown data key ({error})") from error
    except (KekDoesNotOpen, KekMissing) as error:
        raise EnvelopeError(f"{place} is wrapped under a data key that does not open: {error}") from error
    cipher, nonce = _cipher(key, value.salt)
    try:
        return cipher.decrypt(nonce, value.ciphertext, _context(key.id, table, primary_key, column))
    except InvalidTag as error:
        raise EnvelopeError(f"{place} is damaged or belongs to another row") from error


def _cipher(key: OpenDataKey, salt: bytes) -> tuple[AESGCM, bytes]:
    hkdf = HKDF(SHA3_512(), _KEY_BYTES + _NONCE_BYTES, salt=salt, info=label("key at rest"))
    derived = hkdf.derive(key.key)
    return AESGCM(derived[:_KEY_BYTES]), derived[_KEY_BYTES:]


def _context(data_key_id: uuid.UUID, table: str, primary_key: PrimaryKey, column: str) -> bytes:
    row = (table.encode(), str(primary_key).encode(), column.encode())
    return frame(label("envelope"), VERSION, data_key_id.bytes, *row)
