"""The verbs of the keyring."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.utils import timezone

from keyring.announcements import KeyMade, announce_made_key
from keyring.envelope import unwrap, wrap
from keyring.models import KeyPurpose, ServerKey
from qflare_protocol import pqc
from qflare_protocol.cose import Signer, Verifier, key_fingerprint
from qflare_protocol.errors import Refusal
from qflare_protocol.identity_succession import MAX_STATEMENTS, make_succession
from qflare_protocol.pqc import KeyPair
from qflare_protocol.suites import suite_by_name

DEFAULT_ALGORITHM = "ML-DSA-44"

# The current signer of each purpose and algorithm with its row's id; a rotated one is dropped at the next use.
_SIGNERS: dict[tuple[str, str], tuple[uuid.UUID, Signer]] = {}
# Asked at each use of a key: written out, it costs a fifth of what the object mapper takes to compile it.
_CURRENT = "SELECT * FROM keyring_serverkey WHERE purpose = %s AND algorithm = %s AND retired_at IS NULL"


def server_signer(purpose: str, algorithm: str = DEFAULT_ALGORITHM) -> Signer:
    """Return the server's current key for a purpose ("identity" or "log"), made on first use.

    Raises `EnvelopeError` when the stored key does not open, `Refusal("algorithm-unavailable")`.
    """
    row = _current_key(purpose, algorithm)
    row_id, signer = _SIGNERS.get((purpose, algorithm), (None, None))
    if signer is None or row_id != row.id:
        private = unwrap(row.wrapped_private, **_column(row.id))
        signer = Signer(row.algorithm, private, bytes(row.public_key))
        _SIGNERS[purpose, algorithm] = row.id, signer
    return signer


@dataclass(frozen=True)
class SignedAnswer:
    """What the identity key signed, and the statements that lead to it from the key which the peer pins."""

    message: bytes
    succession: list[bytes]


def server_identity(suite: str) -> Signer:
    """Return the server's current identity key for peers of a suite. Raises as `server_signer`."""
    return server_signer("identity", suite_by_name(suite).signature)


def server_verifier(purpose: str, algorithm: str = DEFAULT_ALGORITHM) -> Verifier:
    """Return the public half of the server's current key, made on first use; needs no KEK once it exists."""
    row = _current_key(purpose, algorithm)
    return Verifier(row.algorithm, bytes(row.public_key))


def server_verifiers(purpose: str) -> list[Verifier]:
    """Return the public halves of all keys the server ever had for a purpose, newest first."""
    rows = ServerKey.objects.filter(purpose=purpose).order_by("-created_at")
    return [Verifier(row.algorithm, bytes(row.public_key)) for row in rows]


@transaction.atomic
def rotate_server_key(purpose: str, algorithm: str, *, now: datetime) -> tuple[Verifier, Verifier]:
    """Replace the current key of a purpose by a new one; return the public halves, old and new.

    The old key signs its successor and its private half is destroyed. The caller records the event. Raises
    `Refusal("conflict")` where somebody else rotates it at this moment, or a device could not follow so far.
    """
    old_signer = server_signer(purpose, algorithm)
    live = ServerKey.objects.filter(purpose=KeyPurpose(purpose), algorithm=algorithm, retired_at=None)
    old = live.select_for_update().first()
    if old is None or bytes(old.fingerprint) != old_signer.fingerprint:
        raise Refusal("conflict", "The key was rotated by somebody else at this moment; look at it again.")
    if ServerKey.objects.filter(purpose=old.purpose, algorithm=algorithm).count() > MAX_STATEMENTS:
        raise Refusal("conflict", f"A key has at most {MAX_STATEMENTS} successors, or devices of the first are lost.")
    pair = pqc.signature(algorithm).generate()
    new_signer = Signer(algorithm, pair.private, pair.public)
    old.retired_at, old.wrapped_private = now, None
    old.save(update_fields=("retired_at", "wrapped_private"))
    succession = make_succession(old_signer, new_signer, rotated_at=int(now.timestamp()))
    made_at = max(now, old.created_at + timedelta(microseconds=1))  # keys are ordered by it, whatever the clock does
    _insert_key(purpose, algorithm, pair, now=made_at, predecessor=old, succession=succession)
    return old_signer.verifier, new_signer.verifier


def identity_succession(pinned: bytes, current: Verifier) -> list[bytes]:
    """Return the statements that lead from the identity key with a pinned fingerprint to the current one.

    Raises `Refusal("server-not-authenticated")` where the server never had the pinned key.
    """
    if pinned == current.fingerprint:
        return []
    keys = ServerKey.objects.filter(purpose=KeyPurpose.IDENTITY, algorithm=current.algorithm)
    origin = keys.filter(fingerprint=pinned).first()
    if origin is None:
        raise Refusal("server-not-authenticated", "This server never had the identity key that the device pins.")
    statements, successors = [], {key.predecessor_id: key for key in keys}
    while origin.id in successors:
        origin = successors[origin.id]
        statements.append(bytes(origin.succession))
    return statements


def log_succession() -> list[bytes]:
    """Return the statements that lead from the log's first key to its current one; none before a rotation."""
    successors = ServerKey.objects.filter(purpose=KeyPurpose.LOG).exclude(succession=None).order_by("created_at")
    return [bytes(statement) for statement in successors.values_list("succession", flat=True) if statement]


def _current_key(purpose: str, algorithm: str) -> ServerKey:
    made = _live_key(purpose, algorithm) or _create_key(purpose, algorithm)
    return made or ServerKey.objects.get(purpose=KeyPurpose(purpose), algorithm=algorithm, retired_at=None)


def _live_key(purpose: str, algorithm: str) -> ServerKey | None:
    return next(iter(ServerKey.objects.raw(_CURRENT, [KeyPurpose(purpose).value, algorithm])), None)


def _create_key(purpose: str, algorithm: str) -> ServerKey | None:
    """Make the first key, or return None where another process was faster: the constraint settles it."""
    try:
        with transaction.atomic():
            row = _insert_key(purpose, algorithm, pqc.signature(algorithm).generate(), now=timezone.now())
            known_as = f"{algorithm} {bytes(row.fingerprint).hex()}"
            announce_made_key(
                KeyMade(ServerKey._meta.db_table, row.id, f"signatures: {purpose}", known_as, row.created_at)
            )
            return row
    except IntegrityError:
        return None


def _insert_key(
    purpose: str,
    algorithm: str,
    pair: KeyPair,
    *,
    now: datetime,
    predecessor: ServerKey | None = None,
    succession: bytes | None = None,
) -> ServerKey:
    row_id = uuid.uuid4()
    return ServerKey.objects.create(
        id=row_id,
        purpose=purpose,
        algorithm=algorithm,
        public_key=pair.public,
        wrapped_private=wrap(pair.private, **_column(row_id)),
        fingerprint=key_fingerprint(algorithm, pair.public),
        created_at=now,
        predecessor=predecessor,
        succession=succession,
    )


def _column(row_id: uuid.UUID) -> dict[str, str]:
    return {"table": "keyring_serverkey", "primary_key": str(row_id), "column": "wrapped_private"}
