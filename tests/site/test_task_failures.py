"""Tasks that fail leave a row: which, of what class, where in our code, and nothing of what the error says."""

from pathlib import Path

import pytest
from celery import shared_task
from celery.exceptions import WorkerLostError
from django.db import DatabaseError
from django.utils import timezone

from qflare_protocol.errors import Refusal
from qflare_site import services, task_failures
from qflare_site.models import TaskFailure
from qflare_site.services import record_task_failure

SECRET = "a secret that somebody put into a message"

pytestmark = pytest.mark.django_db


@shared_task(name="tests.fail")
def fail(kind: str) -> None:
    """End with an error whose words hold a secret."""
    if kind == "refusal":
        raise Refusal("conflict", SECRET)
    raise ValueError(SECRET)


def run(kind):
    fail.apply(args=(kind,))
    return TaskFailure.objects.get()


def test_a_task_that_fails_is_recorded_by_class_and_place():
    before = timezone.now()
    failure = run("value")
    assert (failure.task, failure.error) == ("tests.fail", "ValueError")
    assert failure.place.startswith("tests/site/test_task_failures.py:")
    assert failure.place.endswith(", in fail")
    assert before <= failure.failed_at <= timezone.now()


def test_of_a_refusal_its_code_is_kept():
    failure = run("refusal")
    assert failure.error == "qflare_protocol.errors.Refusal: conflict"
    assert failure.place.endswith(", in fail")


@pytest.mark.parametrize("kind", ["value", "refusal"])
def test_what_the_error_says_is_not_kept(kind):
    failure = run(kind)
    assert SECRET not in f"{failure} {failure.error} {failure.place}"


def test_a_task_that_succeeds_leaves_nothing():
    @shared_task(name="tests.succeed")
    def succeed() -> None:
        """Do nothing."""

    succeed.apply()
    assert not TaskFailure.objects.exists()


def test_only_the_newest_are_kept(monkeypatch):
    monkeypatch.setattr(services, "FAILURES_KEPT", 3)
    for number in range(5):
        record_task_failure(f"task-{number}", ValueError(), now=timezone.now())
    assert list(TaskFailure.objects.values_list("task", flat=True)) == ["task-4", "task-3", "task-2"]


def test_long_names_are_cut_and_an_error_that_was_never_raised_has_no_place():
    failure = record_task_failure("t" * 500, ValueError(), now=timezone.now())
    assert (len(failure.task), failure.place) == (200, "")


def test_the_place_is_the_innermost_line_of_our_own_code():
    try:
        Path("/nowhere/at/all").read_text(encoding="utf-8")
    except OSError as error:
        failure = record_task_failure("task", error, now=timezone.now())
    assert failure.place.endswith("in test_the_place_is_the_innermost_line_of_our_own_code")


def test_a_failure_that_cannot_be_recorded_is_no_failure_of_its_own(monkeypatch):
    def refuse(*_arguments, **_named):
        raise DatabaseError("gone")

    monkeypatch.setattr(task_failures, "record_task_failure", refuse)
    task_failures.keep_failure(sender=fail, exception=ValueError())
    assert not TaskFailure.objects.exists()


def test_the_main_process_of_a_worker_keeps_no_connection(monkeypatch):
    closed = []
    monkeypatch.setattr(task_failures.connection, "close", lambda: closed.append(True))
    task_failures.keep_failure(sender=fail, exception=ValueError())
    task_failures.keep_failure(sender=fail, exception=WorkerLostError("signal 9"))
    assert closed == [True]
    assert TaskFailure.objects.count() == 2
