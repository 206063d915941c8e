"""The verbs of the audit log."""

import hmac
import json
import os
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from audit.bulk_rows import insert_rows
from audit.kinds import describe
from audit.models import ERASED, Checkpoint, Event, WitnessSighting
from audit.sequencing import BATCH, append_to_log, take_sequencer_lock
from audit.tree import consistency_proof, inclusion_proof, root_at, root_of_prefix, tree_size
from keyring.announcements import KeyMade
from keyring.services import rotate_server_key, server_signer, server_verifier, server_verifiers
from operator_admin.party import key_of
from qflare_protocol import checkpoint as notes
from qflare_protocol.audit_entry import SALT_BYTES, commitment, disclosure_bytes, encode_payload
from qflare_protocol.cose import Signer
from qflare_protocol.errors import Refusal

__all__ = [
    "consistency_proof",
    "current_checkpoint",
    "erase_disclosures",
    "inclusion_proof",
    "issue_checkpoint",
    "log_origin",
    "log_verifier_key",
    "record_damage",
    "record_event",
    "record_events",
    "record_export",
    "record_made_key",
    "record_verification",
    "rotate_log_key",
    "sequence_events",
    "sequence_log",
    "witness_checkpoint",
]

CHECKPOINT_BUCKET_SECONDS = 300
MAX_DAMAGE_TEXT = 500
_NEVER_ERASED = "log.key_rotated"  # without it nobody could follow from one key of the log to the next


def record_event(kind: str, *, actor: str, payload: dict[str, Any], now: datetime | None = None) -> Event:
    """Write an event in the caller's transaction.

    `actor` is "device:<name>", "operator:<name>" or "system"; the key of a `Party` joins the payload as
    `actor_id`. The payload is a small JSON object that carries names beside ids and no secret. Raises
    `KeyError` for a kind that is not registered or a payload without a member of its sentence, `ValueError`
    for values that are not JSON, `Refusal("malformed-message")` for a payload the log cannot carry,
    `RuntimeError` outside a transaction.
    """
    _require_transaction(kind)
    return Event.objects.create(**_members(kind, actor, payload, now or timezone.now()))


def record_events(kind: str, *, actor: str, payloads: Sequence[dict[str, Any]], now: datetime | None = None) -> None:
    """Write many events of one kind in the caller's transaction, in one statement. Raises as `record_event`."""
    _require_transaction(kind)
    moment = now or timezone.now()
    rows = [{**_DEFAULTS, "event_id": uuid.uuid4(), **_members(kind, actor, one, moment)} for one in payloads]
    insert_rows(Event, _EVENT_FIELDS, [tuple(row[field] for field in _EVENT_FIELDS) for row in rows])


def record_made_key(made: KeyMade) -> None:
    """Record a server key that was made on first use; the log's own keys are no exception."""
    payload = {"key_id": str(made.id), "table": made.table, "purpose": made.purpose, "name": made.name}
    record_event("server_key.made", actor="system", payload=payload, now=made.made_at)


_DEFAULTS = {"sequenced": False, "erased_at": None}
_EVENT_FIELDS = (
    "event_id", "occurred_at", "kind", "actor", "payload", "payload_bytes", "salt", "commitment", "sequenced",
    "erased_at",
)  # fmt: skip


def _require_transaction(kind: str) -> None:
    if not connection.in_atomic_block:
        raise RuntimeError(f"the event {kind} has to be recorded in the transaction it tells of")


