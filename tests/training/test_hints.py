"""What a request makes due is asked for at once, and a broker that is away costs no more than a tick."""

import pytest
from django.utils import timezone
from kombu.exceptions import OperationalError

from tests.open_rounds import Submission
from tests.people import Person
from training.models import Round
from training.tasks import tick


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    sent: list[dict[str, object]] = []
    monkeypatch.setattr(tick, "apply_async", lambda **options: sent.append(options))
    return sent


def test_the_last_update_of_a_round_asks_for_its_closing(
    running: Round, alice: Person, hints: list[dict[str, object]], django_capture_on_commit_callbacks: object
) -> None:
    line = alice.line()
    Round.objects.update(submissions=running.target_updates - 1)
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
        assert Submission(running, alice).hand_in(line).status == 200
    assert len(hints) == 1


def test_an_update_before_the_last_asks_for_nothing(
    running: Round, alice: Person, hints: list[dict[str, object]], django_capture_on_commit_callbacks: object
) -> None:
    line = alice.line()
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
        assert Submission(running, alice).hand_in(line).status == 200
    assert hints == []


def test_a_broker_that_is_away_costs_no_receipt(
    running: Round, alice: Person, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: object
) -> None:
    def away(**_options: object) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(tick, "apply_async", away)
    line = alice.line()
    Round.objects.update(submissions=running.target_updates - 1)
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
        assert Submission(running, alice).hand_in(line).status == 200
    assert Round.objects.due_to_close(timezone.now()).exists()
