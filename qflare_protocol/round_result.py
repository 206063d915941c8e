"""The result of a round as the enclave signs it: the new model, and the root over what became of every update.

The payload holds no time and nothing random, so that a successor process gives the same payload. Its size does
not depend on the number of devices: every device reads it with every model.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from qflare_protocol.cose import Signer, Verifier, sign1, verify1
from qflare_protocol.encoding import digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_bytes, exact_map, short_text, whole_number
from qflare_protocol.round_verdicts import UpdateVerdict, VerdictProof, encode_verdicts, leaves_of, verdicts_root
from qflare_protocol.staleness import OlderBase, checked_older_bases, older_bases_from_list, older_bases_to_list

PURPOSE = "round result"
MAX_BYTES = 1 << 16


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
class RoundResult:
    """What the enclave did in one round; digests of models are BLAKE3 (32 bytes), others SHA3-512 (64).

    `sample_total` is the number of samples behind the accepted updates. `verdicts_root` (32 bytes) is the root over
    `verdict_count` verdicts sorted by device id, of which `accepted_count` accept their update. `carried_in` and
    `carried_out` are the digests of the rows that the federation carried before and after the round: a round's
    `carried_in` is the last one's `carried_out`. `older_bases` are the models besides the newest to which updates
    were taken, from the least to the most stale. Raises `Refusal("malformed-message")` for values out of form.
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
    verdict_count: int
    accepted_count: int
    verdicts_root: bytes
    older_bases: tuple[OlderBase, ...] = ()

    def __post_init__(self) -> None:
        for name, length in _BYTE_FIELDS.items():
            exact_bytes(getattr(self, name), length, what=f"{name} of the round result")
        whole_number(self.model_bytes, 1, 1 << 40, what="model_bytes of the round result")
        whole_number(self.sample_total, 1, 1 << 60, what="sample_total of the round result")
        whole_number(self.verdict_count, 0, 1 << 40, what="verdict_count of the round result")
        whole_number(self.accepted_count, 0, self.verdict_count, what="accepted_count of the round result")
        short_text(self.rule, 32, what="rule of the round result")
        checked_older_bases(self.older_bases, newest=self.base_model_digest)

    @property
    def rejected_count(self) -> int:
        """How many updates were left out."""
        return self.verdict_count - self.accepted_count

    def require_staleness(self, verdict: UpdateVerdict) -> None:
        """Raise `Refusal("malformed-message")` for a verdict whose base model the result does not name."""
        if verdict.staleness not in {0, *(base.staleness for base in self.older_bases)}:
            raise Refusal("malformed-message", "A verdict names a staleness that no older base model has.")

    def to_map(self) -> dict[str, Any]:
        """Return the map that is signed; without older bases they are not named."""
        members = asdict(self)
        del members["older_bases"]
        return members | ({"older_bases": older_bases_to_list(self.older_bases)} if self.older_bases else {})

    @classmethod
    def from_map(cls, value: object) -> "RoundResult":
        """Read a result strictly. Raises `Refusal("malformed-message")`."""
        named = _MEMBERS if isinstance(value, dict) and "older_bases" in value else _MEMBERS - {"older_bases"}
        members = dict(exact_map(value, named, what="round result"))
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
    "verdicts_root": 32,
}
_MEMBERS = frozenset(member.name for member in fields(RoundResult))


def sign_result(result: RoundResult, signer: Signer) -> bytes:
    """Return the result signed by the enclave's result key."""
    return sign1(signer, result.to_map(), purpose=PURPOSE)


def verify_result(signed: bytes, verifier: Verifier) -> RoundResult:
    """Return the result that this result key signed. Raises `Refusal`: "invalid-signature" or "malformed-message"."""
    return RoundResult.from_map(verify1(verifier, signed, purpose=PURPOSE, maximum_bytes=MAX_BYTES))


def result_digest(signed: bytes) -> bytes:
    """Return the 64-byte digest by which a signed result is named in the log."""
    return digest("signed round result", signed)


def own_verdict(result: RoundResult, proof: VerdictProof, device_id: bytes) -> UpdateVerdict:
    """Return the verdict on a device's own update.

    Raises `Refusal`: "proof-refused" where the result does not have it or it is another device's, "malformed-message".
    """
    verdict = proof.verdict_under(result.verdicts_root, result.verdict_count)
    if verdict.device_id != device_id:
        raise Refusal("proof-refused", "The server proves the verdict on another device's update.")
    result.require_staleness(verdict)
    return verdict


@dataclass(frozen=True)
class SignedResult:
    """What leaves the enclave of a result: the signed structure, and the encoded list of verdicts beside it."""

    signed: bytes
    verdicts: bytes


@dataclass(frozen=True)
class JudgedRound:
    """A result as it was made and what it says, with all verdicts that it commits to, sorted by device id."""

    made: SignedResult = field(compare=False, repr=False)
    result: RoundResult
    verdicts: tuple[UpdateVerdict, ...]

    @property
    def accepted(self) -> tuple[UpdateVerdict, ...]:
        """The verdicts of the updates in the new model."""
        return tuple(verdict for verdict in self.verdicts if verdict.accepted)

    @property
    def rejected(self) -> tuple[UpdateVerdict, ...]:
        """The verdicts of the updates left out."""
        return tuple(verdict for verdict in self.verdicts if not verdict.accepted)

    @classmethod
    def verified(cls, made: SignedResult, verifier: Verifier) -> Self:
        """Return a result and its verdicts as this result key signed them.

        Raises `Refusal`: "invalid-signature", "proof-refused" where the verdicts are others, "malformed-message".
        """
        result, leaves = verify_result(made.signed, verifier), leaves_of(made.verdicts)
        verdicts = tuple(map(UpdateVerdict.decoded, leaves))
        counts = len(verdicts), sum(verdict.accepted for verdict in verdicts)
        committed = counts == (result.verdict_count, result.accepted_count)
        if not committed or verdicts_root(leaves) != result.verdicts_root:
            raise Refusal("proof-refused", "The verdicts are not those that the enclave signed.")
        for verdict in verdicts:
            result.require_staleness(verdict)
        return cls(made, result, verdicts)


def commitment_to(verdicts: Sequence[UpdateVerdict]) -> dict[str, Any]:
    """Return the members by which a result names its verdicts."""
    return {
        "verdict_count": len(verdicts),
        "accepted_count": sum(verdict.accepted for verdict in verdicts),
        "verdicts_root": verdicts_root(verdict.encoded() for verdict in verdicts),
    }


def sign_judged(result: RoundResult, verdicts: Sequence[UpdateVerdict], signer: Signer) -> SignedResult:
    """Return a result signed by the enclave's result key, with the verdicts that it names."""
    return SignedResult(sign_result(result, signer), encode_verdicts(verdicts))
