"""The question of every `POST /api/work`, asked by one prepared statement: which round waits, or when to ask again."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from devices.models import Device, DeviceKey
from devices.prepared_statements import Converter, converted, converters, database_value, prepared_cursor, quoted
from training.models import (
    LEASED,
    WAITING,
    Federation,
    FederationState,
    ModelVersion,
    Participation,
    Round,
    RoundState,
)
from training.terms import Mode

BETWEEN_BUFFERS = timedelta(seconds=10)
AWAITED = timedelta(seconds=10)
"""How long a round is awaited that is being prepared, or that opens by itself when the one before is over."""

# What is asked of the federations is computed only where no round waits.
_STATEMENT = """
SELECT w.*,
  CASE WHEN w.round_id IS NULL THEN (
    SELECT MIN(f.round_seconds) FROM {federations} f WHERE f.state = %s AND (f.{group} = '' OR f.{group} = %s)) END,
  CASE WHEN w.round_id IS NULL THEN (
    SELECT COUNT(*) FROM {federations} f LEFT JOIN {versions} v ON v.id = f.current_version_id
    WHERE f.state = %s AND (f.{group} = '' OR f.{group} = %s) AND f.mode = %s AND (v.created_at >= %s OR EXISTS (
      SELECT 1 FROM {rounds} r WHERE r.federation_id = f.id AND r.state IN ({leased})))) END,
  CASE WHEN w.round_id IS NULL THEN (
    SELECT MAX(COALESCE(r.invited, m.invited)) FROM {federations} f
    LEFT JOIN {rounds} r ON r.federation_id = f.id AND r.state IN ({leased})
    LEFT JOIN {rounds} m ON m.resulting_version_id = f.current_version_id
    JOIN {participations} p ON p.round_id = COALESCE(r.id, m.id) AND p.device_id = %s
    WHERE f.state = %s AND (f.{group} = '' OR f.{group} = %s) AND (
      (r.state = %s AND r.created_at >= %s)
      OR (f.idle_devices IS NOT NULL AND (r.closed_at >= %s OR (r.id IS NULL AND m.finished_at >= %s AND NOT EXISTS (
        SELECT 1 FROM {rounds} o WHERE o.federation_id = f.id AND o.state = %s)))))) END,
  CASE WHEN w.round_id IS NULL THEN (
    SELECT COUNT(*) FROM {federations} f WHERE f.evaluated_by_devices AND (f.{group} = '' OR f.{group} = %s)) END
FROM (SELECT 1 AS asked) AS one LEFT JOIN (
  SELECT {columns}
  FROM {participations} p JOIN {rounds} r ON r.id = p.round_id JOIN {federations} f ON f.id = r.federation_id
  JOIN {versions} v ON v.id = r.base_version_id JOIN {keys} k ON k.id = p.signature_key_id
  WHERE p.device_id = %s AND p.state IN ({waiting}) AND r.state = %s AND r.deadline_at > %s
    AND (k.valid_until IS NULL OR k.valid_until > %s)
  ORDER BY r.opened_at LIMIT 1) AS w ON one.asked = 1
"""
_COLUMNS = (
    ("r", Round, "id", "round_id"),
    ("r", Round, "number", "round_number"),
    ("r", Round, "deadline_at", "deadline_at"),
    ("r", Round, "older_bases", "older_bases"),
    ("f", Federation, "id", "federation_id"),
    ("f", Federation, "name", "federation"),
    ("f", Federation, "trainer", "trainer"),
    ("f", Federation, "trainer_parameters", "trainer_parameters"),
    ("v", ModelVersion, "number", "base_version"),
    ("v", ModelVersion, "digest", "base_digest"),
    ("k", DeviceKey, "fingerprint", "signature_key"),
)


@dataclass(frozen=True)
class WaitingRound:
    """What a device is told of the round that waits for it, but for its enclave's evidence."""

    round_id: uuid.UUID
    round_number: int
    deadline_at: datetime
    older_bases: list[list[Any]]
    federation_id: uuid.UUID
    federation: str
    trainer: str
    trainer_parameters: dict[str, Any]
    base_version: int
    base_digest: bytes
    signature_key: bytes


@dataclass(frozen=True)
class NothingWaits:
    """By what a device without work is told when to ask again.

    `shortest_seconds` is that of the rounds it may be in, None where there are none; `between_buffers` says whether
    an asynchronous federation is about to open its next one, `awaited_devices` how many devices are invited to the
    round that is about to open for this one, None where none is, `evaluations_asked` whether a federation of the device
    asks its devices to evaluate versions. Only a device of that round, or of the one before it, awaits: where rounds
    invite few of many, the others ask as ever.
    """

    shortest_seconds: int | None
    between_buffers: bool
    evaluations_asked: bool
    awaited_devices: int | None = None


def waiting_round(device: Device, *, now: datetime) -> WaitingRound | NothingWaits:
    """Return the round that waits for a device, the one that opened first, or what there is in its place."""
    moment = database_value(Round._meta.get_field("deadline_at"), now)
    just_now = database_value(ModelVersion._meta.get_field("created_at"), now - BETWEEN_BUFFERS)
    awaited_since = database_value(Round._meta.get_field("created_at"), now - AWAITED)
    device_id = database_value(Device._meta.pk, device.pk)
    active, group, leased = FederationState.ACTIVE.value, device.group, [state.value for state in LEASED]
    values = [
        active, group, active, group, Mode.ASYNCHRONOUS.value, just_now, *leased,
        *leased, device_id, active, group, RoundState.PENDING.value, awaited_since, awaited_since, awaited_since,
        RoundState.OPEN.value, group, device_id, *(state.value for state in WAITING), RoundState.OPEN.value,
        moment, moment,
    ]  # fmt: skip
    with prepared_cursor() as cursor:
        cursor.execute(_statement(), values)
        *found, shortest, gaps, awaited, evaluated = cursor.fetchone()
    if found[0] is None:
        return NothingWaits(shortest, bool(gaps), bool(evaluated), awaited)
    named = dict(zip([name for *_, name in _COLUMNS], converted(found, _converters()), strict=True))
    return WaitingRound(**named | {name: bytes(named[name]) for name in ("base_digest", "signature_key")})


@cache
def _statement() -> str:
    tables = {
        "federations": Federation, "versions": ModelVersion, "rounds": Round, "participations": Participation,
        "keys": DeviceKey,
    }  # fmt: skip
    return _STATEMENT.format(
        columns=", ".join(f"{alias}.{quoted(field)} AS {name}" for alias, _, field, name in _COLUMNS),
        group=quoted("group"),
        leased=", ".join(["%s"] * len(LEASED)),
        waiting=", ".join(["%s"] * len(WAITING)),
        **{name: quoted(model._meta.db_table) for name, model in tables.items()},
    )


@cache
def _converters() -> list[Converter | None]:
    return converters([model._meta.get_field(field) for _, model, field, _ in _COLUMNS])
