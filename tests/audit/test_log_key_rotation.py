"""The log's key is replaced; the log itself tells of it, and auditors and devices follow along."""

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from audit import services
from audit.export import export_log
from audit.models import Checkpoint, Entry, Event
from audit.verification import verify_log
from keyring.models import ServerKey
from keyring.services import log_succession, server_verifier
from qflare_protocol.checkpoint import verify_checkpoint
from qflare_protocol.errors import Refusal
from qflare_protocol.identity_succession import follow_log_succession
from tests.audit.conftest import NOW, record
from verifier.qflare_verify import Known, verify_export

MakeLog = Callable[[int], None]
pytestmark = pytest.mark.django_db


def rotate(minutes: int = 1) -> bytes:
    return services.rotate_log_key(reason="yearly", actor="operator:ada", now=NOW + timedelta(minutes=minutes))


def test_the_rotation_is_the_last_entry_under_the_old_key(make_log: MakeLog) -> None:
    make_log(3)
    old = server_verifier("log")
    fingerprint = rotate()
    new = server_verifier("log")
    assert new.fingerprint == fingerprint != old.fingerprint
    entry = Entry.objects.select_related("event").get(index=3)
    expected = {"old": old.fingerprint.hex(), "new": new.fingerprint.hex(), "reason": "yearly"}
    assert (entry.kind, entry.event.payload, entry.event.actor) == ("log.key_rotated", expected, "operator:ada")
    last, first = Checkpoint.objects.order_by("-id")[1], Checkpoint.objects.order_by("-id")[0]
    assert (last.size, first.size) == (4, 4)
    verify_checkpoint(last.note, old, services.log_origin())
    verify_checkpoint(first.note, new, services.log_origin())


def test_the_old_private_key_is_destroyed_and_the_origin_stays(make_log: MakeLog) -> None:
    make_log(1)
    origin = services.log_origin()
    rotate()
    assert ServerKey.objects.get(purpose="log", retired_at__isnull=False).wrapped_private is None
    assert services.log_origin() == origin


def test_events_that_wait_come_before_the_rotation(make_log: MakeLog) -> None:
    make_log(1)
    record(5)
    rotate()
    assert list(Entry.objects.order_by("index").values_list("kind", flat=True)[1:]) == [
        "test.happened",
        "log.key_rotated",
    ]


def test_the_log_still_verifies_here_and_offline_from_any_of_its_keys(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(3)
    pins = [server_verifier("log").fingerprint]
    for number in range(1, 3):
        pins.append(rotate(number))
        record(number)
        services.sequence_log(NOW + timedelta(minutes=number, seconds=30))
    assert verify_log().entries == 7
    export_log(services.current_checkpoint(), tmp_path)
    assert len((tmp_path / "log.vkeys").read_text().splitlines()) == 3
    for pinned in pins:
        report = verify_export(tmp_path, Known(pinned))
        assert (report.keys, report.key.fingerprint) == (3, pins[-1])


def test_a_device_follows_from_any_key_it_pins(make_log: MakeLog) -> None:
    make_log(1)
    pins = [server_verifier("log")]
    assert log_succession() == []
    for number in range(2):
        rotate(number)
        pins.append(server_verifier("log"))
    for pinned in pins:
        assert follow_log_succession(pinned, log_succession()) == pins[-1]


def test_a_device_does_not_follow_a_succession_with_a_gap(make_log: MakeLog) -> None:
    make_log(1)
    first = server_verifier("log")
    for number in range(3):
        rotate(number)
    statements = log_succession()
    with pytest.raises(Refusal):
        follow_log_succession(first, [statements[0], statements[2]])
    assert follow_log_succession(first, statements[1:]) == first
    with pytest.raises(Refusal):
        follow_log_succession(first, [b"junk"])


def test_a_rotation_is_never_erased(make_log: MakeLog) -> None:
    make_log(1)
    rotate()
    events = list(Event.objects.filter(sequenced=True).values_list("id", flat=True))
    assert services.erase_disclosures(events, reason="all", actor="operator:ada", now=NOW) == 1
    assert Event.objects.get(kind="log.key_rotated").erased_at is None


def test_the_command_rotates_and_demands_a_reason(make_log: MakeLog) -> None:
    make_log(1)
    output = StringIO()
    call_command("rotate_log_key", "--reason", "drill", stdout=output)
    assert server_verifier("log").fingerprint.hex() in output.getvalue()
    with pytest.raises(CommandError, match="State the reason"):
        call_command("rotate_log_key", "--reason", " ")
