"""Reading of fixed binary layouts: every field length-checked, every reserved field zero, nothing left over."""

from typing import NoReturn

from qflare_protocol.errors import Refusal

CODE = "evidence-refused"


def refuse(sentence: str) -> NoReturn:
    """Raise `Refusal("evidence-refused")`."""
    raise Refusal(CODE, sentence)


def require(satisfied: bool, otherwise: str) -> None:
    """Raise `Refusal("evidence-refused")` unless satisfied."""
    if not satisfied:
        refuse(otherwise)


class FieldReader:
    """Takes field after field off the data; integers are little-endian, as AMD and Intel write them.

    `what` names the structure in refusals. Everything raises `Refusal("evidence-refused")`.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._position = data, what, 0

    @property
    def position(self) -> int:
        """How many bytes have been taken."""
        return self._position

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes."""
        field = self._data[self._position : self._position + length]
        require(len(field) == length, f"The {self._what} is shorter than its layout.")
        self._position += length
        return field

    def number(self, length: int) -> int:
        """Return the next unsigned integer of `length` bytes."""
        return int.from_bytes(self.take(length), "little")

    def reserved(self, length: int) -> None:
        """Pass over `length` bytes that must be zero."""
        require(not any(self.take(length)), f"A reserved field of the {self._what} is not zero.")

    def end(self) -> None:
        """Demand that nothing is left."""
        require(self._position == len(self._data), f"The {self._what} is followed by other bytes.")
