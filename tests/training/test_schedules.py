"""When rounds open by themselves."""

from dataclasses import replace
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from audit.models import Event
from devices.models import Device
from qflare_protocol.errors import Refusal
from tests.factories import large_fleet, make_completed_round, make_device
from tests.open_rounds import make_federation
from tests.people import OPERATOR, nothing_changed
from training.models import Federation, Participation, Round
from training.services.federations import pause_federation
from training.services.rounds import cancel_round, open_round, open_scheduled_round
from training.services.schedules import (
    due_federations,
    idle_members,
    schedule_rounds,
    schedule_rounds_by_crontab,
    schedule_rounds_when_idle,
    unschedule_rounds,
)
from training.services.tick import Dispatch, tick

pytestmark = pytest.mark.django_db


def nothing(_):
    """Stands in for a worker."""


def run_tick(now):
    prepared = []
    tick(Dispatch(prepared.append, nothing, nothing, nothing), now=now)
    return prepared


def entries():
    return PeriodicTask.objects.filter(task="training.tasks.open_scheduled_round")


def test_a_crontab_is_an_entry_of_beat(federation):
    entry = schedule_rounds_by_crontab(federation, expression="30 2 * * mon-fri", actor=OPERATOR)
    assert (entry.crontab.minute, entry.crontab.hour, entry.crontab.day_of_week) == ("30", "2", "mon-fri")
    assert (str(entry.crontab.timezone), entry.interval) == ("UTC", None)
    assert Event.objects.get(kind="federation.scheduled").payload["when"] == "by crontab 30 2 * * mon-fri"


@pytest.mark.parametrize("expression", ["", "* * * *", "* * * * * *", "61 * * * *", "a b c d e", "*/0 * * * *"])
def test_what_is_no_crontab_is_refused(federation, expression):
    with nothing_changed(), pytest.raises(Refusal, match="malformed-message"):
        schedule_rounds_by_crontab(federation, expression=expression, actor=OPERATOR)


def test_a_federation_has_one_schedule(federation):
    schedule_rounds(federation, every=timedelta(minutes=1), actor=OPERATOR)
    schedule_rounds_by_crontab(federation, expression="0 * * * *", actor=OPERATOR)
    assert (entries().count(), entries().get().interval) == (1, None)
    schedule_rounds_when_idle(federation, idle_devices=5, actor=OPERATOR)
    assert not entries().exists()
    schedule_rounds(federation, every=timedelta(minutes=1), actor=OPERATOR)
    federation.refresh_from_db()
    assert (entries().get().crontab, federation.idle_devices) == (None, None)


def test_a_schedule_is_taken_away_once(federation):
    schedule_rounds_when_idle(federation, idle_devices=5, actor=OPERATOR)
    unschedule_rounds(federation, actor=OPERATOR)
    federation.refresh_from_db()
    assert federation.idle_devices is None
    with nothing_changed(), pytest.raises(Refusal, match="conflict"):
        unschedule_rounds(federation, actor=OPERATOR)


@pytest.mark.parametrize("number", [0, -1, 10**6 + 1, True])
def test_a_number_of_idle_devices_out_of_bounds_is_refused(federation, number):
    with nothing_changed(), pytest.raises(Refusal, match="malformed-message"):
        schedule_rounds_when_idle(federation, idle_devices=number, actor=OPERATOR)


def test_the_database_refuses_it_too(federation):
    with pytest.raises(IntegrityError), transaction.atomic():
        Federation.objects.filter(id=federation.id).update(idle_devices=0)


@pytest.fixture
def idle_fleet(federation):
    """Four devices, heard just now, and a federation that waits for four."""
    for number in range(4):
        make_device(f"device-{number}")
    Device.objects.update(last_seen_at=timezone.now())
    schedule_rounds_when_idle(federation, idle_devices=4, actor=OPERATOR)
    return federation


def test_a_round_opens_when_enough_devices_are_idle(idle_fleet):
    now = timezone.now()
    prepared = run_tick(now)
    assert prepared == [Round.objects.get().id]
    assert run_tick(now) == prepared  # dispatched again, not opened again
    assert Event.objects.get(kind="round.created").actor == "schedule"


def test_a_round_that_opens_by_idleness_invites_idle_devices_alone(idle_fleet):
    for number in range(20):
        make_device(f"away-{number}")
    Federation.objects.update(selection="random", target_updates=3, over_selection=1.3)
    run_tick(timezone.now())
    invited = set(Round.objects.get().participations.values_list("device__name", flat=True))
    assert invited == {f"device-{number}" for number in range(4)}


def test_an_operator_opens_it_for_all(idle_fleet):
    make_device("away")
    assert open_round(idle_fleet.id, actor=OPERATOR, now=timezone.now()).invited == 5


def test_a_root_of_trust_that_is_away_is_waited_for(idle_fleet):
    root = make_device("root")
    policy = replace(idle_fleet.aggregation_policy(), root_device=root.id.hex)
    Federation.objects.update(policy=policy.to_map())
    assert due_federations(timezone.now()) == []
    with nothing_changed(), pytest.raises(Refusal, match="is not idle here"):
        open_scheduled_round(idle_fleet.id, now=timezone.now())
    Device.objects.update(last_seen_at=timezone.now())
    assert due_federations(timezone.now()) == [idle_fleet]


