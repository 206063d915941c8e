"""Streaming, key-committing encryption of bulk bytes with constant memory.

AES-256-GCM over chunks of 64 KiB in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar,
"Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015, section 7):
nonce = prefix (7 bytes) || chunk number (4, big-endian) || 1 for the last chunk, else 0. Reordered,
dropped, added and truncated chunks do not open.

Stream: magic "QF1S" || prefix (7) || key commitment (32) || chunks, each with its 16-byte tag. The
AEAD key and the commitment come from one HKDF-SHA3-512 over the stream key, so a ciphertext opens
under one key only. Chunks have fixed places, so that each can be opened alone.
"""

import hmac
import os
from collections.abc import Callable, Iterable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qflare_protocol.byte_reader import ByteReader
from qflare_protocol.encoding import frame, label
from qflare_protocol.errors import Refusal

MAGIC = b"QF1S"
KEY_BYTES = 32
CHUNK_BYTES = 1 << 16
TAG_BYTES = 16
PREFIX_BYTES = 7
COMMITMENT_BYTES = 32
HEADER_BYTES = len(MAGIC) + PREFIX_BYTES + COMMITMENT_BYTES
MAX_CHUNKS = 1 << 32


class ChunkCipher:
    """The chunks of one stream, each sealed or opened alone.

    `context` binds the stream to where it belongs: it enters the key derivation, so it must be
    given again at opening. Use `fresh` to seal and `from_header` to open.
    """

    def __init__(self, key: bytes, prefix: bytes, context: bytes) -> None:
        if len(key) != KEY_BYTES or not any(key):
            raise Refusal("invalid-key", f"A stream key is {KEY_BYTES} bytes and not zero.")
        info = frame(label("chunked stream"), prefix, context)
        derived = HKDF(hashes.SHA3_512(), KEY_BYTES + COMMITMENT_BYTES, salt=None, info=info).derive(key)
        self._aead = AESGCM(derived[:KEY_BYTES])
        self._prefix = prefix
        self.header = MAGIC + prefix + derived[KEY_BYTES:]

    @classmethod
    def fresh(cls, key: bytes, context: bytes = b"") -> "ChunkCipher":
        """Start a stream with a random nonce prefix; use a key for one stream only."""
        return cls(key, os.urandom(PREFIX_BYTES), context)

    @classmethod
    def from_header(cls, key: bytes, header: bytes, context: bytes = b"") -> "ChunkCipher":
        """Take up a stream by its 43-byte header. Raises `Refusal("decryption-failed")` for another key."""
        if len(header) != HEADER_BYTES or not header.startswith(MAGIC):
            raise Refusal("decryption-failed", "The stream does not begin with a QF/1 stream header.")
        cipher = cls(key, header[len(MAGIC) : len(MAGIC) + PREFIX_BYTES], context)
        if not hmac.compare_digest(cipher.header, header):
            raise Refusal("decryption-failed", "The stream does not open under this key and context.")
        return cipher

    def seal_chunk(self, index: int, plaintext: bytes | bytearray | memoryview, *, last: bool) -> bytes:
        """Seal the chunk with that number (from 0)."""
        return self._aead.encrypt(self._nonce(index, last), plaintext, self.header)

    def open_chunk(self, index: int, ciphertext: bytes | bytearray | memoryview, *, last: bool) -> bytes:
        """Return the chunk's plaintext. Raises `Refusal("decryption-failed")`."""
        try:
            return self._aead.decrypt(self._nonce(index, last), ciphertext, self.header)
        except InvalidTag as error:
            raise Refusal("decryption-failed", f"Chunk {index} of the stream is altered or out of place.") from error

    def open_chunk_into(
        self, index: int, ciphertext: bytes | bytearray | memoryview, target: memoryview, *, last: bool
    ) -> None:
        """Write the chunk's plaintext into a buffer of exactly its size. Raises `Refusal("decryption-failed")`."""
        try:
            self._aead.decrypt_into(self._nonce(index, last), ciphertext, self.header, target)
        except InvalidTag as error:
            raise Refusal("decryption-failed", f"Chunk {index} of the stream is altered or out of place.") from error

    def _nonce(self, index: int, last: bool) -> bytes:
        if not 0 <= index < MAX_CHUNKS:
            raise Refusal("message-too-large", f"A stream has at most {MAX_CHUNKS} chunks.")
        return self._prefix + index.to_bytes(4, "big") + bytes([last])


class ChunkWriter:
    """Seals a stream that is written piece by piece; `send` takes its header at once and each chunk when it is full."""

    def __init__(self, cipher: ChunkCipher, send: Callable[[bytes], None]) -> None:
        self._cipher, self._send = cipher, send
        self._buffer = bytearray()
        self._chunks = 0
        send(cipher.header)

    def write(self, piece: bytes | memoryview) -> None:
        """Take the next bytes of plaintext."""
        self._buffer += piece
        while len(self._buffer) > CHUNK_BYTES:  # the last chunk is sealed by `finish`, which knows that it is
            self._seal(bytes(self._buffer[:CHUNK_BYTES]), last=False)
            del self._buffer[:CHUNK_BYTES]

    def finish(self) -> None:
        """Seal what is left as the last chunk."""
        self._seal(bytes(self._buffer), last=True)

    def _seal(self, plaintext: bytes, *, last: bool) -> None:
        self._send(self._cipher.seal_chunk(self._chunks, plaintext, last=last))
        self._chunks += 1


def sealed_size(plaintext_bytes: int) -> int:
    """Return the exact size in bytes of a sealed stream, header included."""
    chunks = max(1, -(-plaintext_bytes // CHUNK_BYTES))
    return HEADER_BYTES + plaintext_bytes + chunks * TAG_BYTES


def seal_chunks(key: bytes, plaintext: Iterable[bytes], *, context: bytes = b"") -> Iterator[bytes]:
    """Yield the stream's header and then its sealed chunks; the pieces given may have any sizes."""
    cipher = ChunkCipher.fresh(key, context)
    yield cipher.header
    reader = ByteReader(plaintext, what="plaintext")
    for index, chunk, last in _chunks(reader, CHUNK_BYTES):
        yield cipher.seal_chunk(index, chunk, last=last)


def open_chunks(key: bytes, ciphertext: Iterable[bytes], *, context: bytes = b"") -> Iterator[bytes]:
    """Yield the plaintext, chunk by chunk, of a stream that arrives in pieces of any sizes.

    A consumer must not act on the data before the iterator has ended: only then is it known that
    nothing was cut off. Raises `Refusal("decryption-failed")`.
    """
    reader = ByteReader(ciphertext, what="stream", code="decryption-failed")
    cipher = ChunkCipher.from_header(key, reader.read(HEADER_BYTES), context)
    for index, chunk, last in _chunks(reader, CHUNK_BYTES + TAG_BYTES):
        yield cipher.open_chunk(index, chunk, last=last)


def _chunks(reader: ByteReader, size: int) -> Iterator[tuple[int, memoryview, bool]]:
    """Yield (number, bytes, whether last); an empty stream is one empty last chunk."""
    buffer = memoryview(bytearray(size))
    index, last = 0, False
    while not last:
        filled = reader.read_up_to(buffer)
        last = reader.at_end()
        yield index, buffer[:filled], last
        index += 1
