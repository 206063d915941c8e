"""Whoever changes one row of the log is found, and the row is named."""

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from audit import services
from audit.models import Checkpoint, Entry, Event, Sequencer, Tile
from audit.sequencing import last_hash
from audit.verification import LogDamagedError, LogWalk, verify_log
from keyring.models import ServerKey
from qflare_protocol import merkle
from qflare_protocol.audit_entry import commitment, entry_hash
from qflare_protocol.encoding import decode, encode
from tests.audit.conftest import NOW, record
from tests.audit_triggers import log_triggers_lifted

MakeLog = Callable[[int], None]
pytestmark = pytest.mark.django_db


def damage(model: Any, lookup: dict[str, Any], **changes: Any) -> None:
    with log_triggers_lifted():
        assert model.objects.filter(**lookup).update(**changes) == 1


def delete(model: Any, **lookup: Any) -> None:
    with log_triggers_lifted():
        model.objects.filter(**lookup)._raw_delete("default")


def verdict() -> str:
    with pytest.raises(LogDamagedError) as damaged:
        verify_log()
    return str(damaged.value)


def test_a_sound_log_is_reported_with_its_numbers(make_log: MakeLog) -> None:
    make_log(11)
    record(12)
    report = verify_log()
    assert (report.entries, report.checkpoints, report.waiting_events) == (11, 1, 1)
    assert report.root == services.root_at(11)


def test_the_empty_log_is_sound() -> None:
    report = verify_log()
    assert (report.entries, report.checkpoints, report.root) == (0, 0, merkle.EMPTY_ROOT)


def test_many_checkpoints_at_several_sizes_are_all_checked(make_log: MakeLog) -> None:
    make_log(3)
    services.issue_checkpoint(NOW + timedelta(minutes=10))
    record(4)
    services.sequence_log(NOW + timedelta(minutes=20))
    assert verify_log().checkpoints == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "test.other"}, "Entry 5 or the one before it was changed: it does not have its entry_hash."),
        ({"occurred_at": NOW}, "Entry 5 or the one before it was changed"),
        ({"commitment": bytes(64)}, "Entry 5 or the one before it was changed"),
        ({"entry_hash": bytes(64)}, "Entry 5 or the one before it was changed"),
        ({"leaf_hash": bytes(32)}, "Entry 5 was changed: its content does not have its leaf_hash."),
    ],
)
def test_a_changed_column_of_an_entry_is_named(make_log: MakeLog, change: dict[str, Any], named: str) -> None:
    make_log(11)
    damage(Entry, {"index": 5}, **change)
    assert verdict().startswith(named)


def rewrite(index: int) -> None:
    """Let an entry, with its hashes and its event, tell that it was mallory."""
    entry = Entry.objects.select_related("event").get(index=index)
    entry.event.actor = "mallory"
    entry.commitment = commitment(entry.event.disclosure_bytes())
    data = entry.canonical_bytes(last_hash(index))
    changes = {"entry_hash": entry_hash(data), "leaf_hash": merkle.leaf_hash(data), "commitment": entry.commitment}
    damage(Entry, {"index": index}, **changes)
    damage(Event, {"entry__index": index}, actor="mallory", commitment=entry.commitment)


def test_an_entry_rewritten_with_its_hashes_breaks_the_next_link(make_log: MakeLog) -> None:
    make_log(11)
    rewrite(5)
    assert verdict().startswith("Entry 6 or the one before it was changed")


def test_a_last_entry_rewritten_with_all_its_hashes_breaks_the_checkpoint(make_log: MakeLog) -> None:
    make_log(11)
    rewrite(10)
    assert verdict() == f"Checkpoint {Checkpoint.objects.get().pk} has another root than the 11 entries it covers."


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "mallory"},
        {"kind": "test.other"},
        {"occurred_at": NOW},
        {"payload": {"number": 99}},
        {"payload_bytes": b"\xa1fnumber\x06"},
        {"payload_bytes": b"\xff"},
        {"salt": bytes(32)},
        {"commitment": bytes(64)},
    ],
)
def test_a_changed_column_of_an_event_is_named(make_log: MakeLog, change: dict[str, Any]) -> None:
    make_log(11)
    event = Entry.objects.get(index=5).event
    damage(Event, {"pk": event.pk}, **change)
    assert verdict() == f"Event {event.pk} was changed: entry 5 commits to another one."


def test_a_removed_entry_is_named(make_log: MakeLog) -> None:
    make_log(11)
    delete(Entry, index=5)
    assert verdict() == "Entry 5 is missing: the next row is entry 6."


def test_removed_last_entries_are_missed_by_the_checkpoint(make_log: MakeLog) -> None:
    make_log(11)
    delete(Entry, index__gte=9)
    assert verdict().endswith("covers 11 entries; the log has only 9.")


def test_entries_removed_with_their_checkpoint_are_missed_by_the_tiles(make_log: MakeLog) -> None:
    make_log(256)
    delete(Entry, index=255)
    delete(Checkpoint)
    assert verdict() == "Tile (level 0, index 0) stands for entries that are not there."


