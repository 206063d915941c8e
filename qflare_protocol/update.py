"""Sealing an update so that only the enclave of its round can open it.

Blob: magic "QF1U" || sealed content key, framed (docs/protocol.md, "Encoding") || chunked stream of
the safetensors delta. A fresh content key is sealed by HPKE to the enclave's round key; the HPKE
info binds it to its round, device, key and base model, and the stream is bound to all of that and
to the sealed key.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qflare_protocol import hpke
from qflare_protocol.byte_reader import ByteReader
from qflare_protocol.chunked import KEY_BYTES, open_chunks, seal_chunks, sealed_size
from qflare_protocol.encoding import digest, frame, label
from qflare_protocol.errors import Refusal

MAGIC = b"QF1U"
SEALED_KEY_BYTES = KEY_BYTES + hpke.OVERHEAD_BYTES
HEADER_BYTES = len(MAGIC) + 8 + SEALED_KEY_BYTES


@dataclass(frozen=True)
class UpdateContext:
    """What a sealed update is bound to: ids of 16 bytes, key id and base model digest of 32 bytes."""

    federation_id: bytes
    round_id: bytes
    device_id: bytes
    enclave_key_id: bytes
    base_model_digest: bytes

    def info(self) -> bytes:
        """Return the HPKE info string."""
        return frame(
            label("update content key"),
            self.federation_id,
            self.round_id,
            self.device_id,
            self.enclave_key_id,
            self.base_model_digest,
        )


def sealed_update_size(plaintext_bytes: int) -> int:
    """Return the exact size in bytes of a sealed update."""
    return HEADER_BYTES + sealed_size(plaintext_bytes)


def seal_update(
    enclave_public_key: bytes, context: UpdateContext, plaintext: Iterable[bytes] | bytes
) -> Iterator[bytes]:
    """Yield the blob piece by piece; the plaintext may come whole or in pieces of any sizes.

    Raises `Refusal("invalid-key")` for a malformed enclave key.
    """
    pieces = (plaintext,) if isinstance(plaintext, bytes) else plaintext
    content_key = os.urandom(KEY_BYTES)
    sealed_key = hpke.seal(enclave_public_key, content_key, info=context.info())
    yield MAGIC + frame(sealed_key)
    yield from seal_chunks(content_key, pieces, context=_stream_context(context, sealed_key))


def open_update(private_key: bytes, context: UpdateContext, ciphertext: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the plaintext of a blob that arrives in pieces; complete only when the iterator has ended.

    Raises `Refusal("decryption-failed")`.
    """
    reader = ByteReader(ciphertext, what="sealed update", code="decryption-failed")
    content_key, stream_context = open_content_key(hpke.Opener(private_key), context, reader.read(HEADER_BYTES))
    yield from open_chunks(content_key, reader.pieces(), context=stream_context)


def open_content_key(opener: hpke.Opener, context: UpdateContext, header: bytes) -> tuple[bytes, bytes]:
    """Return the content key that a blob's first `HEADER_BYTES` carry, and the context of the stream after them.

    Raises `Refusal("decryption-failed")`.
    """
    sealed_key = header[-SEALED_KEY_BYTES:]
    if header != MAGIC + frame(sealed_key):
        raise Refusal("decryption-failed", "The blob does not begin with a QF/1 update header.")
    return opener.open(sealed_key, info=context.info()), _stream_context(context, sealed_key)


def _stream_context(context: UpdateContext, sealed_key: bytes) -> bytes:
    return digest("update stream", context.info(), sealed_key)
