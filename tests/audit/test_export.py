"""The log that leaves the house is the log in the database, and holds without it."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path, PurePosixPath

import pytest
from django.core.management import CommandError, call_command

from audit import exporters, services
from audit.models import Checkpoint, Entry, Event
from keyring.services import server_verifier
from tests.audit.conftest import NOW, record
from tests.audit_triggers import log_triggers_lifted
from verifier.qflare_verify import Known, Problem, verify_export

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
    report = verify_export(tmp_path / "export", Known(server_verifier("log").fingerprint))
    assert report.head.size == size
    assert report.head.root == services.root_at(size)


def test_an_empty_log_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="The log is empty"):
        export(tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_waiting_events_are_sequenced_and_signed_first(tmp_path: Path) -> None:
    record(1)
    export(tmp_path)
    assert verify_export(tmp_path).head.size == 1


def test_the_layout_is_that_of_tlog_tiles(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(257)
    export(tmp_path)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    tiles = ["tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/1"]
    disclosures = ["disclosures/000", "disclosures/001.p/1"]
    assert files == ["checkpoint", "checkpoints", *disclosures, "export.json", "log.vkey", "log.vkeys", *tiles]
    about = json.loads((tmp_path / "export.json").read_text())
    assert about == {
        "origin": services.log_origin(),
        "size": 257,
        "key_fingerprint": server_verifier("log").fingerprint.hex(),
    }


def test_every_checkpoint_that_was_signed_is_in_an_export(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(5)
    for number in range(3):
        record(6 + number)
        services.sequence_log(NOW + timedelta(minutes=6 * number))
    export(tmp_path)
    notes = (tmp_path / "checkpoints").read_text()
    assert notes == "".join(Checkpoint.objects.order_by("id").values_list("note", flat=True))
    assert verify_export(tmp_path).checkpoints == Checkpoint.objects.count() >= 4


def test_files_of_other_apps_are_in_an_export(
    make_log: MakeLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters, "_EXPORTERS", [])
    for _ in range(2):
        exporters.register_exporter(two_files)
    make_log(1)
    export(tmp_path)
    assert (tmp_path / "more" / "one").read_bytes() == b"1"
    assert exporters._EXPORTERS == [two_files]


def two_files() -> Iterator[tuple[PurePosixPath, bytes]]:
    yield PurePosixPath("more/one"), b"1"
    yield PurePosixPath("two"), b"2"


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
    with pytest.raises(Problem, match="Entry 270 in tile/entries/001.p/44 was changed"):
        verify_export(tmp_path)


def test_an_event_changed_in_the_database_is_named_by_the_offline_verifier(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(300)
    with log_triggers_lifted():
        Event.objects.filter(entry__index=270).update(actor="mallory")
    export(tmp_path)
    with pytest.raises(Problem, match="disclosure of entry 270 in disclosures/001.p/44 was changed"):
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
    assert verify_export(tmp_path / "first").head.size == 5
    assert verify_export(tmp_path / "second").head.size == 6
