"""The form of a wrapped value: `version (1) || data key id (16) || salt (32) || AES-256-GCM ciphertext and tag (16)`.

Key and nonce of each value are derived from its data key and its own random salt, so no AES key ever
sees two messages. Version, data key id, table, primary key and column are authenticated: a value that
is moved to another row or column does not open.
"""

import uuid
from dataclasses import dataclass

VERSION = b"\x02"
DATA_KEY_ID_START, DATA_KEY_ID_BYTES = 1, 16
SALT_BYTES, TAG_BYTES = 32, 16
HEADER_BYTES = DATA_KEY_ID_START + DATA_KEY_ID_BYTES + SALT_BYTES
OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES


@dataclass(frozen=True)
class WrappedValue:
    """A wrapped value taken apart; nothing of it is authenticated yet."""

    data_key: uuid.UUID
    salt: bytes
    ciphertext: bytes

    def to_bytes(self) -> bytes:
        """Return the value as a column holds it."""
        return VERSION + self.data_key.bytes + self.salt + self.ciphertext


def read_wrapped_value(wrapped: bytes) -> WrappedValue:
    """Take a wrapped value apart. Raises `ValueError` for another version or one that is too short."""
    if wrapped[:1] != VERSION or len(wrapped) < OVERHEAD_BYTES:
        raise ValueError("not a wrapped value of version 2")
    salt_start = DATA_KEY_ID_START + DATA_KEY_ID_BYTES
    data_key = uuid.UUID(bytes=wrapped[DATA_KEY_ID_START:salt_start])
    return WrappedValue(data_key, wrapped[salt_start:HEADER_BYTES], wrapped[HEADER_BYTES:])
