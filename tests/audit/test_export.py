"""The log that leaves the house is the log in the database, and holds without it."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from audit import services
from audit.models import Entry, Event
from keyring.services import server_verifier
from qflare_protocol.log_verifier import LogRefusedError, verify_export
from tests.audit.conftest import NOW, record
from tests.audit_triggers import log_triggers_lifted

MakeLog = Callable[[int], None]
pytestmark = pytest.mark.django_db


def export(folder: Path) -> str:
    output = StringIO()
    call_command("audit_export", folder, stdout=output)
    return output.getvalue()


@pytest.mark.parametrize("size", [1, 255, 256, 257, 600])
def test_an_exported_log_holds_offline(make_log: MakeLog, tmp_path: Path, size: int) -> None:
    make_log(size)
    assert f"Exported {size} entries" in export(tmp_path / "export")
    report = verify_export(tmp_path / "export", server_verifier("log"))
    assert report.signed.checkpoint.size == size
    assert report.signed.checkpoint.root == services.root_at(size)


def test_an_empty_log_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="The log is empty"):
        export(tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_waiting_events_are_sequenced_and_signed_first(tmp_path: Path) -> None:
    record(1)
    export(tmp_path)
    assert verify_export(tmp_path).signed.checkpoint.size == 1


def test_the_layout_is_that_of_tlog_tiles(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(257)
    export(tmp_path)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    tiles = ["tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/1"]
    disclosures = ["disclosures/000", "disclosures/001.p/1"]
    assert files == ["checkpoint", *disclosures, "export.json", "log.vkey", *tiles]
    about = json.loads((tmp_path / "export.json").read_text())
    assert about == {
        "origin": services.log_origin(),
        "size": 257,
        "key_fingerprint": server_verifier("log").fingerprint.hex(),
    }


def test_a_folder_with_something_in_it_is_left_alone(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(1)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CommandError, match="not empty"):
        export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_row_changed_in_the_database_is_named_by_the_offline_verifier(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(300)
    with log_triggers_lifted():
        Entry.objects.filter(index=270).update(kind="test.other")
    export(tmp_path)
    with pytest.raises(LogRefusedError, match="Entry 270 in tile/entries/001.p/44 does not have the hash"):
        verify_export(tmp_path)


def test_an_event_changed_in_the_database_is_named_by_the_offline_verifier(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(300)
    with log_triggers_lifted():
        Event.objects.filter(entry__index=270).update(actor="mallory")
    export(tmp_path)
    with pytest.raises(LogRefusedError, match="disclosure of entry 270 in disclosures/001.p/44 was changed"):
        verify_export(tmp_path)


def test_an_erased_event_is_counted_and_the_export_holds(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(3)
    services.erase_disclosures([Entry.objects.get(index=1).event_id], reason="asked for", actor="operator:ada")
    export(tmp_path)
    assert verify_export(tmp_path).erased == 1


def test_later_entries_do_not_disturb_an_export(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(5)
    export(tmp_path / "first")
    record(6)
    services.sequence_log(NOW)
    export(tmp_path / "second")
    assert verify_export(tmp_path / "first").signed.checkpoint.size == 5
    assert verify_export(tmp_path / "second").signed.checkpoint.size == 6
