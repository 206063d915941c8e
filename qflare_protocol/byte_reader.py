"""Exact reads from a stream that arrives in pieces of any size."""

from collections.abc import Iterable, Iterator

from qflare_protocol.errors import Refusal


class ByteReader:
    """Read exact amounts from an iterable of byte pieces, holding one piece at a time.

    `code` and `what` name the refusal that is raised when the stream ends too early.
    """

    def __init__(self, pieces: Iterable[bytes], *, what: str, code: str = "malformed-message") -> None:
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")
        self._what = what
        self._code = code

    def read_up_to(self, target: memoryview) -> int:
        """Fill the writable byte buffer as far as the stream goes and return the bytes written."""
        filled = 0
        while filled < len(target) and not self.at_end():
            taken = min(len(target) - filled, len(self._piece))
            target[filled : filled + taken] = self._piece[:taken]
            self._piece = self._piece[taken:]
            filled += taken
        return filled

    def read_into(self, target: memoryview) -> None:
        """Fill the whole buffer. Raises `Refusal(code)` when the stream ends first."""
        if self.read_up_to(target) != len(target):
            raise Refusal(self._code, f"The {self._what} ends too early.")

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes. Raises `Refusal(code)` when the stream ends first."""
        buffer = bytearray(size)
        self.read_into(memoryview(buffer))
        return bytes(buffer)

    def pieces(self) -> Iterator[bytes]:
        """Yield what is left, piece by piece, to hand the stream on."""
        while not self.at_end():
            piece, self._piece = self._piece, memoryview(b"")
            yield bytes(piece)

    def at_end(self) -> bool:
        """Whether no byte is left; pulls the next piece when the current one is used up."""
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return True
            self._piece = memoryview(piece)
        return False
