"""The verbs: take a backup of this site, restore one on an empty site, look whether one would open."""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db import transaction

from audit.services import current_checkpoint, log_origin, record_event, root_at, sequence_log, tree_size
from audit.verification import LogDamagedError, verify_log
from keyring.custodians import Custodian
from keyring.envelope import EnvelopeError
from keyring.kek import KekError
from keyring.services import server_signer
from qflare_protocol.errors import Refusal
from qflare_site.backup import files, rows
from qflare_site.backup.archive import ArchiveWriter, BackupError, read_archive, written_archive
from sessions.models import Session, SessionState
from sessions.services import end_session
from training.blob_store.configured import blob_store
from training.blob_store.contract import absent, pieces_of
from training.blobs import open_blob, store_blob
from training.services.blob_sweep import referenced_digests

FORMAT = 1
MANIFEST, SUMMARY = "manifest.json", "summary.json"
_ROWS, _BLOBS, _FILES = "rows/", "blobs/", "files/"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class BackupReport:
    """What a backup holds, or what was restored from it."""

    backup_id: str
    taken_at: datetime
    rows: int
    blobs: int
    files: int
    log_size: int
    log_root: bytes


def take_backup(
    path: Path, recipients: Sequence[Custodian], *, actor: str, now: datetime, progress: Progress
) -> BackupReport:
    """Write a backup of database, blobs and keys, as they are at one moment, sealed to the recipients.

    The site goes on working meanwhile. Raises `BackupError`; then there is no file.
    """
    backup_id = str(uuid.uuid4())
    with transaction.atomic():
        names = ", ".join(f"{one.name} ({one.fingerprint.hex()[:16]})" for one in recipients)
        record_event("site.backed_up", actor=actor, payload={"backup_id": backup_id, "recipients": names}, now=now)
    sequence_log(now)
    kept = files.read_files()
    with written_archive(path, recipients) as archive, rows.snapshot():
        # Read before and after: between the two a KEK may have come or gone under which rows of this moment lie.
        kept |= files.read_files()
        archive.add(MANIFEST, rows.to_json(_manifest(backup_id, now)))
        counted = _add_rows(archive, progress)
        digests = referenced_digests()
        for number, digest in enumerate(sorted(digests), 1):
            _add_blob(archive, digest)
            progress(f"blob {number} of {len(digests)}")
        for name, content in kept.items():
            archive.add(f"{_FILES}{name}", content)
        size = tree_size()
        report = BackupReport(backup_id, now, counted, len(digests), len(kept), size, root_at(size))
        archive.add(SUMMARY, rows.to_json(_summary(report)))
    return report


def restore_backup(path: Path, private_key: bytes, *, actor: str, now: datetime, progress: Progress) -> BackupReport:
    """Restore a backup on a migrated site that nobody has used yet, in one transaction; verify the log, end sessions.

    Blobs and key files are put back as they come and stay where the restoration fails; doing it again is
    harmless. Raises `BackupError` with the database as it was.
    """
    if not rows.is_empty():
        raise BackupError("This site is in use. Restore on an empty database, after manage.py migrate.")
    with transaction.atomic():
        rows.clear_rows_of_new_site()
        summary = _put_back_members(path, private_key, progress)
        rows.reset_sequences()
        files.complete_enclave_directory()
        _verify(summary)
        _end_sessions(actor, now)
        payload = {"backup_id": summary["backup_id"], "taken_at": summary["taken_at"], "log_size": summary["log_size"]}
        record_event("site.restored", actor=actor, payload=payload, now=now)
    return _report(summary)


def check_backup(path: Path, private_key: bytes, *, progress: Progress) -> BackupReport:
    """Read a backup to its end and restore nothing. Raises `BackupError`."""
    summary: dict[str, Any] | None = None
    for name, content in read_archive(path, private_key):
        progress(name)
        if name == MANIFEST:
            _read_manifest(content.read(), applied=None)
        elif name.startswith(_ROWS):
            rows.check_rows(content.read())
        elif name == SUMMARY:
            summary = json.loads(content.read())
    if summary is None:
        raise BackupError(f"{path} has no summary: it was not written to its end.")
    return _report(summary)


