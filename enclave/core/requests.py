"""What the courier asks of the sealed process, as typed requests with a strict reading."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.carried_rows import CarriedRow
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_bytes, exact_map, short_text, whole_number
from qflare_protocol.ranges import MAX_RANGES
from qflare_protocol.round_result import RosterEntry
from qflare_protocol.staleness import OlderBase, older_bases_from_list, older_bases_to_list

_PREPARE = frozenset({"kind", "round_id", "federation_id", "policy", "nonce", "range_index", "range_count"})
_RANGE = frozenset({"kind", "round", "step", "range_index", "key_ids", "messages", "second_readings"})
_AGGREGATE = frozenset(
    {
        "kind",
        "round_id",
        "federation_id",
        "policy",
        "wrapped_keys",
        "base_model_digest",
        "roster",
        "updates",
        "carried",
        "older_bases",
        "descriptors",
    }
)

MAX_CARRIED_NAME = 80
MAX_DESCRIPTOR = 1 << 20


@dataclass(frozen=True)
class PrepareRequest:
    """Make keys and evidence for one round, or for one of its ranges; ids are 16 bytes, the nonce 16 to 64."""

    round_id: bytes
    federation_id: bytes
    policy: AggregationPolicy
    nonce: bytes
    range_index: int = 0
    range_count: int = 1

    def to_map(self) -> dict[str, Any]:
        """Return the channel message."""
        return vars(self) | {"kind": "prepare", "policy": self.policy.to_map()}


@dataclass(frozen=True)
class SubmittedManifest:
    """A signed manifest and the device the server took it from."""

    device_id: bytes
    manifest: bytes


@dataclass(frozen=True)
class AggregateRequest:
    """Aggregate one round.

    `carried` are all rows that the federation carries. `older_bases` are the models besides the newest to which
    updates are taken, from the least to the most stale. `descriptors` are the open files of the base
    model, of each update, and of each carried row, in that order.
    """

    round_id: bytes
    federation_id: bytes
    policy: AggregationPolicy
    wrapped_keys: bytes
    base_model_digest: bytes
    roster: tuple[RosterEntry, ...]
    updates: tuple[SubmittedManifest, ...]
    carried: tuple[CarriedRow, ...] = ()
    older_bases: tuple[OlderBase, ...] = ()
    descriptors: tuple[int, ...] = ()

    def to_map(self) -> dict[str, Any]:
        """Return the channel message."""
        return vars(self) | {
            "kind": "aggregate",
            "policy": self.policy.to_map(),
            "roster": [[entry.device_id, entry.verifier.algorithm, entry.verifier.public] for entry in self.roster],
            "updates": [[update.device_id, update.manifest] for update in self.updates],
            "carried": [[row.name, row.enclave_key_id, row.digest] for row in self.carried],
            "older_bases": older_bases_to_list(self.older_bases),
            "descriptors": list(self.descriptors),
        }


RANGE_STEPS = ("read", "read-again", "decide", "combine", "conclude")
OF_THE_ROUND = ("decide", "conclude")
"""The steps of the round as a whole, which range 0 does; all others are every range's."""


@dataclass(frozen=True)
class RangeRequest:
    """One step of a round whose model several processes share; see `enclave.core.fan_out`.

    `round` is what is asked of the round, with the carried rows and the wrapped keys of the range;
    `key_ids` are the key ids of all ranges in order, `messages` what earlier steps have said, and
    `second_readings` what the ranges have said when they read again.
    """

    round: AggregateRequest
    step: str
    range_index: int
    key_ids: tuple[bytes, ...]
    messages: tuple[bytes, ...] = ()
    second_readings: tuple[bytes, ...] = ()

    @property
    def policy(self) -> AggregationPolicy:
        """The round's policy."""
        return self.round.policy

    def to_map(self) -> dict[str, Any]:
        """Return the channel message."""
        return vars(self) | {
            "kind": "range",
            "round": self.round.to_map(),
            "key_ids": list(self.key_ids),
            "messages": list(self.messages),
            "second_readings": list(self.second_readings),
        }


Request = PrepareRequest | AggregateRequest | RangeRequest


