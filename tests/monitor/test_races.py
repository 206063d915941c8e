"""Monitors, sequencers and operators at the same time: every event counts once, one incident, one answer."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, transaction

from audit.models import Event
from audit.services import record_event, sequence_log
from devices.models import Device
from monitor.models import Delivery, Incident, MonitorPosition, Response, Sighting
from monitor.services.channels import create_channel
from monitor.services.deliveries import deliver_due
from monitor.services.incidents import acknowledge
from monitor.services.watch import read_entries, watch
from qflare_protocol.errors import Refusal
from tests.factories import make_device
from tests.monitor.conftest import NOON, OLGA, Scene
from tests.monitor.test_notifications import HOOK, ChannelKind, Receiver, Severity, receiver

__all__ = ["receiver"]

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")


def together(count, work):
    """Do the work in so many threads that begin at one moment; return what each returned."""
    start = threading.Barrier(count)

    def run(number):
        try:
            start.wait(timeout=20)
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def rejected(scene: Scene, number: int) -> None:
    payload = {"device": "edge-1", "reason": "norm-bound", "federation": "digits", "round_number": number}
    scene.event("update.rejected", actor="enclave", **payload)


def test_monitors_that_look_at_once_count_each_event_once_and_answer_once(scene):
    make_device("edge-1")
    scene.tuned("rejected-updates", responses=["suspend-device", "notify"])
    create_channel("mail", ChannelKind.EMAIL, "o@x.example", least_severity=Severity.INFO, actor=OLGA, now=NOON)
    for number in range(40):
        rejected(scene, number)
    sequence_log(scene.now)
    together(4, lambda _: watch(now=scene.now))
    watch(now=scene.now)
    incident = Incident.objects.get()
    assert incident.event_count == Sighting.objects.count() == 40
    assert Event.objects.filter(kind="device.suspended").count() == 1
    assert {response.state for response in Response.objects.all()} == {"done"}
    assert (Response.objects.count(), Delivery.objects.count()) == (2, 1)
    assert Device.objects.get().state == "suspended"


def test_the_first_look_of_all_makes_one_position(scene):
    together(4, lambda _: watch(now=scene.now))
    assert MonitorPosition.objects.count() == 1


def test_of_operators_who_acknowledge_at_once_one_does(scene):
    scene.event("log.fork_reported", actor="device:a", device="a", size=1, root="00")
    (incident,) = scene.look()

    def try_it(number):
        try:
            return acknowledge(incident.id, actor=f"operator:{number}", now=scene.now).assignee
        except Refusal as refusal:
            return refusal.code

    outcomes = together(4, try_it)
    assert outcomes.count("conflict") == 3
    incident.refresh_from_db()
    assert incident.assignee in outcomes


def test_workers_that_deliver_at_once_send_each_message_once(scene, receiver: Receiver):
    for number in range(4):
        terms = {"least_severity": Severity.INFO, "actor": OLGA, "now": NOON}
        create_channel(f"hook-{number}", ChannelKind.WEBHOOK, HOOK, **terms)
    scene.event("log.fork_reported", actor="device:a", device="a", size=1, root="00")
    scene.look()
    delivered = together(4, lambda _: deliver_due(now=scene.now))
    assert sum(delivered) == len(receiver.requests) == 4
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 4


@on_postgresql
def test_an_event_of_a_transaction_that_commits_late_is_read_when_it_is_there(scene):
    """Its id is lower than those that were read before it: a position by id would have passed it over."""
    written, go_on = threading.Event(), threading.Event()

    def slow(_):
        with transaction.atomic():
            payload = {"device": "edge-1", "reason": "norm-bound", "federation": "digits", "round_number": 1}
            event = record_event("update.rejected", actor="enclave", payload=payload, now=scene.now)
            written.set()
            assert go_on.wait(timeout=20)
        connection.close()
        return event.id

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(slow, 0)
        assert written.wait(timeout=20)
        rejected(scene, 2)
        assert scene.look() == []
        last = Event.objects.latest("id").id
        go_on.set()
        assert late.result(timeout=20) < last
    scene.later(seconds=5)
    rejected(scene, 3)
    (incident,) = scene.look()
    assert incident.event_count == 3


@on_postgresql
def test_a_monitor_that_finds_the_position_taken_reads_nothing_and_does_not_wait(scene):
    for _ in range(2):  # the first one makes the log's keys, which the second one tells of
        rejected(scene, 1)
        sequence_log(scene.now)
    watch(now=scene.now)
    rejected(scene, 1)
    sequence_log(scene.now)
    taken, go_on = threading.Event(), threading.Event()

    def hold(_):
        with transaction.atomic():
            MonitorPosition.objects.select_for_update().get(id=1)
            taken.set()
            assert go_on.wait(timeout=20)
        connection.close()

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold, 0)
        assert taken.wait(timeout=20)
        assert read_entries(now=scene.now + timedelta(seconds=1)) == 0
        go_on.set()
        holding.result(timeout=20)
    assert read_entries(now=scene.now) == 1
