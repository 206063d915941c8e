"""A device that has seen another log than this one is heard, and the report survives the refusal."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta

import pytest
from django.db import transaction

from audit import services
from audit.models import Event, WitnessSighting
from audit.tree import root_of_prefix
from qflare_protocol import merkle
from qflare_protocol.errors import Refusal
from tests.audit.conftest import NOW, record

MakeLog = Callable[[int], None]
pytestmark = pytest.mark.django_db


def code_of_witness(size: int, root: bytes) -> str:
    with pytest.raises(Refusal) as refused:
        services.witness_checkpoint("alice", size, root, NOW)
    return refused.value.code


def test_a_checkpoint_of_this_log_is_recorded(make_log: MakeLog) -> None:
    make_log(5)
    services.witness_checkpoint("alice", 3, services.root_at(3), NOW)
    sighting = WitnessSighting.objects.get()
    assert (sighting.device_name, sighting.size, sighting.seen_at) == ("alice", 3, NOW)
    assert bytes(sighting.root) == services.root_at(3)
    assert str(sighting) == "alice: 3 entries"


def test_each_device_has_one_latest_sighting(make_log: MakeLog) -> None:
    make_log(5)
    services.witness_checkpoint("alice", 3, services.root_at(3), NOW)
    services.witness_checkpoint("alice", 5, services.root_at(5), NOW + timedelta(minutes=1))
    services.witness_checkpoint("bob", 5, services.root_at(5), NOW)
    assert sorted(WitnessSighting.objects.values_list("device_name", "size")) == [("alice", 5), ("bob", 5)]


def test_another_root_is_reported_and_refused(make_log: MakeLog) -> None:
    make_log(5)
    assert code_of_witness(3, bytes(32)) == "log-inconsistent"
    report = Event.objects.get(kind="log.fork_reported")
    assert report.actor == "device:alice"
    assert report.payload == {"device": "alice", "size": 3, "root": "00" * 32}
    assert report.description == "Device alice has seen another log of 3 entries than this one"
    assert not WitnessSighting.objects.exists()


def test_a_log_that_was_cut_short_is_noticed(make_log: MakeLog) -> None:
    make_log(5)
    longer = merkle.CompactTree.load(5, lambda level, index: bytes(32))
    longer.append(bytes(32))
    assert code_of_witness(6, longer.root()) == "log-inconsistent"


def test_an_older_sighting_is_not_replaced_by_a_fork(make_log: MakeLog) -> None:
    make_log(5)
    services.witness_checkpoint("alice", 5, services.root_at(5), NOW)
    code_of_witness(5, bytes(32))
    assert bytes(WitnessSighting.objects.get().root) == services.root_at(5)


def test_the_empty_log_is_part_of_every_log(make_log: MakeLog) -> None:
    make_log(2)
    services.witness_checkpoint("alice", 0, merkle.EMPTY_ROOT, NOW)
    assert code_of_witness(0, bytes(32)) == "log-inconsistent"
    assert code_of_witness(-1, bytes(32)) == "log-inconsistent"


@pytest.mark.django_db(transaction=True)
def test_inside_a_transaction_it_would_lose_the_report_and_is_a_defect() -> None:
    record()
    services.sequence_log(NOW)
    with pytest.raises(RuntimeError), transaction.atomic():
        services.witness_checkpoint("alice", 1, services.root_at(1), NOW)


def test_a_root_that_is_known_costs_one_query(
    make_log: MakeLog, django_assert_num_queries: Callable[[int], AbstractContextManager[object]]
) -> None:
    make_log(300)
    expected = services.root_at(290)
    assert root_of_prefix(290) == expected
    with django_assert_num_queries(1):
        assert root_of_prefix(290) == expected


def test_a_log_has_no_root_beyond_its_end(make_log: MakeLog) -> None:
    make_log(5)
    assert root_of_prefix(0) == merkle.EMPTY_ROOT
    assert root_of_prefix(5) == services.root_at(5)
    assert [root_of_prefix(size) for size in (6, 2**70, -1)] == [None, None, None]


def test_the_root_of_another_log_of_that_size_is_not_taken_for_this_ones(make_log: MakeLog) -> None:
    with transaction.atomic():
        make_log(5)
        other = root_of_prefix(5)
        transaction.set_rollback(True)
    make_log(5)
    assert other != root_of_prefix(5) == services.root_at(5)