def read_request(message: Mapping[str, Any]) -> Request:
    """Read a request strictly. Raises `Refusal`: "malformed-message" or "policy-refused"."""
    kind = message.get("kind")
    if kind == "prepare":
        return _prepare(exact_map(message, _PREPARE, what="prepare request"))
    if kind == "aggregate":
        return _aggregate(exact_map(message, _AGGREGATE, what="aggregate request"))
    if kind == "range":
        return _range(exact_map(message, _RANGE, what="range request"))
    raise Refusal("malformed-message", "A request is of the kind prepare, aggregate or range.")


def _prepare(members: Mapping[str, Any]) -> PrepareRequest:
    return PrepareRequest(
        round_id=exact_bytes(members["round_id"], 16, what="round_id"),
        federation_id=exact_bytes(members["federation_id"], 16, what="federation_id"),
        policy=AggregationPolicy.from_map(members["policy"]),
        nonce=_bytes(members["nonce"], "nonce"),
        range_index=whole_number(members["range_index"], 0, MAX_RANGES - 1, what="range_index"),
        range_count=whole_number(members["range_count"], 1, MAX_RANGES, what="range_count"),
    )


def _range(members: Mapping[str, Any]) -> RangeRequest:
    if members["step"] not in RANGE_STEPS:
        raise Refusal("malformed-message", f"The step of a range is one of {', '.join(RANGE_STEPS)}.")
    round_ = exact_map(members["round"], _AGGREGATE, what="aggregate request")
    if members["step"] in ("read-again", "combine") and members["messages"] == []:
        raise Refusal("malformed-message", "To read again or to combine a range is told what was decided.")
    key_ids = tuple(exact_bytes(one, 32, what="key id of a range") for one in _list(members["key_ids"], "key ids"))
    return RangeRequest(
        _aggregate(round_),
        members["step"],
        whole_number(members["range_index"], 0, max(0, len(key_ids) - 1), what="range_index"),
        key_ids,
        tuple(_bytes(one, "message") for one in _list(members["messages"], "messages")),
        tuple(_bytes(one, "second reading") for one in _list(members["second_readings"], "second readings")),
    )


def _aggregate(members: Mapping[str, Any]) -> AggregateRequest:
    newest = exact_bytes(members["base_model_digest"], 32, what="base_model_digest")
    return AggregateRequest(
        round_id=exact_bytes(members["round_id"], 16, what="round_id"),
        federation_id=exact_bytes(members["federation_id"], 16, what="federation_id"),
        policy=AggregationPolicy.from_map(members["policy"]),
        wrapped_keys=_bytes(members["wrapped_keys"], "wrapped_keys"),
        base_model_digest=newest,
        roster=tuple(_roster_entry(row) for row in _rows(members["roster"], 3, "roster")),
        updates=tuple(_update(row) for row in _rows(members["updates"], 2, "updates")),
        carried=tuple(_carried(row) for row in _rows(members["carried"], 3, "carried rows")),
        older_bases=older_bases_from_list(members["older_bases"], newest=newest),
        descriptors=_descriptors(members["descriptors"]),
    )


def _roster_entry(row: list[Any]) -> RosterEntry:
    algorithm, public = short_text(row[1], 40, what="roster algorithm"), _bytes(row[2], "roster key")
    return RosterEntry(exact_bytes(row[0], 16, what="roster device id"), Verifier(algorithm, public))


def _update(row: list[Any]) -> SubmittedManifest:
    return SubmittedManifest(exact_bytes(row[0], 16, what="update device id"), _bytes(row[1], "manifest"))


def _carried(row: list[Any]) -> CarriedRow:
    return CarriedRow(
        name=short_text(row[0], MAX_CARRIED_NAME, what="name of a carried row"),
        enclave_key_id=exact_bytes(row[1], 32, what="enclave of a carried row"),
        digest=exact_bytes(row[2], 32, what="digest of a carried row"),
    )


def _descriptors(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise Refusal("malformed-message", "The descriptors must be a list of numbers.")
    return tuple(whole_number(number, 0, MAX_DESCRIPTOR, what="descriptor") for number in value)


def _rows(value: object, length: int, what: str) -> list[list[Any]]:
    if not isinstance(value, list) or not all(isinstance(row, list) and len(row) == length for row in value):
        raise Refusal("malformed-message", f"The {what} must be a list of rows of {length}.")
    return value


def _bytes(value: object, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise Refusal("malformed-message", f"The {what} must be bytes.")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Refusal("malformed-message", f"The {what} must be a list.")
    return value
