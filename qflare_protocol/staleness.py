"""Updates to models that are not the newest any more: how old they may be, and how much less they weigh.

FedBuff (Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: Federated Learning with Buffered Asynchronous
Aggregation, AISTATS 2022) multiplies an update by s(t) = 1 / (1 + t)^a before it is added to the buffer, where t is how
many versions ago its base model was the newest; a = 0.5 there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_bytes, whole_number

MAX_STALENESS = 64
LARGEST_EXPONENT = 4.0
USUAL_EXPONENT = 0.5


@dataclass(frozen=True)
class OlderBase:
    """A model that a round also takes updates to: its BLAKE3 digest (32 bytes), and how many versions old it is.

    Raises `Refusal("malformed-message")`.
    """

    digest: bytes
    staleness: int

    def __post_init__(self) -> None:
        exact_bytes(self.digest, 32, what="digest of an older base model")
        whole_number(self.staleness, 1, MAX_STALENESS, what="staleness of an older base model")


def staleness_factor(staleness: int, exponent: float) -> float:
    """Return what an update of that staleness is multiplied by: 1 for a fresh one, else less or, for exponent 0, 1."""
    return float((1.0 + staleness) ** -exponent)


def older_bases_to_list(bases: Sequence[OlderBase]) -> list[list[Any]]:
    """Return older bases for CBOR."""
    return [[base.digest, base.staleness] for base in bases]


def older_bases_from_list(value: object, *, newest: bytes) -> tuple[OlderBase, ...]:
    """Read older bases strictly; `newest` is the round's own base model.

    Raises `Refusal("malformed-message")` for anything but rows from the least to the most stale, and for a digest
    that is there twice or is the round's own.
    """
    if not isinstance(value, list) or not all(isinstance(row, list) and len(row) == 2 for row in value):
        raise Refusal("malformed-message", "The older base models must be a list of (digest, staleness).")
    return checked_older_bases([OlderBase(*row) for row in value], newest=newest)


def checked_older_bases(bases: Sequence[OlderBase], *, newest: bytes) -> tuple[OlderBase, ...]:
    """Return the bases when they are in order and name different models. Raises `Refusal("malformed-message")`."""
    ages = [base.staleness for base in bases]
    if ages != sorted(set(ages)) or len({newest, *(base.digest for base in bases)}) != 1 + len(bases):
        raise Refusal("malformed-message", "The older base models must be in order of staleness, each another model.")
    return tuple(bases)
