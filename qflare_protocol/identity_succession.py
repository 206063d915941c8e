"""Cross-signatures from one server identity key to the next, so that pinned devices follow a rotation.

A statement holds two signatures: the old key names its successor, and the successor accepts. A device
that pins the first key of a chain of statements follows it to the last (docs/protocol.md, "Identity
succession"). Whoever holds an old private key can name a successor, which is why a key that may have
been stolen is not rotated but replaced together with every enrolment (docs/operations.md).
"""

from collections.abc import Sequence

from qflare_protocol.cose import Signer, Verifier, sign1, unverified_payload, verify1
from qflare_protocol.encoding import decode, digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map, text_field, unsigned_field

MAX_STATEMENTS = 32
MAX_STATEMENT_BYTES = 192 * 1024

_STATEMENT = frozenset({"succession", "acceptance"})
_SUCCESSION = frozenset({"algorithm", "successor_key", "predecessor_key", "rotated_at"})
_ACCEPTANCE = frozenset({"predecessor"})


def make_succession(predecessor: Signer, successor: Signer, *, rotated_at: int) -> bytes:
    """Return the statement by which `successor` takes the place of `predecessor`; `rotated_at` in Unix seconds."""
    if predecessor.algorithm != successor.algorithm:
        raise ValueError("A successor has the algorithm of its predecessor.")
    succession = sign1(
        predecessor,
        {
            "algorithm": successor.algorithm,
            "successor_key": successor.public,
            "predecessor_key": predecessor.public,
            "rotated_at": rotated_at,
        },
        purpose="identity succession",
    )
    acceptance = sign1(
        successor,
        {"predecessor": predecessor.fingerprint},
        purpose="identity acceptance",
        bound_to=digest("identity succession", succession),
    )
    return encode({"succession": succession, "acceptance": acceptance})


def follow_succession(pinned: Verifier, statements: Sequence[bytes]) -> Verifier:
    """Return the identity key to which the statements lead from the pinned one, in order; none leads to itself.

    Raises `Refusal("server-not-authenticated")` for a chain that does not hold at every step.
    """
    if len(statements) > MAX_STATEMENTS:
        raise _not_authenticated(f"The server's identity has more than {MAX_STATEMENTS} successors.")
    identity = pinned
    for statement in statements:
        try:
            identity = _successor(identity, statement)
        except Refusal as refusal:
            raise _not_authenticated("The succession of the server's identity keys does not hold.") from refusal
    return identity


def follow_log_succession(pinned: Verifier, statements: Sequence[bytes]) -> Verifier:
    """Return the log key to which the statements lead; they begin at the log's first key, wherever the pin stands.

    Raises `Refusal("server-not-authenticated")` for a chain that does not hold from the pinned key on.
    """
    if len(statements) > MAX_STATEMENTS:
        raise _not_authenticated(f"The log's key has more than {MAX_STATEMENTS} successors.")
    for number, statement in enumerate(statements):
        if _succession_members(statement).get("predecessor_key") == pinned.public:
            return follow_succession(pinned, statements[number:])
    return pinned


def resolve_identity(fingerprint: bytes, identity: Verifier, statements: Sequence[bytes]) -> Verifier:
    """Return `identity` when the pinned fingerprint is its own or leads to it: for a token, which pins no key.

    Raises `Refusal("server-not-authenticated")`.
    """
    if not statements:
        reached = identity
        first = identity.fingerprint
    else:
        members = _succession_members(statements[0])
        origin = Verifier(text_field(members, "algorithm", 40), bytes_field(members, "predecessor_key"))
        first, reached = origin.fingerprint, follow_succession(origin, statements)
    if first != fingerprint or reached != identity:
        raise _not_authenticated("The server's identity key is not the one this token pins, nor its successor.")
    return identity


def _successor(identity: Verifier, statement: bytes) -> Verifier:
    parts = require_map(
        decode(statement, what="identity succession", maximum_bytes=MAX_STATEMENT_BYTES), _STATEMENT, "succession"
    )
    members = require_map(
        verify1(identity, bytes_field(parts, "succession"), purpose="identity succession"), _SUCCESSION, "succession"
    )
    unsigned_field(members, "rotated_at")
    successor = Verifier(identity.algorithm, bytes_field(members, "successor_key"))
    if text_field(members, "algorithm", 40) != identity.algorithm or members["predecessor_key"] != identity.public:
        raise Refusal("malformed-message", "The succession names another algorithm or predecessor.")
    bound_to = digest("identity succession", bytes_field(parts, "succession"))
    accepted = verify1(successor, bytes_field(parts, "acceptance"), purpose="identity acceptance", bound_to=bound_to)
    if require_map(accepted, _ACCEPTANCE, "acceptance")["predecessor"] != identity.fingerprint:
        raise Refusal("malformed-message", "The acceptance names another predecessor.")
    return successor


def _succession_members(statement: bytes) -> dict[str, object]:
    try:
        parts = require_map(
            decode(statement, what="identity succession", maximum_bytes=MAX_STATEMENT_BYTES), _STATEMENT, "succession"
        )
        payload = unverified_payload(bytes_field(parts, "succession"), purpose="identity succession")
        return dict(require_map(payload, _SUCCESSION, "succession"))
    except Refusal as refusal:
        raise _not_authenticated("The succession of the server's identity keys does not hold.") from refusal


def _not_authenticated(sentence: str) -> Refusal:
    return Refusal("server-not-authenticated", sentence)
