"""The model that a sealed process gives out sealed, kept until its key follows."""

import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from qflare_protocol.chunked import open_chunks, sealed_size
from qflare_protocol.errors import Refusal

COPY_BYTES = 1 << 20


class HeldModel:
    """A file without a name that takes the ciphertext of one model of at most `most_bytes` bytes of plaintext."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = sealed_size(most_bytes)
        self._file = tempfile.TemporaryFile()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def take(self, piece: bytes) -> None:
        """Keep the next piece. Raises `Refusal("enclave-failed")` where it is too much for the model."""
        self._file.write(piece)
        if self._file.tell() > self._most_bytes:
            raise Refusal("enclave-failed", "The sealed process gives out more than a model.")

    def open(self, key: bytes) -> Iterator[bytes]:
        """Yield the model's bytes. Raises `Refusal("enclave-failed")` where they do not open under the key."""
        self._file.seek(0)
        try:
            yield from open_chunks(key, iter(lambda: self._file.read(COPY_BYTES), b""))
        except Refusal as refusal:
            raise Refusal("enclave-failed", f"The sealed process gave out another model: {refusal.detail}") from refusal
