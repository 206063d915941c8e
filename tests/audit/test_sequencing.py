"""Waiting events become chain and tree exactly once, in one commit, whoever does it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from audit import services, tasks
from audit.models import Checkpoint, Entry, Event, Tile
from audit.verification import verify_log
from keyring.services import server_verifier
from qflare_protocol import merkle
from qflare_protocol.audit_entry import GENESIS_HASH, AuditEntry, Disclosure, commitment, entry_hash
from qflare_protocol.checkpoint import parse_verifier_key, verify_checkpoint
from tests.audit.conftest import NOW, record
from tests.audit_triggers import log_triggers_lifted

MakeLog = Callable[[int], None]
pytestmark = pytest.mark.django_db


def entries() -> list[Entry]:
    return list(Entry.objects.order_by("index"))


def leaf_hashes() -> list[bytes]:
    return [bytes(entry.leaf_hash) for entry in entries()]


def test_events_become_a_chain_from_the_genesis_hash() -> None:
    for number in range(3):
        record(number)
    assert services.sequence_events() == 3
    previous = GENESIS_HASH
    for index, entry in enumerate(entries()):
        data = entry.canonical_bytes(previous)
        disclosure = entry.event.disclosure_bytes()
        assert AuditEntry.from_bytes(data) == AuditEntry(
            index, 1772366400123456 + 1_000_000 * index, "test.happened", commitment(disclosure), previous
        )
        assert Disclosure.from_bytes(disclosure).payload == {"number": index}
        assert bytes(entry.entry_hash) == entry_hash(data)
        assert bytes(entry.leaf_hash) == merkle.leaf_hash(data)
        previous = bytes(entry.entry_hash)


def test_a_sequenced_event_is_not_sequenced_again() -> None:
    record()
    assert services.sequence_events() == 1
    assert services.sequence_events() == 0
    assert Event.objects.get().sequenced


def test_an_event_that_commits_late_with_a_lower_number_is_not_lost() -> None:
    late = record(1)
    Event.objects.filter(id=late.id).update(sequenced=True)  # out of sight, as if not yet committed
    record(2)
    services.sequence_events()
    with log_triggers_lifted():
        Event.objects.filter(id=late.id).update(sequenced=False)
    assert services.sequence_events() == 1
    assert [entry.event.payload["number"] for entry in entries()] == [2, 1]


def test_batches_of_any_size_give_the_same_tree() -> None:
    for number in range(23):
        record(number)
    while services.sequence_events(limit=5):
        pass
    assert [entry.index for entry in entries()] == list(range(23))
    assert services.root_at(23) == merkle.root_from_leaves(leaf_hashes())


def test_a_tile_is_stored_when_it_is_full(make_log: MakeLog) -> None:
    make_log(255)
    assert not Tile.objects.exists()
    record(255)
    services.sequence_events()
    tile = Tile.objects.get()
    assert (tile.level, tile.index) == (0, 0)
    assert bytes(tile.hashes) == b"".join(leaf_hashes())
    assert bytes(tile.root) == services.root_at(256) == merkle.root_from_leaves(leaf_hashes())


def test_every_batch_is_signed_in_its_own_commit() -> None:
    for number in range(5):
        record(number)
    while services.sequence_events(limit=2):
        pass
    assert list(Checkpoint.objects.order_by("id").values_list("size", flat=True)) == [2, 4, 5]


def test_a_transaction_that_fails_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    record()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Checkpoint.objects, "create", fail)
    with pytest.raises(OSError, match="full"):
        services.sequence_events()
    assert not Entry.objects.exists()
    assert not Event.objects.get().sequenced


def test_an_entry_reads_as_a_sentence() -> None:
    record(7)
    services.sequence_events()
    entry = Entry.objects.get()
    assert entry.description == "Number 7 happened"
    assert str(entry) == "0: test.happened"


@pytest.mark.parametrize("size", [1, 2, 7, 8, 20])
def test_proofs_from_the_database_verify(make_log: MakeLog, size: int) -> None:
    make_log(size)
    root = merkle.root_from_leaves(leaf_hashes())
    for index in range(size):
        merkle.verify_inclusion(leaf_hashes()[index], index, size, services.inclusion_proof(index, size), root)
    for old in range(1, size + 1):
        old_root = merkle.root_from_leaves(leaf_hashes()[:old])
        merkle.verify_consistency(old, old_root, size, root, services.consistency_proof(old, size))


def test_from_the_empty_log_there_is_nothing_to_prove(make_log: MakeLog) -> None:
    make_log(3)
    assert services.consistency_proof(0, 3) == []


def test_a_proof_takes_one_query_for_each_tile(make_log: MakeLog, django_assert_max_num_queries: Any) -> None:
    make_log(300)
    with django_assert_max_num_queries(3):
        services.consistency_proof(11, 300)


def test_there_is_no_proof_beyond_the_log(make_log: MakeLog) -> None:
    make_log(3)
    with pytest.raises(LookupError):
        services.consistency_proof(2, 4)


def test_a_checkpoint_is_signed_by_the_log_key_over_the_root(make_log: MakeLog) -> None:
    make_log(5)
    row = services.current_checkpoint()
    assert row is not None
    signed = verify_checkpoint(row.note, server_verifier("log"), services.log_origin())
    assert signed.checkpoint.size == row.size == 5
    assert signed.checkpoint.root == bytes(row.root) == merkle.root_from_leaves(leaf_hashes())
    assert signed.timestamp == int(NOW.timestamp())
    assert str(row) == "5 entries at 2026-03-01 12:00:00"


def test_the_verifier_key_that_devices_pin_opens_the_checkpoint(make_log: MakeLog) -> None:
    make_log(1)
    origin, verifier = parse_verifier_key(services.log_verifier_key())
    row = services.current_checkpoint()
    assert row is not None
    assert verify_checkpoint(row.note, verifier, origin).checkpoint.size == 1


def test_an_idle_log_is_signed_once_in_each_bucket(make_log: MakeLog) -> None:
    make_log(2)
    assert services.issue_checkpoint(NOW + timedelta(seconds=299)) is None
    later = services.issue_checkpoint(NOW + timedelta(seconds=300))
    assert later is not None
    assert later.size == 2
    assert Checkpoint.objects.count() == 2


def test_a_log_that_grew_is_signed_at_once(make_log: MakeLog) -> None:
    make_log(2)
    record(3)
    services.sequence_log(NOW + timedelta(seconds=1))
    assert [row.size for row in Checkpoint.objects.order_by("id")] == [2, 3]


def test_an_empty_log_is_not_signed_because_nothing_could_be_proved_from_it() -> None:
    assert services.issue_checkpoint(NOW) is None
    assert services.current_checkpoint() is None


def test_the_task_sequences_everything_and_signs() -> None:
    for number in range(3):
        record(number)
    tasks.sequence()
    row = services.current_checkpoint()
    assert row is not None
    assert row.size == 3


@pytest.mark.django_db(transaction=True)
def test_sequencers_that_race_append_each_event_once() -> None:
    for number in range(40):
        record(number)

    def sequence(_: int) -> int:
        try:
            return sum(services.sequence_events(limit=3) for _ in range(6))
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        appended = sum(pool.map(sequence, range(4)))
    assert appended + services.sequence_log() == 40  # on PostgreSQL a sequencer leaves to the other what it works on
    assert verify_log().entries == 40


@pytest.mark.django_db(transaction=True)
def test_an_uncommitted_event_is_not_sequenced() -> None:
    with transaction.atomic():
        record()
        transaction.set_rollback(True)
    assert services.sequence_events() == 0
