"""What has had its time leaves the database for the archive: whole, in batches, and never without it."""

import json
import os
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as site_settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from audit import retention
from audit.archive import ArchiveFile
from audit.models import ERASED, Entry, Event
from audit.retention import archive_disclosures
from audit.services import sequence_log
from audit.tasks import archive_disclosures as disclosures_task
from audit.verification import verify_log
from qflare_protocol.audit_entry import commitment
from sessions import archiving
from sessions.archiving import archive_sessions
from sessions.models import Exchange, Session, SessionState
from sessions.services import end_session
from sessions.tasks import archive_sessions as sessions_task
from tests.audit.conftest import NOW, first_keys_are_not_told, make_log
from tests.factories import make_device, make_session
from tests.people import OPERATOR

__all__ = ["first_keys_are_not_told", "make_log"]
pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(days=400)
WEEK = timedelta(days=7)


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    """Archive into a folder of the test's own, which does not exist yet."""
    settings.QFLARE_ARCHIVE_DIR = tmp_path / "archive"
    return tmp_path / "archive"


@pytest.fixture
def ended(db: None) -> Callable[[int], list[Session]]:
    """Return a function that makes so many sessions and ends them now."""

    def make(count: int) -> list[Session]:
        device = make_device("alice")
        sessions = [make_session_of(device, number) for number in range(count)]
        for session in sessions:
            end_session(session.id, reason="test", actor=OPERATOR, now=timezone.now())
        return sessions

    return make


