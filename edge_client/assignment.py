"""A round that waits for this device, as the server's answer to `POST /api/work` names it."""

from dataclasses import dataclass
from typing import Any

from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map, text_field, unsigned_field
from qflare_protocol.ranges import MAX_RANGES

_ASSIGNMENT = frozenset(
    {"round_id", "round_number", "federation_id", "federation", "base_version", "base_model_digest", "evidence",
     "trainer", "trainer_parameters", "deadline", "signature_key"}
)  # fmt: skip


@dataclass(frozen=True)
class Assignment:
    """A round that waits for this device; `signature_key` is the fingerprint of the key its roster names.

    `evidence` is that of each process that the model is shared among, in the order of their ranges.
    """

    round_id: bytes
    round_number: int
    federation_id: bytes
    federation: str
    base_version: int
    base_model_digest: bytes
    evidence: tuple[bytes, ...]
    trainer_parameters: dict[str, Any]
    signature_key: bytes

    @classmethod
    def from_wire(cls, value: Any) -> "Assignment":
        """Read an assignment. Raises `Refusal("malformed-message")`."""
        shared = isinstance(value, dict) and "range_evidence" in value
        members = require_map(value, _ASSIGNMENT | {"range_evidence"} if shared else _ASSIGNMENT, "assignment")
        further = members["range_evidence"] if shared else []
        if shared and not (isinstance(further, list) and 1 <= len(further) < MAX_RANGES):
            raise Refusal("malformed-message", f"The evidence of further ranges is a list of 1 to {MAX_RANGES - 1}.")
        parameters = members["trainer_parameters"]
        if not isinstance(parameters, dict):
            raise Refusal("malformed-message", "The trainer parameters must be a map.")
        return cls(
            bytes_field(members, "round_id", 16),
            unsigned_field(members, "round_number"),
            bytes_field(members, "federation_id", 16),
            text_field(members, "federation"),
            unsigned_field(members, "base_version"),
            bytes_field(members, "base_model_digest", 32),
            tuple(bytes_field({"evidence": one}, "evidence") for one in (members["evidence"], *further)),
            parameters,
            bytes_field(members, "signature_key", 32),
        )
