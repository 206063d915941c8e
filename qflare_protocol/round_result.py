"""The result of a round as the enclave signs it: the new model, and what became of every update.

The payload holds no time and nothing random, so that a successor process gives the same payload.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from qflare_protocol.cose import Signer, Verifier, sign1, verify1
from qflare_protocol.encoding import digest, encode
from qflare_protocol.errors import CATALOGUE, Refusal
from qflare_protocol.fields import exact_bytes, exact_map, finite_number, short_text, whole_number
from qflare_protocol.staleness import (
    MAX_STALENESS,
    OlderBase,
    checked_older_bases,
    older_bases_from_list,
    older_bases_to_list,
)

PURPOSE = "round result"
MAX_BYTES = 1 << 26
NORM_ABOVE_BOUND = "norm-above-bound"
COSINE_BELOW_MINIMUM = "cosine-below-minimum"
ROOT_COSINE_BELOW_MINIMUM = "root-cosine-below-minimum"
SCREENING_REASONS = {
    NORM_ABOVE_BOUND: "The update's norm is above the bound over the median norm.",
    COSINE_BELOW_MINIMUM: "The update points away from the consensus of the others.",
    ROOT_COSINE_BELOW_MINIMUM: "The update points away from the root device's update.",
}
"""Reasons of the filters; every other reason is a code of the error catalogue."""

MAX_DETAIL = 300
_LARGEST = 1.8e308


@dataclass(frozen=True)
class RosterEntry:
    """One device that may take part in the round: its 16-byte id and registered signature key."""

    device_id: bytes
    verifier: Verifier


def roster_digest(roster: Sequence[RosterEntry]) -> bytes:
    """Return the 64-byte digest of the roster: sorted (device id, algorithm, key fingerprint)."""
    rows = sorted([entry.device_id, entry.verifier.algorithm, entry.verifier.fingerprint] for entry in roster)
    return digest("round roster", encode(rows))


@dataclass(frozen=True)
class Scores:
    """What the enclave saw: L2 norm, its ratio to the median norm, cosine to the consensus of the
    others in -1 to 1, and the share in the new model in 0 to 1. The cosine is None where the policy's
    pipeline does not look at directions.
    """

    norm: float
    norm_ratio: float
    cosine: float | None
    weight: float

    def __post_init__(self) -> None:
        bounds = (("norm", 0, _LARGEST), ("norm_ratio", 0, _LARGEST), ("cosine", -1, 1), ("weight", 0, 1))
        for name, low, high in bounds:
            value = getattr(self, name)
            if name != "cosine" or value is not None:
                object.__setattr__(self, name, finite_number(value, low, high, what=f"score {name}"))


@dataclass(frozen=True)
class UpdateVerdict:
    """What became of one update.

    `manifest_digest` is 64 bytes, `ciphertext_digest` 32 (None where the manifest could not be
    read). A rejected update has a reason code and a sentence; `scores` is None where the update did
    not get as far as the pipeline, and in rounds of differential privacy. `staleness` is how many versions old
    the update's base model was, 0 of one whose manifest did not hold.
    """

    device_id: bytes
    manifest_digest: bytes
    ciphertext_digest: bytes | None
    accepted: bool
    reason: str | None = None
    detail: str | None = None
    scores: Scores | None = None
    staleness: int = 0

    def __post_init__(self) -> None:
        exact_bytes(self.device_id, 16, what="device_id of the verdict")
        exact_bytes(self.manifest_digest, 64, what="manifest_digest of the verdict")
        if self.ciphertext_digest is not None:
            exact_bytes(self.ciphertext_digest, 32, what="ciphertext_digest of the verdict")
        if not isinstance(self.accepted, bool) or self.accepted != (self.reason is None):
            raise Refusal("malformed-message", "A verdict is either accepted or has a reason.")
        if self.reason is not None and self.reason not in SCREENING_REASONS and self.reason not in CATALOGUE:
            raise Refusal("malformed-message", "The reason of the verdict is not known.")
        whole_number(self.staleness, 0, MAX_STALENESS, what="staleness of the verdict")
        if self.detail is not None:
            short_text(self.detail, MAX_DETAIL, what="detail of the verdict")

    def to_map(self) -> dict[str, Any]:
        """Return the verdict as a map for CBOR; no staleness is not named."""
        members = asdict(self)
        if not self.staleness:
            del members["staleness"]
        return members

    @classmethod
    def from_map(cls, value: object) -> "UpdateVerdict":
        """Read a verdict strictly. Raises `Refusal("malformed-message")`."""
        members = dict(exact_map(value, _named(_VERDICT_MEMBERS, value, "staleness"), what="verdict"))
        whole_number(members.get("staleness", 1), 1, MAX_STALENESS, what="staleness, where it is named,")
        if members["scores"] is not None:
            members["scores"] = Scores(**exact_map(members["scores"], _SCORE_MEMBERS, what="scores"))
        return cls(**members)


@dataclass(frozen=True)
class RoundResult:
    """What the enclave did in one round; digests of models are BLAKE3 (32 bytes), others SHA3-512 (64).

    `sample_total` is the number of samples behind the accepted updates; verdicts are sorted by
    device id. `carried_in` and `carried_out` are the digests of the rows that the federation carried
    before and after the round: a round's `carried_in` is the last one's `carried_out`. `older_bases` are the
    models besides the newest to which updates were taken, from the least to the most stale. Raises
    `Refusal("malformed-message")` for values out of form.
    """

    round_id: bytes
    federation_id: bytes
    enclave_key_id: bytes
    base_model_digest: bytes
    model_digest: bytes
    model_bytes: int
    rule: str
    policy_digest: bytes
    roster_digest: bytes
    sample_total: int
    carried_in: bytes
    carried_out: bytes
    verdicts: tuple[UpdateVerdict, ...]
    older_bases: tuple[OlderBase, ...] = ()

    def __post_init__(self) -> None:
        for name, length in _BYTE_FIELDS.items():
            exact_bytes(getattr(self, name), length, what=f"{name} of the round result")
        whole_number(self.model_bytes, 1, 1 << 40, what="model_bytes of the round result")
        whole_number(self.sample_total, 1, 1 << 60, what="sample_total of the round result")
        short_text(self.rule, 32, what="rule of the round result")
        checked_older_bases(self.older_bases, newest=self.base_model_digest)
        ages = {0, *(base.staleness for base in self.older_bases)}
        if any(verdict.staleness not in ages for verdict in self.verdicts):
            raise Refusal("malformed-message", "A verdict names a staleness that no older base model has.")

    @property
    def accepted(self) -> tuple[UpdateVerdict, ...]:
        """The verdicts of the updates in the new model."""
        return tuple(verdict for verdict in self.verdicts if verdict.accepted)

    @property
    def rejected(self) -> tuple[UpdateVerdict, ...]:
        """The verdicts of the updates left out."""
        return tuple(verdict for verdict in self.verdicts if not verdict.accepted)

    def to_map(self) -> dict[str, Any]:
        """Return the map that is signed; without older bases they are not named."""
        members = asdict(self) | {"verdicts": [verdict.to_map() for verdict in self.verdicts]}
        del members["older_bases"]
        return members | ({"older_bases": older_bases_to_list(self.older_bases)} if self.older_bases else {})

    @classmethod
    def from_map(cls, value: object) -> "RoundResult":
        """Read a result strictly. Raises `Refusal("malformed-message")`."""
        members = dict(exact_map(value, _named(_MEMBERS, value, "older_bases"), what="round result"))
        if not isinstance(members["verdicts"], list):
            raise Refusal("malformed-message", "The verdicts of the round result must be a list.")
        members["verdicts"] = tuple(UpdateVerdict.from_map(verdict) for verdict in members["verdicts"])
        if "older_bases" in members:
            newest = exact_bytes(members["base_model_digest"], 32, what="base_model_digest of the round result")
            members["older_bases"] = older_bases_from_list(members["older_bases"], newest=newest)
            if not members["older_bases"]:
                raise Refusal("malformed-message", "The round result names older base models where there are none.")
        return cls(**members)


_BYTE_FIELDS = {
    "round_id": 16,
    "federation_id": 16,
    "enclave_key_id": 32,
    "base_model_digest": 32,
    "model_digest": 32,
    "policy_digest": 64,
    "roster_digest": 64,
    "carried_in": 64,
    "carried_out": 64,
}
_MEMBERS = frozenset(member.name for member in fields(RoundResult))
_VERDICT_MEMBERS = frozenset(member.name for member in fields(UpdateVerdict))
_SCORE_MEMBERS = frozenset(member.name for member in fields(Scores))


def _named(members: frozenset[str], value: object, optional: str) -> frozenset[str]:
    """Return the members that a map must have, one of which is there only where it says something."""
    return members if isinstance(value, dict) and optional in value else members - {optional}


def sign_result(result: RoundResult, signer: Signer) -> bytes:
    """Return the result signed by the enclave's result key."""
    return sign1(signer, result.to_map(), purpose=PURPOSE)


def verify_result(signed: bytes, verifier: Verifier) -> RoundResult:
    """Return the result that this result key signed. Raises `Refusal`: "invalid-signature" or "malformed-message"."""
    return RoundResult.from_map(verify1(verifier, signed, purpose=PURPOSE, maximum_bytes=MAX_BYTES))


def result_digest(signed: bytes) -> bytes:
    """Return the 64-byte digest by which a signed result is named in the log."""
    return digest("signed round result", signed)