def _members(kind: str, actor: str, payload: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Return an event's columns, its payload encoded and committed to."""
    if actor_id := key_of(actor):
        payload = {**payload, "actor_id": actor_id}
    describe(kind, payload)
    payload_bytes = encode_payload(json.loads(json.dumps(payload, allow_nan=False)))
    salt = os.urandom(SALT_BYTES)
    return {
        "kind": kind,
        "actor": actor,
        "payload": payload,
        "payload_bytes": payload_bytes,
        "salt": salt,
        "commitment": commitment(disclosure_bytes(salt, actor, payload_bytes)),
        "occurred_at": now,
    }


def sequence_log(now: datetime | None = None) -> int:
    """Append all waiting events, each batch with its checkpoint; sign an idle log in every new bucket.

    Return how many events were appended; none where another sequencer is at work.
    """
    appended = 0
    while count := sequence_events(now=now):
        appended += count
    issue_checkpoint(now)
    return appended


def sequence_events(limit: int = BATCH, now: datetime | None = None) -> int:
    """Append up to `limit` waiting events to chain and tree and sign the result, in one commit; return how many.

    Events are taken by their flag and not by "id above the last one": on PostgreSQL a lower id can
    commit later. What a crash interrupts is not there, and is done again by the next call.
    """
    now = now or timezone.now()
    with transaction.atomic():
        if not take_sequencer_lock(now):
            return 0
        waiting = Event.objects.filter(sequenced=False).order_by("id")[:limit]
        events = list(waiting.values_list("id", "occurred_at", "kind", "commitment"))
        if events:
            size, root = append_to_log(events)
            _sign(size, root, now)
    return len(events)


def issue_checkpoint(now: datetime | None = None) -> Checkpoint | None:
    """Sign the log as it stands, if a new 300-second bucket has begun, so that silence shows.

    An empty log is not signed: nothing can be proved consistent with it (`merkle.verify_consistency`).
    """
    now = now or timezone.now()
    with transaction.atomic():
        if not take_sequencer_lock(now):
            return None
        size, last = tree_size(), current_checkpoint()
        unchanged = last is not None and last.size == size and _bucket(last.created_at) >= _bucket(now)
        return None if size == 0 or unchanged else _sign(size, root_at(size), now)


def _sign(size: int, root: bytes, now: datetime, signer: Signer | None = None) -> Checkpoint:
    """Sign the log; a clock that was set back does not make a checkpoint older than the one before it."""
    last = current_checkpoint()
    now = now if last is None else max(now, last.created_at)
    head = notes.Checkpoint(log_origin(), size, root)
    note = notes.sign_checkpoint(signer or server_signer("log"), head, int(now.timestamp()))
    return Checkpoint.objects.create(size=size, root=root, note=note, created_at=now)


def current_checkpoint() -> Checkpoint | None:
    """Return the latest signed checkpoint, or None before the first."""
    return Checkpoint.objects.order_by("-id").first()


def log_origin() -> str:
    """Return the origin line of this log: it names the log's first key, so no two logs share one."""
    verifiers = server_verifiers("log") or [server_verifier("log")]  # the latter makes the first key
    return f"qflare/{verifiers[-1].fingerprint.hex()[:32]}"


def log_verifier_key() -> str:
    """Return the log's origin and current public key as a C2SP verifier key, for devices and auditors to pin."""
    return notes.format_verifier_key(log_origin(), server_verifier("log"))


def erase_disclosures(event_ids: Sequence[int], *, reason: str, actor: str, now: datetime | None = None) -> int:
    """Erase who and what of events that are in the log; return how many. Entries and proofs stay as they are.

    Events that wait for the sequencer, those erased already, and rotations of the log's key are left alone.
    """
    now = now or timezone.now()
    with transaction.atomic():
        rows = Event.objects.filter(id__in=event_ids, sequenced=True, erased_at=None).exclude(kind=_NEVER_ERASED)
        erased = rows.update(actor=ERASED, payload={}, payload_bytes=b"", salt=b"", erased_at=now)
        if erased:
            record_event("log.disclosures_erased", actor=actor, payload={"count": erased, "reason": reason}, now=now)
    return erased


def witness_checkpoint(device_name: str, size: int, root: bytes, now: datetime | None = None) -> None:
    """Record the checkpoint a device last saw, after checking that it is part of this log.

    A checkpoint that is not shows that one of the two has been shown another log: the report is
    committed before the refusal, so call this outside of any transaction (`RuntimeError` otherwise).
    Raises `Refusal("log-inconsistent")`.
    """
    now = now or timezone.now()
    with transaction.atomic(durable=True):
        consistent = _is_part_of_the_log(size, root)
        if consistent:
            sighting = {"size": size, "root": root, "seen_at": now}
            known = WitnessSighting.objects.filter(device_name=device_name)
            if not known.filter(size__gt=size).exists():  # a replayed challenge must not move it back
                WitnessSighting.objects.update_or_create(device_name=device_name, defaults=sighting)
        else:
            payload = {"device": device_name, "size": size, "root": root.hex()}
            record_event("log.fork_reported", actor=f"device:{device_name}", payload=payload, now=now)
    if not consistent:
        raise Refusal("log-inconsistent", "The checkpoint you have seen is not part of this log; tell the operator.")


def rotate_log_key(*, reason: str, actor: str, now: datetime | None = None) -> bytes:
    """Replace the key that signs checkpoints and return the fingerprint of the new one.

    The log tells of it itself: `log.key_rotated` is the last entry that the old key signs, and the new key signs
    the same tree right after it. The old key also signs its successor, for devices, and is destroyed. Raises
    `Refusal("conflict")` without a reason, while the sequencer is at work, or beyond 32 rotations.
    """
    now = now or timezone.now()
    if not reason.strip():
        raise Refusal("conflict", "State the reason for this change; it is kept in the audit log.")
    sequence_log(now)
    with transaction.atomic():
        if not take_sequencer_lock(now):
            raise Refusal("conflict", "The log is being written at this moment; try again.")
        old_signer = server_signer("log")
        old, new = rotate_server_key("log", notes.ALGORITHM, now=now)
        payload = {"old": old.fingerprint.hex(), "new": new.fingerprint.hex(), "reason": reason.strip()}
        event = record_event("log.key_rotated", actor=actor, payload=payload, now=now)
        size, root = append_to_log([(event.pk, event.occurred_at, event.kind, bytes(event.commitment))])
        last = _sign(size, root, now, old_signer)
        _sign(size, root, last.created_at + timedelta(seconds=1))
    return new.fingerprint


def _is_part_of_the_log(size: int, root: bytes) -> bool:
    ours = root_of_prefix(size)
    return ours is not None and hmac.compare_digest(ours, root)


def _bucket(moment: datetime) -> int:
    return int(moment.timestamp()) // CHECKPOINT_BUCKET_SECONDS


@transaction.atomic
def record_verification(*, entries: int, checkpoints: int, root: bytes, actor: str) -> None:
    """Record that somebody had the log verified here and that it held: up to how many entries, under which root."""
    record_event(
        "log.verified", actor=actor, payload={"entries": entries, "checkpoints": checkpoints, "root": root.hex()}
    )


@transaction.atomic
def record_export(*, entries: int, actor: str) -> None:
    """Record that somebody took the log away, with all that its entries disclose."""
    record_event("log.exported", actor=actor, payload={"entries": entries})


@transaction.atomic
def record_damage(detail: str, *, actor: str) -> None:
    """Record that a verification here found the log damaged, and where."""
    record_event("log.damaged", actor=actor, payload={"detail": detail[:MAX_DAMAGE_TEXT]})
