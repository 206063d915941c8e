"""`manage.py create_federation` and `manage.py federated_start`."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from audit.models import Event
from tests.factories import make_device, make_federation, small_model
from training import privacy
from training.management.commands import federated_start
from training.models import Federation, Round, RoundState
from training.services.rounds import cancel_round
from training.tasks import prepare_round

pytestmark = pytest.mark.django_db


@pytest.fixture
def model_file(tmp_path):
    file = tmp_path / "initial.safetensors"
    file.write_bytes(small_model())
    return file


@pytest.fixture(autouse=True)
def hints(monkeypatch):
    """Collect the hints that would go to the broker."""
    sent = []
    monkeypatch.setattr(prepare_round, "apply_async", lambda arguments, **options: sent.append(arguments[0]))
    return sent


def run(command, *arguments):
    out = StringIO()
    call_command(command, *map(str, arguments), stdout=out)
    return out.getvalue()


def create(model_file, *arguments):
    return run("create_federation", "digits", "--model", model_file, "--trainer", "example:Trainer", *arguments)


def test_a_federation_is_created_with_its_first_version(model_file):
    shown = create(model_file)
    federation = Federation.objects.get()
    assert str(federation.id) in shown
    assert "manage.py federated_start digits" in shown
    assert federation.current_version.number == 0
    assert Event.objects.get(kind="federation.created").actor.startswith("operator:")


def test_every_term_is_taken(model_file):
    terms = {
        "--parameters": '{"epochs": 2}',
        "--evaluator": "example:Evaluator",
        "--group": "ward",
        "--sealing-tier": "separate",
        "--round-minutes": "1.5",
        "--rounds": "7",
        "--minimum-updates": "5",
    }
    create(model_file, *(word for pair in terms.items() for word in pair))
    federation = Federation.objects.get()
    assert federation.trainer_parameters == {"epochs": 2}
    assert (federation.evaluator, federation.group) == ("example:Evaluator", "ward")
    assert (federation.round_seconds, federation.planned_rounds) == (90, 7)
    policy = federation.aggregation_policy()
    assert (policy.minimum_updates, policy.required_tier) == (5, "separate")


def test_a_privacy_budget_is_taken_where_the_policy_adds_noise(model_file, monkeypatch):
    budget = ("--privacy-epsilon", "3", "--privacy-delta", "1e-5")
    with pytest.raises(CommandError, match="adds noise"):
        create(model_file, *budget)
    monkeypatch.setattr(privacy, "noise_multiplier_of", lambda policy: 8.0)
    create(model_file, *budget)
    federation = Federation.objects.get()
    assert (federation.privacy_budget_epsilon, federation.privacy_delta) == (3.0, 1e-5)
    assert federation.privacy_least_noise == pytest.approx(privacy.least_noise(3.0, 1e-5))


def test_a_schedule_is_an_entry_of_beat(model_file):
    shown = create(model_file, "--every", "30")
    entry = PeriodicTask.objects.get(task="training.tasks.open_scheduled_round")
    assert entry.interval.every == 30
    assert str(Federation.objects.get().id) in entry.kwargs
    assert "every 30 seconds" in shown


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (("--minimum-updates", "2"), "minimum_updates"),
        (("--parameters", "[1]"), "JSON object"),
        (("--parameters", "{"), "not JSON"),
        (("--rounds", "0"), "1 or more"),
        (("--round-minutes", "0.001"), "a second or longer"),
        (("--every", "0"), "a second or longer"),
    ],
)
def test_terms_that_make_no_sense_are_refused_in_words(model_file, arguments, because):
    with pytest.raises(CommandError, match=because):
        create(model_file, *arguments)
    assert not Federation.objects.exists()


def test_a_name_has_no_spaces(model_file):
    with pytest.raises(CommandError, match="letters, digits"):
        run("create_federation", "two words", "--model", model_file, "--trainer", "example:Trainer")


def test_a_name_that_is_taken_is_refused(model_file):
    create(model_file)
    with pytest.raises(CommandError, match="exists already"):
        create(model_file)


def test_a_model_that_is_none_is_refused(tmp_path):
    file = tmp_path / "broken.safetensors"
    file.write_bytes(b"not a model")
    with pytest.raises(CommandError):
        create(file)
    with pytest.raises(CommandError, match="cannot be read"):
        create(tmp_path / "absent")
    assert not Federation.objects.exists()


@pytest.fixture
def federation():
    for number in range(3):
        make_device(f"edge-{number}")
    return make_federation()


def test_a_round_is_opened_and_its_id_printed(federation, hints):
    shown = run("federated_start", "digits").strip()
    assert shown == str(federation.rounds.get().id)
    assert hints == [shown]


def test_an_unknown_federation_is_answered_with_those_there_are(federation):
    with pytest.raises(CommandError, match="there are digits"):
        run("federated_start", "numbers")


def test_without_any_federation_it_says_how_to_create_one():
    with pytest.raises(CommandError, match="create_federation"):
        run("federated_start", "digits")


def test_a_round_that_cannot_be_opened_is_refused_in_words(federation, hints):
    run("federated_start", "digits")
    with pytest.raises(CommandError, match="running already"):
        run("federated_start", "digits")
    assert len(hints) == 1


def follow(monkeypatch, *steps):
    """Let the waiting command see one step of the round after each look."""
    remaining = list(steps)
    monkeypatch.setattr(federated_start.time, "sleep", lambda seconds: remaining.pop(0)())


def test_waiting_shows_progress_and_the_new_version(federation, monkeypatch):
    def opened():
        now = timezone.now()
        Round.objects.update(state=RoundState.OPEN, opened_at=now, deadline_at=now + timedelta(hours=1), submissions=2)

    def completed():
        version = federation.current_version
        Round.objects.update(state=RoundState.COMPLETED, resulting_version=version, finished_at=timezone.now())

    follow(monkeypatch, opened, lambda: None, completed)
    lines = run("federated_start", "digits", "--wait").splitlines()[1:]
    assert lines == [
        "Preparing the enclave: 0 of 3 updates",
        "Open: 2 of 3 updates",
        "Completed: 2 of 3 updates",
        "digits v0 is published: 0 accepted, 0 rejected.",
    ]


def test_waiting_for_a_round_that_does_not_complete_fails_with_its_reason(federation, monkeypatch):
    def cancelled():
        cancel_round(Round.objects.get().id, reason="wrong data", actor="operator:olga", now=timezone.now())

    follow(monkeypatch, cancelled)
    with pytest.raises(CommandError, match="Round 1 cancelled: wrong data") as failed:
        run("federated_start", "digits", "--wait")
    assert failed.value.returncode == 1
