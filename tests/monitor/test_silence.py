"""Silence of a fleet and of the log."""

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from audit.services import sequence_log
from devices.models import Device
from monitor.rules.silence import silent_federations
from monitor.services.watch import watch
from monitor.terms import Severity, Terms
from tests.factories import large_fleet, make_device, make_federation
from tests.monitor.conftest import Scene
from training.services.federations import pause_federation
from training.services.presence import present_for

pytestmark = pytest.mark.django_db


def heard(scene: Scene) -> None:
    Device.objects.update(last_seen_at=scene.now)


def hours(scene: Scene, count: float) -> list[str]:
    """Let hours pass in which the monitor looks every four minutes; return the rules of open incidents."""
    rules: list[str] = []
    for _ in range(round(count * 15)):
        rules = scene.later(minutes=4).rules()
    return rules


@pytest.fixture
def federation(scene: Scene):
    for name in ("edge-1", "edge-2"):
        make_device(name, "ward")
    return make_federation("digits", group="ward")


def test_a_fleet_that_falls_silent_is_one_incident_about_its_federation(scene, federation):
    scene.look()
    heard(scene)
    assert hours(scene, 0.9) == []
    assert hours(scene, 0.2) == ["fleet-silence"]
    (incident,) = scene.look()
    assert str(incident.subject) == "Federation digits"
    assert "heard at 2026-03-01 12:00:00" in incident.timeline.first().text


def test_one_device_that_is_heard_is_enough(scene, federation):
    scene.look()
    heard(scene)
    for _ in range(4):
        assert hours(scene, 0.5) == []
        Device.objects.filter(name="edge-2").update(last_seen_at=scene.now)


def test_devices_are_counted_only_where_nobody_was_heard_and_no_further_than_it_takes(scene, federation):
    terms, since = Terms(2, timedelta(hours=1), Severity.WARNING), scene.now - timedelta(days=1)
    heard(scene)
    present_for()  # counts the fleet, once a minute
    with CaptureQueriesContext(connection) as asked:
        assert list(silent_federations(terms, since, scene.now + timedelta(minutes=59))) == []
    assert not [query["sql"] for query in asked if "COUNT(" in query["sql"]]
    with CaptureQueriesContext(connection) as asked:
        assert len(list(silent_federations(terms, since, scene.now + timedelta(hours=1)))) == 1
    assert ["LIMIT 2" in query["sql"] for query in asked if "COUNT(" in query["sql"]] == [True]


def test_nothing_is_asked_before_the_monitor_has_watched_for_so_long(scene, federation, django_assert_num_queries):
    terms = Terms(2, timedelta(hours=1), Severity.WARNING)
    with django_assert_num_queries(0):
        assert list(silent_federations(terms, scene.now - timedelta(minutes=59), scene.now)) == []


def test_a_fleet_that_was_never_heard_is_not_silent(scene, federation):
    assert hours(scene, 1.5) == []


def test_a_federation_that_is_paused_may_be_silent(scene, federation):
    heard(scene)
    pause_federation(federation.id, actor="operator:olga")
    assert hours(scene, 1.5) == []


def test_devices_that_were_told_to_wait_for_an_hour_are_not_silent(scene, federation, settings):
    large_fleet(3600)
    settings.QFLARE_ASKS_PER_SECOND = 1
    scene.look()
    heard(scene)
    assert hours(scene, 1) == []
    assert hours(scene, 0.1) == ["fleet-silence"]


def test_a_fleet_is_not_called_silent_for_the_time_the_site_was_down(scene, federation):
    scene.look()
    heard(scene)
    scene.later(hours=12)
    assert scene.look() == []
    assert hours(scene, 0.9) == []
    assert hours(scene, 0.2) == ["fleet-silence"]


def silent_minutes(scene: Scene, count: int) -> list[str]:
    """Let minutes pass in which nobody sequences the log."""
    for _ in range(count):
        watch(now=scene.later(minutes=1).now)
    return scene.rules_now()


def test_a_log_without_checkpoints_is_a_critical_incident(scene):
    scene.event("device.suspended", device="bob", reason="x")
    scene.look()
    assert silent_minutes(scene, 9) == []
    assert silent_minutes(scene, 2) == ["log-silence"]


def test_a_log_that_was_never_signed_though_events_wait_is_silent(scene):
    watch(now=scene.now)
    scene.event("device.suspended", device="bob", reason="x")
    assert silent_minutes(scene, 11) == ["log-silence"]


def test_an_empty_log_is_not_silent(scene):
    assert silent_minutes(scene, 30) == []


def test_an_idle_log_that_is_signed_in_every_bucket_is_not_silent(scene):
    scene.event("device.suspended", device="bob", reason="x")
    for _ in range(20):
        sequence_log(scene.now)
        assert silent_minutes(scene, 5) == []


def test_each_silent_thing_is_told_of_once(scene, federation):
    scene.look()
    Device.objects.update(last_seen_at=F("enrolled_at"))
    hours(scene, 3)
    (incident,) = scene.look()
    assert incident.event_count == 0
