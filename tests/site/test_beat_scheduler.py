"""Beat over a clock that is put back: the real scheduler, the site's own schedule, the broker of the tests."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from celery.signals import before_task_publish
from celery.utils.imports import symbol_by_name
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from qflare_site.celery import app

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOON = datetime(2030, 1, 15, 12, tzinfo=UTC)
TICK, WATCH, ANCHOR = "training.tasks.tick", "monitor.tasks.watch", "audit.tasks.anchor"
ARCHIVE, OPEN = "sessions.tasks.archive_sessions", "training.tasks.open_scheduled_round"

pytestmark = pytest.mark.django_db(transaction=True)  # beat closes connections and commits


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


@pytest.fixture
def sent() -> Iterator[list[str]]:
    """Return the names of the tasks that are sent, and take them out of the broker afterwards."""
    names: list[str] = []

    def keep(sender: str | None = None, **_kwargs: Any) -> None:
        names.append(str(sender))

    before_task_publish.connect(keep)
    yield names
    before_task_publish.disconnect(keep)
    app.control.purge()


def new_scheduler() -> Any:
    """Return the scheduler that the settings name, as `celery beat` makes it."""
    app.loader.import_default_modules()
    return symbol_by_name(app.conf.beat_scheduler)(app=app)


def run(scheduler: Any, clock: Any, seconds: int) -> None:
    """Let the scheduler run that long: what is due is sent, then a second passes."""
    for _ in range(seconds):
        while not scheduler.tick():
            pass
        clock.shift(1)


def test_what_waited_until_it_was_sent_anew_is_not_run(clock: Any, sent: list[str]) -> None:
    expire: dict[str, float] = {}

    def keep(sender: str, headers: dict[str, Any], **_kwargs: Any) -> None:
        expire[sender] = (datetime.fromisoformat(headers["expires"]) - NOON).total_seconds()

    before_task_publish.connect(keep)
    run(new_scheduler(), clock, 62)
    before_task_publish.disconnect(keep)
    assert expire[TICK] == pytest.approx(61 + 10, abs=1)
    assert expire[ANCHOR] == pytest.approx(60 + 60, abs=1)


def test_what_is_periodic_goes_on_at_once_where_the_clock_is_put_back(clock: Any, sent: list[str]) -> None:
    scheduler = new_scheduler()
    run(scheduler, clock, 70)
    assert {TICK, WATCH, ANCHOR} <= set(sent)
    clock.shift(-HOUR)
    sent.clear()
    run(scheduler, clock, 12)
    assert 11 <= sent.count(TICK) <= 13
    assert 2 <= sent.count(WATCH) <= 4
    assert sent.count(ANCHOR) == 1


def test_a_beat_that_starts_with_runs_saved_in_the_future_sends_at_once(clock: Any, sent: list[str]) -> None:
    new_scheduler()
    PeriodicTask.objects.update(last_run_at=NOON + DAY)
    scheduler = new_scheduler()
    run(scheduler, clock, 5)
    assert 4 <= sent.count(TICK) <= 6
    assert sent.count(ARCHIVE) == 1
    scheduler.sync()
    assert PeriodicTask.objects.filter(task=TICK, last_run_at__lt=NOON + HOUR).exists()


def test_a_time_of_day_waits_for_the_clock_to_show_it(clock: Any, sent: list[str]) -> None:
    at_eleven, _ = CrontabSchedule.objects.get_or_create(minute="0", hour="11", timezone="UTC")
    PeriodicTask.objects.create(name="a round", task=OPEN, crontab=at_eleven, last_run_at=NOON - HOUR, args='["x"]')
    scheduler = new_scheduler()
    run(scheduler, clock, 3)
    assert OPEN not in sent
    PeriodicTask.objects.filter(name="a round").update(last_run_at=NOON + DAY)
    clock.move_to(NOON - HOUR - timedelta(seconds=5))
    run(scheduler, clock, 4)
    assert OPEN not in sent
    run(scheduler, clock, 4)
    assert sent.count(OPEN) == 1


def test_a_clock_that_is_put_right_by_a_little_sends_nothing_twice(clock: Any, sent: list[str]) -> None:
    scheduler = new_scheduler()
    run(scheduler, clock, 61)
    sent.clear()
    clock.shift(-0.5)
    while not scheduler.tick():
        pass
    assert sent == []