def make_session_of(device: Any, number: int) -> Session:
    session = make_session(device)
    Session.objects.filter(id=session.id).update(challenge_digest=number.to_bytes(64, "big"))
    return session


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the one archive there is."""
    (file,) = folder.iterdir()
    assert file.suffix == ".jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_ended_sessions_go_to_the_archive_with_an_event_that_names_the_file(ended: Any, folder: Path) -> None:
    sessions = ended(3)
    assert archive_sessions(now=timezone.now() + WEEK) == 3
    assert not Session.objects.exists()
    rows = lines(folder)
    assert {row["id"] for row in rows} == {str(session.id) for session in sessions}
    assert {(row["device__name"], row["end_reason"]) for row in rows} == {("alice", "test")}
    event = Event.objects.get(kind="sessions.archived")
    assert event.payload == {"count": 3, "file": next(folder.iterdir()).name}


def test_no_archived_row_holds_a_secret_or_a_key(ended: Any, folder: Path) -> None:
    ended(1)
    archive_sessions(now=timezone.now() + WEEK)
    assert not {name for name in lines(folder)[0] if "wrapped" in name or "secret" in name or "digest" in name}


def test_sessions_that_live_or_ended_lately_stay(ended: Any, folder: Path) -> None:
    ended(1)
    living = make_session_of(make_device("carol"), 99)
    assert archive_sessions(now=timezone.now() + WEEK - timedelta(minutes=1)) == 0
    assert archive_sessions(now=timezone.now() + WEEK) == 1
    assert Session.objects.get() == living
    assert living.state == SessionState.ACTIVE


def test_nothing_due_makes_no_file_and_no_event(folder: Path) -> None:
    assert archive_sessions(now=timezone.now()) == 0
    assert not folder.exists()
    assert not Event.objects.filter(kind="sessions.archived").exists()


def test_what_hangs_on_an_archived_session_goes_with_it(ended: Any) -> None:
    (session,) = ended(1)
    Exchange.objects.create(session=session, sequence=1, request_digest=b"", status=200, salt=b"", answer=b"")
    archive_sessions(now=timezone.now() + WEEK)
    assert not Exchange.objects.exists()


def test_many_go_in_batches_into_one_file(ended: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "BATCH", 2)
    ended(5)
    assert archive_sessions(now=timezone.now() + WEEK) == 5
    assert len(lines(folder)) == 5
    counts = Event.objects.filter(kind="sessions.archived").order_by("id").values_list("payload", flat=True)
    assert [payload["count"] for payload in counts] == [2, 2, 1]


def test_without_an_archive_nothing_is_deleted(ended: Any, folder: Path) -> None:
    ended(2)
    folder.write_text("a file in the place of the folder")
    with pytest.raises(OSError, match="exists"):
        archive_sessions(now=timezone.now() + WEEK)
    assert Session.objects.count() == 2
    assert not Event.objects.filter(kind="sessions.archived").exists()


def test_a_killed_run_leaves_all_it_deleted_in_its_draft(
    ended: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "BATCH", 1)
    ended(2)
    synced = os.fsync
    calls: list[int] = []

    def full_after_the_first(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError("no space left")
        synced(descriptor)

    monkeypatch.setattr("audit.archive.os.fsync", full_after_the_first)
    with pytest.raises(OSError, match="no space"):
        archive_sessions(now=timezone.now() + WEEK)
    (draft,) = folder.iterdir()
    assert draft.name.endswith(".jsonl.part")
    deleted = json.loads(draft.read_text().splitlines()[0])["id"]
    assert Session.objects.count() == 1
    assert not Session.objects.filter(id=deleted).exists()


def test_disclosures_are_kept_for_ever_unless_told_otherwise(make_log: Any, folder: Path) -> None:
    make_log(3)
    assert archive_disclosures(now=LATER) == 0
    assert not Event.objects.exclude(erased_at=None).exists()


def test_an_old_disclosure_is_archived_as_what_its_entry_commits_to_and_erased(
    make_log: Any, folder: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.QFLARE_RETENTION = {**site_settings.QFLARE_RETENTION, "disclosure_days": 365}
    monkeypatch.setattr(retention, "BATCH", 2)
    make_log(3)
    assert archive_disclosures(now=LATER) == 3
    rows = lines(folder)
    assert [(row["index"], row["payload"]) for row in rows] == [(n, {"number": n}) for n in range(3)]
    kept = {entry.index: bytes(entry.commitment) for entry in Entry.objects.all()}
    assert all(commitment(bytes.fromhex(row["disclosure"])) == kept[row["index"]] for row in rows)
    assert set(Entry.objects.values_list("event__actor", flat=True)) == {ERASED}
    sequence_log(LATER)
    assert verify_log().erased == 3
    told = Event.objects.filter(kind="log.disclosures_erased").values_list("payload__reason", flat=True)
    assert set(told) == {f"kept for 365 days; archived in {next(folder.iterdir()).name}"}


def test_a_dry_run_counts_and_changes_nothing(ended: Any, make_log: Any, folder: Path, settings: Any) -> None:
    settings.QFLARE_RETENTION = {"session_days": 1, "disclosure_days": 1}
    sessions = ended(2)
    Session.objects.update(ended_at=NOW, challenged_at=NOW)
    make_log(1)
    output = StringIO()
    call_command("clean_up", dry_run=True, stdout=output)
    assert output.getvalue().startswith("2 ended sessions to archive and delete; nothing is changed.\n")
    assert "disclosures of the log to archive and erase; nothing is changed." in output.getvalue()
    assert Session.objects.count() == len(sessions)
    assert not folder.exists()


def test_the_command_does_one_part_or_all_of_them(ended: Any, make_log: Any, settings: Any) -> None:
    settings.QFLARE_RETENTION = {"session_days": 1, "disclosure_days": 1}
    ended(1)
    Session.objects.update(ended_at=NOW)
    make_log(1)
    output = StringIO()
    call_command("clean_up", only="sessions", stdout=output)
    assert output.getvalue() == "1 ended sessions to archive and delete: done.\n"
    assert not Event.objects.exclude(erased_at=None).exists()
    call_command("clean_up", stdout=output)
    assert Entry.objects.filter(event__erased_at=None, occurred_at__lte=NOW).count() == 0


def test_the_command_says_when_the_archive_cannot_be_written(ended: Any, folder: Path) -> None:
    ended(1)
    Session.objects.update(ended_at=NOW)
    folder.write_text("in the way")
    with pytest.raises(CommandError, match="The archive cannot be written, so nothing more is removed"):
        call_command("clean_up")


def test_the_daily_tasks_do_the_same(ended: Any) -> None:
    ended(1)
    Session.objects.update(ended_at=NOW)
    sessions_task()
    disclosures_task()
    assert not Session.objects.exists()


def test_two_runs_of_one_moment_do_not_write_over_one_another(folder: Path) -> None:
    with ArchiveFile("sessions", NOW) as first, ArchiveFile("sessions", NOW) as second:
        first.append([{"a": 1}])
        with pytest.raises(FileExistsError):
            second.append([{"a": 2}])
