"""The verbs of the keyring."""

import uuid

from django.db import IntegrityError, transaction
from django.utils import timezone

from keyring.envelope import unwrap, wrap
from keyring.models import KeyPurpose, ServerKey
from qflare_protocol import pqc
from qflare_protocol.cose import Signer, Verifier, key_fingerprint

DEFAULT_ALGORITHM = "ML-DSA-44"

# Unwrapped signers of this process by row id: a row never changes its key.
_SIGNERS: dict[uuid.UUID, Signer] = {}


def server_signer(purpose: str, algorithm: str = DEFAULT_ALGORITHM) -> Signer:
    """Return the server's current key for a purpose ("identity" or "log"), made on first use.

    Raises `EnvelopeError` when the stored key does not open, `Refusal("algorithm-unavailable")`.
    """
    row = _current_key(purpose, algorithm)
    if row.id not in _SIGNERS:
        private = unwrap(row.wrapped_private, **_column(row.id))
        _SIGNERS[row.id] = Signer(row.algorithm, private, bytes(row.public_key))
    return _SIGNERS[row.id]


def server_verifier(purpose: str, algorithm: str = DEFAULT_ALGORITHM) -> Verifier:
    """Return the public half of the server's current key, made on first use; needs no KEK once it exists."""
    row = _current_key(purpose, algorithm)
    return Verifier(row.algorithm, bytes(row.public_key))


def server_verifiers(purpose: str) -> list[Verifier]:
    """Return the public halves of all keys the server ever had for a purpose, newest first."""
    rows = ServerKey.objects.filter(purpose=purpose).order_by("-created_at")
    return [Verifier(row.algorithm, bytes(row.public_key)) for row in rows]


def _current_key(purpose: str, algorithm: str) -> ServerKey:
    current = ServerKey.objects.filter(purpose=KeyPurpose(purpose), algorithm=algorithm, retired_at=None)
    return current.first() or _create_key(purpose, algorithm) or current.get()


def _create_key(purpose: str, algorithm: str) -> ServerKey | None:
    """Make the first key, or return None where another process was faster: the constraint settles it."""
    row_id, pair = uuid.uuid4(), pqc.signature(algorithm).generate()
    try:
        with transaction.atomic():
            return ServerKey.objects.create(
                id=row_id,
                purpose=purpose,
                algorithm=algorithm,
                public_key=pair.public,
                wrapped_private=wrap(pair.private, **_column(row_id)),
                fingerprint=key_fingerprint(algorithm, pair.public),
                created_at=timezone.now(),
            )
    except IntegrityError:
        return None


def _column(row_id: uuid.UUID) -> dict[str, str]:
    return {"table": "keyring_serverkey", "primary_key": str(row_id), "column": "wrapped_private"}
