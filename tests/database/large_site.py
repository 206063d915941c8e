"""A site that has run for years: tens of thousands of rows in every table that grows, made by the database itself."""

from django.db import connection

from audit.services import sequence_log

ROWS = 20_000

# What grows with devices, sessions, rounds or time. Federations, policies, schedules and keys of the server stay few.
LARGE = {
    "devices_device", "devices_devicekey", "device_sessions_session", "device_sessions_exchange",
    "device_sessions_keyrotationattempt", "device_sessions_reservedqkdkey", "enrollment_enrolmenttoken",
    "enrollment_enrolmentattempt", "enclave_enclaveinstance", "training_round", "training_modelversion",
    "training_participation", "training_update", "training_roundstep", "training_privacyrelease", "audit_event",
    "audit_entry", "audit_checkpoint", "audit_witnesssighting", "training_rangestep", "training_versionevaluation",
}  # fmt: skip

_UUID = "md5('{}' || n)::uuid"
_BYTES = "decode(repeat(md5('{}' || n), {}), 'hex')"
_WHEN = "now() - n * interval '1 hour'"  # over two years, the newest first


def _uuid(kind: str) -> str:
    return _UUID.format(kind)


def _bytes(kind: str, length: int) -> str:
    return _BYTES.format(kind, length // 16)


_ANY_FEDERATION = "(SELECT id FROM training_federation LIMIT 1)"
_FILL: dict[str, dict[str, str]] = {
    "devices_device": {
        "id": _uuid("device"), "name": "'device-' || n", '"group"': "'ward-' || n % 50", "suite": "'QF1-F640'",
        "labels": "'{}'",
        "state": "'active'", "state_reason": "''", "state_changed_at": _WHEN, "enrolled_at": _WHEN,
        "keys_due_at": "now() + interval '90 days'",
    },
    "devices_devicekey": {
        "device_id": _uuid("device"), "purpose": "'signature'", "algorithm": "'ML-DSA-44'", "public_key": "''",
        "fingerprint": _bytes("key", 32), "version": "1", "valid_from": _WHEN, "sessions_opened": "0",
    },
    "device_sessions_session": {
        "id": _uuid("session"), "device_id": _uuid("device"), "suite": "'QF1-F640'",
        "challenge_digest": _bytes("m1", 64), "state": "CASE WHEN n < 500 THEN 'active' ELSE 'ended' END",
        "end_reason": "''", "wrapped_secret": "CASE WHEN n < 500 THEN ''::bytea END", "key_version": "1",
        "identity_fingerprint": "''", "qkd": "false", "generation": "0", "first_epoch": "1",
        "epoch": "9999999999", "highest_sequence": "0", "requests": "0", "transfer_bytes": "0", "challenged_at": _WHEN,
        "activated_at": _WHEN, "expires_at": f"{_WHEN} + interval '100 days'",
        "ended_at": f"CASE WHEN n >= 500 THEN {_WHEN} + interval '1 hour' END",
    },
    "device_sessions_exchange": {
        "session_id": _uuid("session"), "sequence": "1", "request_digest": "''", "status": "200",
        "content_type": "''", "salt": "''", "answer": "''",
    },
    "device_sessions_keyrotationattempt": {
        "id": _uuid("rotation"), "device_id": _uuid("device"), "kem_key": "''", "signature_key": "''",
        "wrapped_state": "''", "expires_at": "now() + n * interval '1 hour'",
    },
    "device_sessions_reservedqkdkey": {
        "id": _uuid("qkd"), "device_id": _uuid("device"), "request_digest": _bytes("q1", 64),
        "key_id": _uuid("qkd key"), "expires_at": "now() + n * interval '1 hour'",
    },
    "enrollment_enrolmenttoken": {
        "id": _uuid("token"), "lookup": _bytes("token", 16), "verifier": "''", "device_name": "''", '"group"': "''",
        "suite": "'QF1-F640'", "identity_fingerprint": "''", "issued_by": "'operator:olga'", "issued_at": _WHEN,
        "expires_at": "now() + interval '1 day'",
    },
    "enrollment_enrolmentattempt": {
        "id": _uuid("attempt"), "token_id": _uuid("token"), "device_name": "''", "suite": "'QF1-F640'",
        "kem_key": "''", "signature_key": "''", "identity_fingerprint": "''",
        "expires_at": "now() + n * interval '1 hour'",
    },
    "enclave_enclaveinstance": {
        "id": _uuid("enclave"), "round_id": _uuid("round"), "range_index": "0", "range_count": "1",
        "attester": "'software'", "tier": "'warning'", "key_id": _bytes("enclave", 32), "hpke_public_key": "''",
        "result_public_key": "''", "measurement": "''", "policy_digest": "''", "evidence": "''",
        "attestation_key": "''", "protections": "'{}'", "appraisal": "'{}'", "prepared_at": _WHEN,
        "retired_at": _WHEN, "key_destroyed_at": _WHEN,
    },
    "training_modelversion": {
        "federation_id": _ANY_FEDERATION, "number": "n + 1000", "digest": "''", "size_bytes": "1",
        "blob_digest": "md5('blob' || n)", "blob_bytes": "1", "wrapped_content_key": "''", "metrics": "'{}'",
        "reported_metrics": "'{}'", "evaluation_error": "''", "created_at": _WHEN, "evaluated_at": _WHEN,
        "evaluations": "0", "evaluation_sums": "'{}'",
    },
    "training_round": {
        "id": _uuid("round"), "federation_id": _ANY_FEDERATION, "number": "n + 1000", "state": "'failed'",
        "base_version_id": "(SELECT min(id) FROM training_modelversion)", "policy": "'{}'", "roster": "''",
        "older_bases": "'[]'", "invited": "3", "minimum_updates": "3", "failures": "0", "extensions": "0",
        "target_updates": "3", "submissions": "0", "created_at": _WHEN, "finished_at": _WHEN, "end_reason": "'x'",
        "attempts": "0", "restarts": "0", "unattended_seconds": "0",
    },
    "training_participation": {
        "round_id": _uuid("round"), "device_id": _uuid("device"),
        "signature_key_id": "(SELECT min(id) FROM devices_devicekey) + n", "state": "'invited'", "reason": "''",
        "scores": "'{}'", "progress_metrics": "'{}'", "submitted_at": _WHEN,
    },
    "training_update": {
        "participation_id": "(SELECT max(id) FROM training_participation) + 1 - n", "manifest": "''",
        "manifest_digest": _bytes("manifest", 64), "sample_count": "1", "metrics": "'{}'",
        "blob_digest": "md5('update' || n)", "blob_bytes": "1", "receipt": "''", "received_at": _WHEN,
    },
    "training_versionevaluation": {
        "version_id": "(SELECT max(id) FROM training_modelversion) + 1 - n", "device_id": _uuid("device"),
        "sample_count": "1", "metrics": "'{}'", "reported_at": _WHEN,
    },
    "training_roundstep": {"round_id": _uuid("round"), "name": "'aggregate'", "started_at": _WHEN, "seconds": "1"},
    "training_rangestep": {
        "round_id": _uuid("round"), "kind": "'read'", "range_index": "0", "message": "''::bytea", "attempts": "1",
    },
    "training_privacyrelease": {
        "federation_id": _ANY_FEDERATION, "number": "n", "round_id": _uuid("round"), "noise_multiplier": "1",
        "epsilon_spent": "1", "delta": "0.1", "released_at": _WHEN,
    },
    "audit_event": {
        "event_id": _uuid("event"), "occurred_at": _WHEN,
        "kind": "CASE WHEN n % 20 = 0 THEN 'device.keys_due' ELSE 'session.opened' END",
        "actor": "CASE WHEN n % 20 = 0 THEN 'system' ELSE 'device:device-' || n END",
        "payload": """'{"device": "x", "session_id": "s", "sessions": 1}'""", "payload_bytes": "''", "salt": "''",
        "commitment": _bytes("event", 64), "sequenced": "false",
    },
    "audit_checkpoint": {"size": "0", "root": "''", "note": "''", "created_at": _WHEN},
    "audit_witnesssighting": {"device_name": "'device-' || n", "size": "1", "root": "''", "seen_at": _WHEN},
}  # fmt: skip


def fill() -> None:
    """Fill the tables inside the caller's transaction, sequence the events, and have the planner know of it all.

    A superuser's. Foreign keys are true by construction, or nothing looks at them.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        for table, columns in _FILL.items():
            names, values = ", ".join(columns), ", ".join(columns.values())
            rows = f"SELECT {values} FROM generate_series(1, {ROWS - 1}) AS n"  # noqa: S608 - of the table above
            cursor.execute(f"INSERT INTO {table} ({names}) {rows}")
        cursor.execute("SET LOCAL session_replication_role = origin")
        sequence_log()
        cursor.execute("ANALYZE")
