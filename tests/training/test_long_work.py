"""Evaluations and sweeps take turns on a host, and whoever waits for its turn holds no process."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from celery.signals import before_task_publish
from django.utils import timezone

from qflare_site.celery import app
from tests.open_rounds import make_federation
from training.long_work import WAITS_FRESH_SECONDS, turn_of_long_work, turn_path, waits_path
from training.services.blob_sweep import sweep_blobs
from training.services.evaluation import LEFT_TO_ANOTHER, due_evaluations, evaluate_version
from training.tasks import SWEEP_AGAIN_SECONDS
from training.tasks import sweep_blobs as sweep_task

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nobody_waits() -> Iterator[None]:
    yield
    waits_path().unlink(missing_ok=True)


@contextmanager
def another_process_at_long_work() -> Iterator[None]:
    with turn_path().open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_the_turn_is_one_and_ends_with_the_work() -> None:
    with turn_of_long_work(gives_way=True) as first, turn_of_long_work(gives_way=True) as second:
        assert (first, second) == (True, False)
    with turn_of_long_work(gives_way=True) as again:
        assert again


def test_what_comes_again_each_second_lets_in_first_who_came_in_vain() -> None:
    with turn_of_long_work(gives_way=True), turn_of_long_work(gives_way=False) as sweep:
        assert not sweep
    with turn_of_long_work(gives_way=True) as evaluation:
        assert not evaluation
    with turn_of_long_work(gives_way=False) as sweep:
        assert sweep
    with turn_of_long_work(gives_way=True) as evaluation:
        assert evaluation


def test_who_waits_and_never_comes_again_is_waited_for_half_a_minute() -> None:
    waits_path().touch()
    with turn_of_long_work(gives_way=True) as early:
        assert not early
    long_ago = time.time() - WAITS_FRESH_SECONDS
    os.utime(waits_path(), (long_ago, long_ago))
    with turn_of_long_work(gives_way=True) as late:
        assert late


def test_an_evaluation_beside_other_long_work_gives_its_turn_back_at_once() -> None:
    version = make_federation(evaluator="tests.edge.trainers:SmallTrainer").current_version
    now = version.created_at + LEFT_TO_ANOTHER
    with another_process_at_long_work():
        assert not evaluate_version(version.id, now=now)
        assert due_evaluations(now).filter(id=version.id).exists()
    assert evaluate_version(version.id, now=now)


def test_a_sweep_beside_other_long_work_does_nothing() -> None:
    with another_process_at_long_work():
        assert sweep_blobs(now=timezone.now()) is None
    assert sweep_blobs(now=timezone.now()) == 0


def test_a_sweep_without_its_turn_comes_again_until_beat_sends_the_next() -> None:
    sent: list[dict[str, Any]] = []

    def keep(headers: dict[str, Any], **_kwargs: Any) -> None:
        sent.append(headers)

    expires = (timezone.now() + timedelta(seconds=300)).isoformat()
    before_task_publish.connect(keep)
    sweep_task.push_request(expires=expires)
    try:
        with another_process_at_long_work():
            sweep_task.run()
        (again,) = sent
        assert again["expires"] == expires
        assert again["eta"] <= (timezone.now() + timedelta(seconds=SWEEP_AGAIN_SECONDS)).isoformat()
        sweep_task.run()
        assert len(sent) == 1
    finally:
        sweep_task.pop_request()
        before_task_publish.disconnect(keep)
        app.control.purge()
