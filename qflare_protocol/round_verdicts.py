"""What became of every update of a round: the list that a signed result commits to, and proofs of single verdicts.

The list is as long as the round and only operators and auditors read it whole. Its entries are the leaves of a
Merkle tree (RFC 6962) whose root the enclave signs, so that a device checks its own verdict without the others'.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from qflare_protocol import merkle
from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import CATALOGUE, Refusal
from qflare_protocol.fields import exact_bytes, exact_map, finite_number, short_text, whole_number
from qflare_protocol.staleness import MAX_STALENESS

NORM_ABOVE_BOUND = "norm-above-bound"
COSINE_BELOW_MINIMUM = "cosine-below-minimum"
ROOT_COSINE_BELOW_MINIMUM = "root-cosine-below-minimum"
SCREENING_REASONS = {
    NORM_ABOVE_BOUND: "The update's norm is above the bound over the median norm.",
    COSINE_BELOW_MINIMUM: "The update points away from the consensus of the others.",
    ROOT_COSINE_BELOW_MINIMUM: "The update points away from the root device's update.",
}
"""Reasons of the filters; every other reason is a code of the error catalogue."""

MAX_VERDICTS_BYTES = 63 << 20
MAX_VERDICT_BYTES = 2048
MAX_PATH = 64
MAX_DETAIL = 300
_LARGEST = 1.8e308


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

    def encoded(self) -> bytes:
        """Return the verdict as a leaf of the list: a CBOR map; no staleness is not named."""
        members = asdict(self)
        if not self.staleness:
            del members["staleness"]
        return encode(members)

    @classmethod
    def decoded(cls, leaf: bytes) -> "UpdateVerdict":
        """Read a leaf strictly. Raises `Refusal("malformed-message")`."""
        value = decode(leaf, what="verdict", maximum_bytes=MAX_VERDICT_BYTES)
        named = _MEMBERS if isinstance(value, dict) and "staleness" in value else _MEMBERS - {"staleness"}
        members = dict(exact_map(value, named, what="verdict"))
        whole_number(members.get("staleness", 1), 1, MAX_STALENESS, what="staleness, where it is named,")
        if members["scores"] is not None:
            members["scores"] = Scores(**exact_map(members["scores"], _SCORE_MEMBERS, what="scores"))
        return cls(**members)


_MEMBERS = frozenset(member.name for member in fields(UpdateVerdict))
_SCORE_MEMBERS = frozenset(member.name for member in fields(Scores))


def encode_verdicts(verdicts: Iterable[UpdateVerdict]) -> bytes:
    """Return the list of a round's verdicts, in their order, as it is kept and exported: CBOR of its leaves."""
    return encode([verdict.encoded() for verdict in verdicts])


def leaves_of(verdicts: bytes) -> list[bytes]:
    """Return the leaves of an encoded list of verdicts, not yet read. Raises `Refusal("malformed-message")`."""
    leaves = decode(verdicts, what="list of verdicts", maximum_bytes=MAX_VERDICTS_BYTES)
    if not isinstance(leaves, list) or not all(isinstance(leaf, bytes) for leaf in leaves):
        raise Refusal("malformed-message", "The list of verdicts must hold byte strings.")
    return leaves


def verdicts_root(leaves: Iterable[bytes]) -> bytes:
    """Return the 32-byte root by which a signed result names its verdicts (RFC 6962 section 2.1)."""
    return merkle.root_from_leaves(map(merkle.leaf_hash, leaves))


@dataclass(frozen=True)
class VerdictProof:
    """One verdict with its place among the others and the hashes that lead from there to the root."""

    leaf: bytes
    index: int
    path: tuple[bytes, ...]

    def to_map(self) -> dict[str, Any]:
        """Return the map that travels."""
        return {"verdict": self.leaf, "index": self.index, "path": list(self.path)}

    @classmethod
    def from_map(cls, value: object) -> "VerdictProof":
        """Read a proof strictly. Raises `Refusal("malformed-message")`."""
        members: Mapping[str, Any] = exact_map(value, frozenset({"verdict", "index", "path"}), what="verdict proof")
        path = members["path"]
        if not isinstance(members["verdict"], bytes) or not isinstance(path, list) or len(path) > MAX_PATH:
            raise Refusal("malformed-message", "The verdict proof is not in form.")
        hashes = tuple(exact_bytes(one, merkle.HASH_BYTES, what="hash of the verdict proof") for one in path)
        return cls(members["verdict"], whole_number(members["index"], 0, 1 << 40, what="index of the verdict"), hashes)

    def verdict_under(self, root: bytes, count: int) -> UpdateVerdict:
        """Return the verdict, one of `count` under that root.

        Raises `Refusal`: "proof-refused" where the path does not lead there, "malformed-message".
        """
        merkle.verify_inclusion(merkle.leaf_hash(self.leaf), self.index, count, self.path, root)
        return UpdateVerdict.decoded(self.leaf)


def verdict_proofs(leaves: Sequence[bytes]) -> list[VerdictProof]:
    """Return the proof of every verdict in a list, in its order."""
    tree, nodes = merkle.CompactTree(), {}
    for leaf in leaves:
        for node in tree.append(merkle.leaf_hash(leaf)):
            nodes[node.level, node.index] = node.hash

    def stored(level: int, index: int) -> bytes:
        return nodes[level, index]

    size = len(leaves)
    return [
        VerdictProof(leaf, index, tuple(merkle.inclusion_proof(index, size, stored)))
        for index, leaf in enumerate(leaves)
    ]
