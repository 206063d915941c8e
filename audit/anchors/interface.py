"""What every kind of anchor does."""

from typing import Protocol


class AnchorError(Exception):
    """An anchor could not be reached, refused, or gave something that does not hold; the sentence says which."""


class Anchor(Protocol):
    """A place that keeps checkpoints beyond the reach of whoever holds this house's database."""

    def publish(self, note: str) -> bytes:
        """Lay the signed note down and return a receipt that `verify` accepts. Raises `AnchorError`."""

    def verify(self, receipt: bytes, note: str) -> None:
        """Return when the receipt shows that this very note lies there. Raises `AnchorError`."""
