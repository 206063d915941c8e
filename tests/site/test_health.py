"""`/health`: the worst part decides, and every part says what is wrong."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection
from django.utils import timezone

from qflare_site import health
from qflare_site.models import ProcessHeartbeat
from qflare_site.services import FORGOTTEN_AFTER, record_heartbeat
from qflare_site.tasks import record_beat_heartbeat
from qflare_site.worker_heartbeat import HeartbeatStep, beat

NOW = timezone.now()
PROCESSES = ("worker", "enclave", "beat")

pytestmark = pytest.mark.django_db


@pytest.fixture
def all_alive():
    for process in PROCESSES:
        record_heartbeat(process, host="one", pid=1, now=NOW)


@pytest.fixture
def only(monkeypatch):
    """Leave only the named parts of those that the database tells about."""

    def choose(*names):
        parts = {name: health.PARTS_IN_DATABASE[name] for name in names}
        monkeypatch.setattr(health, "PARTS_IN_DATABASE", parts)

    return choose


def test_with_every_process_alive_the_site_is_ok(all_alive, only):
    only(*PROCESSES)
    report = health.examine(NOW)
    assert report["status"] == "ok"
    assert {part["status"] for part in report["parts"].values()} == {"ok"}


@pytest.mark.parametrize("silent", PROCESSES)
def test_a_silent_process_fails_the_site(all_alive, only, silent):
    only(*PROCESSES)
    ProcessHeartbeat.objects.filter(process=silent).update(
        seen_at=NOW - ProcessHeartbeat.MAX_AGE - timedelta(seconds=1)
    )
    report = health.examine(NOW)
    assert report["status"] == "failed"
    assert report["parts"][silent]["detail"] == f"The {silent} process was seen 31 s ago."


def test_a_process_that_was_never_seen_fails_the_site(only):
    only("worker")
    assert health.examine(NOW)["parts"]["worker"]["status"] == "failed"


def test_one_live_host_of_two_is_enough(all_alive, only):
    only("worker")
    record_heartbeat("worker", host="two", pid=1, now=NOW - timedelta(hours=1))
    assert health.examine(NOW)["parts"]["worker"]["status"] == "ok"


def test_a_log_without_checkpoint_degrades_the_site(all_alive, client):
    report = health.examine(NOW)
    assert report["parts"]["log"]["status"] == "degraded"
    assert report["status"] == "degraded"
    ProcessHeartbeat.objects.update(seen_at=timezone.now())  # NOW is when this module was imported
    assert client.get("/health").status_code == 200


def test_a_failed_part_is_a_503_that_nobody_caches(client):
    answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["status"] == "failed"
    assert answer["Cache-Control"] == "no-store"


def test_without_database_nothing_else_is_asked(monkeypatch):
    def no_cursor():
        raise DatabaseError("gone")

    monkeypatch.setattr(connection, "cursor", no_cursor)
    report = health.examine(NOW)
    assert report["parts"]["database"]["status"] == "failed"
    assert set(report["parts"]) == {"database", "broker"}


def test_a_redis_that_does_not_answer_fails_the_site(settings):
    settings.EMBEDDED, settings.CELERY_BROKER_URL = False, "redis://127.0.0.1:1/0"
    report = health.examine(NOW)
    assert report["parts"]["broker"]["status"] == "failed"


def test_the_embedded_broker_is_its_folder(settings, tmp_path):
    settings.EMBEDDED, settings.QFLARE_BROKER_DIR = True, tmp_path
    assert health.examine(NOW)["parts"]["broker"]["status"] == "ok"


def test_health_is_cheap(client, django_assert_max_num_queries):
    with django_assert_max_num_queries(6):
        client.get("/health")


def test_a_live_web_process_says_so_without_asking_anything(client, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert client.get("/health/live").json() == {"status": "ok"}


def test_only_reading_is_allowed(client):
    assert client.post("/health").status_code == 405


def test_a_heartbeat_is_one_row_per_process_and_host():
    record_heartbeat("worker", host="one", pid=1, now=NOW)
    record_heartbeat("worker", host="one", pid=2, now=NOW + timedelta(seconds=5))
    row = ProcessHeartbeat.objects.get()
    assert (row.pid, row.seen_at) == (2, NOW + timedelta(seconds=5))
    assert str(row) == "worker@one"


def test_a_host_silent_for_a_day_is_forgotten():
    record_heartbeat("worker", host="old", pid=1, now=NOW - FORGOTTEN_AFTER - timedelta(seconds=1))
    record_heartbeat("worker", host="new", pid=1, now=NOW)
    assert list(ProcessHeartbeat.objects.values_list("host", flat=True)) == ["new"]


def test_the_task_that_beat_sends_marks_beat():
    record_beat_heartbeat()
    assert ProcessHeartbeat.objects.last_seen_at("beat") >= NOW


def test_a_worker_is_recorded_under_its_name_and_host(monkeypatch):
    monkeypatch.setattr(connection, "close", lambda: None)  # the test's transaction lives in it
    beat("enclave@host-7")
    row = ProcessHeartbeat.objects.get()
    assert (row.process, row.host) == ("enclave", "host-7")


def test_the_step_beats_at_once_and_then_by_the_timer(monkeypatch):
    beats, entries = [], []

    class Entry:
        cancelled = False

        def cancel(self):
            self.cancelled = True

    class Timer:
        def call_repeatedly(self, seconds, function, args):
            entries.append((seconds, function, args))
            return Entry()

    class Worker:
        hostname, timer = "worker@here", Timer()

    monkeypatch.setattr("qflare_site.worker_heartbeat.beat", beats.append)
    step = HeartbeatStep(Worker())
    step.stop(Worker())
    step.start(Worker())
    assert beats == ["worker@here"]
    assert entries[0][0] == 5
    step.stop(Worker())
    assert step._timer_entry.cancelled


def test_a_container_can_ask_whether_its_process_lives():
    record_heartbeat("worker", host="one", pid=1, now=timezone.now())
    call_command("process_alive", "worker", stdout=StringIO())
    with pytest.raises(CommandError, match="last seen at None"):
        call_command("process_alive", "beat")


def test_a_missed_anchor_degrades_the_site(db, monkeypatch, settings):
    settings.QFLARE_ANCHORS = [{"name": "copy", "kind": "file", "path": "/nowhere", "every_seconds": 60}]
    assert health.PARTS_IN_DATABASE["anchors"](NOW)["detail"] == "Checkpoints are anchored at: copy."
    monkeypatch.setattr(health, "missed_anchors", lambda **_: ["copy"])
    part = health.PARTS_IN_DATABASE["anchors"](NOW)
    assert part == {"status": "degraded", "detail": "No receipt for too long from: copy."}
    settings.QFLARE_ANCHORS = []