def _manifest(backup_id: str, now: datetime) -> dict[str, Any]:
    checkpoint = current_checkpoint()
    return {
        "format": FORMAT,
        "backup_id": backup_id,
        "taken_at": now.isoformat(),
        "migrations": rows.applied_migrations(),
        "log_origin": log_origin(),
        "checkpoint": checkpoint.note if checkpoint else "",
    }


def _add_rows(archive: ArchiveWriter, progress: Progress) -> int:
    counted = 0
    for model in rows.kept_models():
        for number, content in enumerate(rows.rows_of(model)):
            archive.add(f"{_ROWS}{model._meta.label_lower}/{number:06d}.jsonl", content)
            counted += content.count(b"\n")
            progress(f"{model._meta.verbose_name_plural}: {counted} rows")
    return counted


def _add_blob(archive: ArchiveWriter, digest: str) -> None:
    try:
        size = blob_store().size_of(digest)
        if size is None:
            raise absent()
        with open_blob(digest) as blob:
            archive.add_file(f"{_BLOBS}{digest}", blob, size)
    except Refusal as refusal:
        raise BackupError(f"The blob {digest} is missing; see whether a clean-up runs, and try again.") from refusal


def _put_back_members(path: Path, private_key: bytes, progress: Progress) -> dict[str, Any]:
    summary: dict[str, Any] | None = None
    for name, content in read_archive(path, private_key):
        progress(name)
        if name == MANIFEST:
            _read_manifest(content.read(), applied=rows.applied_migrations())
        elif name.startswith(_ROWS):
            rows.insert_rows(content.read())
        elif name.startswith(_BLOBS):
            store_blob(pieces_of(content), expected_digest=bytes.fromhex(name.removeprefix(_BLOBS)))
        elif name.startswith(_FILES):
            files.put_back(name.removeprefix(_FILES), content.read())
        elif name == SUMMARY:
            summary = json.loads(content.read())
    if summary is None:
        raise BackupError(f"{path} has no summary: it was not written to its end.")
    return summary


def _read_manifest(content: bytes, *, applied: list[str] | None) -> None:
    manifest = json.loads(content)
    if manifest["format"] != FORMAT:
        raise BackupError(f"The backup has format {manifest['format']}; this release reads {FORMAT}.")
    if applied is not None and manifest["migrations"] != applied:
        other = sorted(set(manifest["migrations"]) ^ set(applied))
        raise BackupError(
            "The backup was taken by another release: migrations differ in "
            f"{', '.join(other[:5])}. Restore with that release and upgrade afterwards."
        )


def _verify(summary: dict[str, Any]) -> None:
    """Check that the restored log is the one that was backed up, and that the KEK opens the server's keys."""
    try:
        report = verify_log()
        server_signer("log")
    except LogDamagedError as damage:
        raise BackupError(f"The log of the backup does not hold: {damage}") from damage
    except (EnvelopeError, KekError) as error:
        raise BackupError(f"The KEK of this host does not open the keys of the backup: {error}") from error
    if (report.entries, report.root.hex()) != (summary["log_size"], summary["log_root"]):
        raise BackupError("The restored log is another one than the backup's summary says.")


def _end_sessions(actor: str, now: datetime) -> None:
    for session_id in Session.objects.exclude(state=SessionState.ENDED).values_list("id", flat=True):
        end_session(session_id, reason="restored from a backup", actor=actor, now=now)


def _summary(report: BackupReport) -> dict[str, Any]:
    counts = {"rows": report.rows, "blobs": report.blobs, "files": report.files}
    log = {"log_size": report.log_size, "log_root": report.log_root.hex()}
    return {"backup_id": report.backup_id, "taken_at": report.taken_at.isoformat(), **counts, **log}


def _report(summary: dict[str, Any]) -> BackupReport:
    members = summary | {
        "taken_at": datetime.fromisoformat(summary["taken_at"]),
        "log_root": bytes.fromhex(summary["log_root"]),
    }
    return BackupReport(**members)
