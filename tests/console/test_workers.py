"""The screen of schedules and workers: signs of life, queues, schedules with their next run, failed tasks."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask
from redis.exceptions import ConnectionError as RedisDown

from qflare_site.console import workers
from qflare_site.console.workers import next_run_at, read_processes, read_schedules
from qflare_site.models import ProcessHeartbeat, TaskFailure
from qflare_site.services import record_heartbeat, record_task_failure
from tests.admin.conftest import signed_in
from tests.factories import make_user, populate

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

pytestmark = pytest.mark.django_db


@pytest.fixture
def reader(db):
    """The browser of somebody who may look at workers and nothing else."""
    permissions = ("view_processheartbeat", "view_periodictask", "view_taskfailure", "view_roundstep")
    return signed_in(make_user("rita", *permissions))


def words_of(answer):
    assert answer.status_code == 200
    inside = answer.content.decode().split('id="console"')[-1]
    return " ".join(re.sub(r"<[^>]+>", " ", inside).split())


def ask(browser, name="workers", **query):
    return browser.get(reverse(f"console:{name}"), query)


def schedule(name, *, every=None, crontab=None, last=None, **changes):
    """Keep an entry of beat that last ran so, by an interval in seconds or the five fields of a crontab."""
    if every:
        changes["interval"], _ = IntervalSchedule.objects.get_or_create(every=every, period=IntervalSchedule.SECONDS)
    if crontab:
        fields = dict(zip(("minute", "hour", "day_of_month", "month_of_year", "day_of_week"), crontab, strict=True))
        changes["crontab"] = CrontabSchedule.objects.create(**fields, timezone="UTC")
    entry = PeriodicTask.objects.create(name=name, task="training.tasks.tick", kwargs=json.dumps({}), **changes)
    PeriodicTask.objects.filter(id=entry.id).update(last_run_at=last)
    return PeriodicTask.objects.get(id=entry.id)


def test_a_process_is_alive_until_it_was_silent_for_too_long():
    record_heartbeat("worker", host="one", pid=7, now=NOON)
    late = NOON + ProcessHeartbeat.MAX_AGE
    assert [one.alive for one in read_processes(late)["processes"]] == [True]
    assert [one.alive for one in read_processes(late + timedelta(seconds=1))["processes"]] == [False]


def test_queues_have_their_length_and_a_broker_that_is_gone_says_so(reader, monkeypatch):
    monkeypatch.setattr(workers, "waiting_messages", lambda: {"default": 1234, "audit": 0})
    assert "1,234 default 0 audit" in words_of(ask(reader))

    def gone():
        raise RedisDown("redis://:password@host")

    monkeypatch.setattr(workers, "waiting_messages", gone)
    words = words_of(ask(reader))
    assert "The broker does not answer (ConnectionError)." in words
    assert "password" not in words


@pytest.mark.parametrize(
    ("last", "expected"),
    [(NOON - timedelta(seconds=20), NOON + timedelta(seconds=40)), (NOON - timedelta(hours=1), NOON)],
)
def test_an_interval_runs_next_when_it_is_over_and_at_once_when_it_is_overdue(last, expected):
    assert next_run_at(schedule("a", every=60, last=last), NOON) == expected


def test_a_crontab_runs_next_at_its_next_time():
    entry = schedule("nightly", crontab=("30", "2", "*", "*", "*"), last=NOON - timedelta(hours=1))
    assert next_run_at(entry, NOON) == datetime(2026, 3, 2, 2, 30, tzinfo=UTC)
    overdue = schedule("hourly", crontab=("0", "*", "*", "*", "*"), last=NOON - timedelta(hours=3))
    assert next_run_at(overdue, NOON) == NOON


def test_an_entry_that_is_off_or_has_never_run_is_told_so(reader):
    off = schedule("off", every=60, last=NOON, enabled=False)
    schedule("new", every=1)
    assert next_run_at(off, NOON) is None
    words = words_of(ask(reader))
    assert "off Off training.tasks.tick every 60 seconds" in words
    assert "new On training.tasks.tick every second not yet" in words


def test_the_words_of_a_crontab_are_its_fields():
    schedule("nightly", crontab=("30", "2", "*", "*", "1-5"))
    entry = schedule("there", crontab=("0", "6", "*", "*", "*"))
    CrontabSchedule.objects.filter(id=entry.crontab_id).update(timezone="Asia/Tokyo")
    told = [one.when for one in read_schedules(NOON)["schedules"]]
    assert told == ["30 2 * * 1-5 UTC", "0 6 * * * Asia/Tokyo"]


@pytest.mark.parametrize("every", [3_000_000, 2**31 - 1])
def test_an_interval_beyond_the_calendar_has_no_next_run(reader, every):
    long = IntervalSchedule.objects.create(every=every, period=IntervalSchedule.DAYS)
    entry = PeriodicTask.objects.create(name="rare", task="training.tasks.tick", interval=long)
    assert next_run_at(entry, NOON) is None
    assert f"every {every} days" in words_of(ask(reader))


def test_failed_tasks_are_shown_newest_first_and_have_their_list(reader):
    for number in range(12):
        record_task_failure(f"app.tasks.job_{number % 2}", ValueError("secret words"), now=timezone.now())
    words = words_of(ask(reader))
    assert words.count("ValueError") == workers.FAILURES_SHOWN
    assert "secret words" not in words
    listed = ask(reader, "task-failures", task="app.tasks.job_1").context["listing"].rows
    assert {row.task for row in listed} == {"app.tasks.job_1"}
    assert len(listed) == 6


def test_an_idle_site_says_what_will_be_there(reader):
    PeriodicTask.objects.all().delete()
    words = words_of(ask(reader))
    for sentence in ("No worker has been seen yet", "No task has failed", "Beat has written no schedule yet"):
        assert sentence in words
    assert "No round was aggregated" in words
    assert "No task has failed" in words_of(ask(reader, "task-failures"))


def test_no_permission_no_workers(newcomer):
    assert ask(newcomer).status_code == 403
    assert ask(newcomer, "task-failures").status_code == 403


def test_who_may_see_processes_alone_sees_nothing_else(db):
    populate()
    words = words_of(ask(signed_in(make_user("pat", "view_processheartbeat"))))
    assert "worker Silent" in words
    for title in ("Failed tasks", "Aggregation time", "Next run"):
        assert title not in words


def test_the_panels_are_asked_for_again_one_by_one(reader):
    populate()
    for name in ("processes", "failures", "schedules"):
        assert "data-live" in ask(reader, panel=name).content.decode()
    assert "data-live" not in ask(reader, panel="aggregation").content.decode()


def test_the_query_count_does_not_grow_with_schedules(reader, django_assert_max_num_queries):
    for number in range(20):
        schedule(f"every {number}", every=60 + number)
    assert TaskFailure.objects.count() == 0
    with django_assert_max_num_queries(10):
        ask(reader)
