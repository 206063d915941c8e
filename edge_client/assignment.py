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


_EVALUATION = frozenset({"federation_id", "version", "model_digest", "trainer_parameters"})
_OPTIONAL = frozenset({"range_evidence", "older_bases"})
MAX_OLDER_BASES = 64


@dataclass(frozen=True)
class OlderBase:
    """An earlier version whose updates a round also takes."""

    version: int
    model_digest: bytes


@dataclass(frozen=True)
class WantedModel:
    """A version of a federation's model, by its 16-byte federation id, number and BLAKE3 digest."""

    federation_id: bytes
    version: int
    digest: bytes


@dataclass(frozen=True)
class EvaluationTask:
    """A version that waits to be evaluated on this device's own data."""

    model: WantedModel
    trainer_parameters: dict[str, Any]

    @classmethod
    def from_wire(cls, value: Any) -> "EvaluationTask":
        """Read a task. Raises `Refusal("malformed-message")`."""
        members = require_map(value, _EVALUATION, "evaluation task")
        if not isinstance(members["trainer_parameters"], dict):
            raise Refusal("malformed-message", "The trainer parameters must be a map.")
        model = WantedModel(
            bytes_field(members, "federation_id", 16),
            unsigned_field(members, "version"),
            bytes_field(members, "model_digest", 32),
        )
        return cls(model, members["trainer_parameters"])


@dataclass(frozen=True)
class Assignment:
    """A round that waits for this device; `signature_key` is the fingerprint of the key its roster names.

    `evidence` is that of each process that the model is shared among, in the order of their ranges;
    `older_bases` are the versions beside the base whose updates the round takes, at a lower weight.
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
    older_bases: tuple[OlderBase, ...] = ()

    @property
    def base(self) -> WantedModel:
        """The model that the round starts from."""
        return WantedModel(self.federation_id, self.base_version, self.base_model_digest)

    @classmethod
    def from_wire(cls, value: Any) -> "Assignment":
        """Read an assignment. Raises `Refusal("malformed-message")`."""
        given = set(value) & _OPTIONAL if isinstance(value, dict) else set()
        members = require_map(value, _ASSIGNMENT | given, "assignment")
        further = members.get("range_evidence", [])
        if "range_evidence" in given and not (isinstance(further, list) and 1 <= len(further) < MAX_RANGES):
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
            _older_bases(members.get("older_bases", [])),
        )


def _older_bases(rows: Any) -> tuple[OlderBase, ...]:
    """Read [version, model digest, staleness] of each; the staleness is the enclave's to weigh."""
    if not (isinstance(rows, list) and len(rows) <= MAX_OLDER_BASES):
        raise Refusal("malformed-message", f"The older bases are a list of at most {MAX_OLDER_BASES}.")
    if not all(isinstance(row, list) and len(row) == 3 for row in rows):
        raise Refusal("malformed-message", "An older base is its version, its model digest and its staleness.")
    found = []
    for row in rows:
        members = {"version": row[0], "model_digest": row[1]}
        found.append(OlderBase(unsigned_field(members, "version"), bytes_field(members, "model_digest", 32)))
    return tuple(found)