def test_an_event_that_only_claims_to_be_in_the_log_is_named(make_log: MakeLog) -> None:
    make_log(2)
    hidden = record(3)
    Event.objects.filter(id=hidden.id).update(sequenced=True)
    assert verdict() == f"Event {hidden.id} (test.happened) is marked as sequenced and has no entry."


@pytest.mark.parametrize("change", [{"hashes": bytes(8192)}, {"root": bytes(32)}])
def test_a_changed_or_removed_tile_is_named(make_log: MakeLog, change: dict[str, Any]) -> None:
    make_log(300)
    damage(Tile, {"level": 0, "index": 0}, **change)
    assert verdict().startswith("Tile (level 0, index 0) was changed")
    delete(Tile, level=0, index=0)
    assert verdict() == "Tile (level 0, index 0) is missing."


def test_a_tile_in_a_place_that_does_not_exist_is_named(make_log: MakeLog) -> None:
    make_log(11)
    Tile.objects.create(level=4, index=0, hashes=bytes(8192), root=bytes(32))
    assert verdict() == "Tile (level 4, index 0) stands for entries that are not there."


def test_a_changed_checkpoint_is_named(make_log: MakeLog) -> None:
    make_log(11)
    row = Checkpoint.objects.get()
    damage(Checkpoint, {"pk": row.pk}, root=bytes(32))
    assert verdict() == f"Checkpoint {row.pk} has another root than the 11 entries it covers."
    damage(Checkpoint, {"pk": row.pk}, root=row.root, created_at=NOW + timedelta(hours=1))
    assert verdict() == f"Checkpoint {row.pk} was changed: its columns differ from its signed note."
    damage(Checkpoint, {"pk": row.pk}, created_at=NOW, note=row.note.replace("\n11\n", "\n12\n"))
    assert verdict().startswith(f"Checkpoint {row.pk} does not carry the log's signature")


def test_checkpoints_of_a_retired_key_still_verify(make_log: MakeLog) -> None:
    make_log(3)
    origin = services.log_origin()
    ServerKey.objects.update(retired_at=NOW, wrapped_private=None)
    services.issue_checkpoint(NOW + timedelta(minutes=10))
    assert verify_log().checkpoints == 2
    assert services.log_origin() == origin


def test_a_log_longer_than_one_batch_is_checked_across_the_seam(make_log: MakeLog, monkeypatch: Any) -> None:
    monkeypatch.setattr("audit.verification._BATCH", 4)
    make_log(11)
    assert verify_log().entries == 11
    damage(Entry, {"index": 8}, kind="test.other")
    assert verdict().startswith("Entry 8 or the one before it")


def test_the_sequencer_states_when_it_last_ran(make_log: MakeLog) -> None:
    make_log(1)
    assert str(Sequencer.objects.get()) == "last run 2026-03-01 12:00:00"


def test_the_command_says_that_the_log_holds(make_log: MakeLog) -> None:
    make_log(4)
    output = StringIO()
    call_command("audit_verify", stdout=output)
    assert output.getvalue().startswith("The log holds: 4 entries and 1 checkpoints agree; 0 events wait")


def test_the_command_names_the_changed_row_and_fails(make_log: MakeLog) -> None:
    make_log(4)
    damage(Entry, {"index": 2}, kind="test.other")
    with pytest.raises(CommandError, match="does NOT hold. Entry 2 or the one before") as failed:
        call_command("audit_verify")
    assert failed.value.returncode == 1


def test_lifted_triggers_are_back_afterwards(make_log: MakeLog) -> None:
    make_log(1)
    with log_triggers_lifted():
        pass
    with pytest.raises(Exception, match="append-only"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM audit_entry")


@pytest.mark.parametrize("most", [1, 7, 256, 300])
def test_a_walk_that_others_go_on_with_finds_what_one_alone_finds(make_log: MakeLog, most: int) -> None:
    make_log(300)
    services.issue_checkpoint(NOW + timedelta(minutes=10))
    walk, parts = LogWalk.begin(), 0
    while not walk.is_done:
        walk.advance(most)
        walk, parts = LogWalk.resume(decode(encode(walk.state()), what="state")), parts + 1
    assert parts == -(-300 // most)
    assert walk.report() == verify_log()


def test_damage_behind_the_first_part_is_found_by_whoever_goes_on(make_log: MakeLog) -> None:
    make_log(9)
    damage(Entry, {"index": 6}, kind="test.other")
    first = LogWalk.begin()
    first.advance(5)
    later = LogWalk.resume(first.state())
    with pytest.raises(LogDamagedError, match="Entry 6 or the one before it was changed"):
        later.advance(5)


def test_entries_that_vanish_between_two_parts_are_missed(make_log: MakeLog) -> None:
    make_log(9)
    first = LogWalk.begin()
    first.advance(5)
    delete(Entry, index__gte=5)
    with pytest.raises(LogDamagedError, match="Entry 5 is missing"):
        LogWalk.resume(first.state()).advance(5)


def test_what_is_logged_while_a_walk_is_under_way_is_left_for_the_next(make_log: MakeLog) -> None:
    make_log(3)
    walk = LogWalk.begin()
    record(4)
    services.sequence_log(NOW + timedelta(minutes=20))
    while not walk.is_done:
        walk.advance(2)
    report = walk.report()
    assert (report.entries, report.checkpoints) == (3, 1)