def test_idle_devices_without_the_labels_do_not_count(idle_fleet):
    Federation.objects.update(selection_labels={"gpu": "yes"})
    Device.objects.exclude(name="device-0").update(labels={"gpu": "yes", "site": "north"})
    assert due_federations(timezone.now()) == []
    Device.objects.update(labels={"gpu": "yes"})
    assert due_federations(timezone.now()) == [idle_fleet]


def test_devices_that_were_not_heard_of_late_are_away(idle_fleet):
    Device.objects.filter(name="device-0").update(last_seen_at=timezone.now() - timedelta(minutes=3))
    assert run_tick(timezone.now()) == []
    assert not Round.objects.exists()


def test_a_device_that_was_told_to_wait_is_not_away_meanwhile(idle_fleet, settings):
    large_fleet(1000)
    settings.QFLARE_ASKS_PER_SECOND = 2  # so each waits 502 seconds
    Device.objects.filter(name="device-0").update(last_seen_at=timezone.now() - timedelta(seconds=502 + 85))
    assert [due.name for due in due_federations(timezone.now())] == ["digits"]
    Device.objects.filter(name="device-0").update(last_seen_at=timezone.now() - timedelta(seconds=502 + 95))
    assert due_federations(timezone.now()) == []


def test_where_rounds_are_short_a_device_is_away_sooner(idle_fleet, settings):
    large_fleet(1000)
    settings.QFLARE_ASKS_PER_SECOND = 2
    Federation.objects.update(round_seconds=600)  # so each waits a hundred seconds
    idle_fleet.refresh_from_db()
    Device.objects.filter(name="device-0").update(last_seen_at=timezone.now() - timedelta(seconds=100 + 85))
    assert idle_members(idle_fleet, timezone.now()).count() == 4
    Device.objects.filter(name="device-0").update(last_seen_at=timezone.now() - timedelta(seconds=100 + 95))
    assert idle_members(idle_fleet, timezone.now()).count() == 3


def test_devices_that_a_round_waits_for_are_busy(idle_fleet):
    now = timezone.now()
    run_tick(now)
    assert not idle_members(idle_fleet, now).exists()
    Participation.objects.filter(device__name="device-1").update(state="submitted")
    assert [device.name for device in idle_members(idle_fleet, now)] == ["device-1"]
    cancel_round(Round.objects.get().id, reason="seen enough", actor=OPERATOR, now=now)
    assert idle_members(idle_fleet, now).count() == 4


def test_fewer_idle_devices_than_the_policy_needs_open_nothing(federation):
    make_device("alone")
    Device.objects.update(last_seen_at=timezone.now())
    schedule_rounds_when_idle(federation, idle_devices=1, actor=OPERATOR)
    assert due_federations(timezone.now()) == []


def test_a_paused_federation_is_not_due(idle_fleet):
    pause_federation(idle_fleet.id, actor=OPERATOR)
    assert due_federations(timezone.now()) == []


@pytest.mark.parametrize(("planned", "due"), [(None, True), (2, True), (1, False), (0, False)])
def test_a_federation_that_has_had_its_planned_rounds_is_not_due(idle_fleet, planned, due):
    make_completed_round(idle_fleet, rejected="nobody", accuracy=0.5, now=timezone.now())
    Federation.objects.update(planned_rounds=planned)
    assert due_federations(timezone.now()) == ([idle_fleet] if due else [])


def test_looking_back_for_failures_and_older_bases_reads_no_roster_and_no_provenance(idle_fleet):
    federation = idle_fleet
    for _ in range(2):
        make_completed_round(federation, rejected="nobody", accuracy=0.5, now=timezone.now())
        federation.refresh_from_db()
    policy = replace(federation.aggregation_policy(), maximum_staleness=64).to_map()
    Federation.objects.update(policy=policy)
    with CaptureQueriesContext(connection) as sent:
        open_scheduled_round(federation.id, now=timezone.now())
    reads = [query["sql"] for query in sent if query["sql"].startswith("SELECT")]
    assert len(Round.objects.get(number=3).older_bases) == 1
    assert not [sql for sql in reads if '"roster"' in sql]
    assert len([sql for sql in reads if '"provenance"' in sql]) <= 1  # of the base alone


def test_one_federation_that_cannot_open_does_not_hold_the_others_up(idle_fleet):
    other = make_federation("other", planned_rounds=0)
    schedule_rounds_when_idle(other, idle_devices=4, actor=OPERATOR)
    run_tick(timezone.now())
    assert Round.objects.get().federation == idle_fleet


def command(*arguments):
    out = StringIO()
    call_command("schedule_rounds", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_sets_each_kind(federation):
    assert "every 60 seconds" in command("digits", "--every", "60")
    assert "by the crontab 0 3 * * *" in command("digits", "--crontab", "0 3 * * *")
    assert "whenever 20 devices are idle" in command("digits", "--idle-devices", "20")
    assert "by hand only" in command("digits", "--never")


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (("nobody", "--every", "60"), "no federation named nobody"),
        (("digits",), "Say when"),
        (("digits", "--every", "60", "--never"), "not allowed with"),
        (("digits", "--crontab", "x"), "is no crontab"),
        (("digits", "--never"), "has no schedule"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_in_words(federation, arguments, because):
    with nothing_changed(), pytest.raises(CommandError, match=because):
        command(*arguments)
