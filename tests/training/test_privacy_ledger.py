"""The ledger of noised releases, and the budget that stops further rounds."""

from datetime import timedelta

import blake3
import pytest
from django.db import IntegrityError, transaction
from django.urls import reverse
from django.utils import timezone

from audit.models import Event
from enclave.models import EnclaveInstance
from qflare_protocol.errors import Refusal
from tests.factories import make_user
from tests.open_rounds import make_federation
from tests.people import OPERATOR, enrol
from tests.training.whole_rounds import HONEST, aggregated, collected, together
from training import privacy
from training.models import Federation, PrivacyRelease, Round, RoundState
from training.services import rounds, steps
from training.services.privacy_budget import privacy_statement
from training.services.publication import LeaseLost
from training.services.releases import LeavingModel, charge_release

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("destroyed_round_keys")]

NOISE, DELTA = 8.0, 1e-5
TWO_RELEASES = 0.7  # of that noise: they spend 0.63, three would spend 0.79


@pytest.fixture
def noise(monkeypatch):
    """Let every policy add noise, as far as the ledger is concerned."""
    monkeypatch.setattr(privacy, "noise_multiplier_of", lambda policy: NOISE)


@pytest.fixture
def federation(noise):
    return make_federation(privacy_budget_epsilon=TWO_RELEASES, privacy_delta=DELTA)


@pytest.fixture
def opened(federation, fleet):
    return rounds.open_round(federation.id, actor=OPERATOR, now=timezone.now())


def whole_round(federation, fleet):
    federation.refresh_from_db()
    return aggregated(collected(federation, fleet, [HONEST] * 4))


def test_a_published_model_stands_in_the_ledger_and_says_what_is_spent(federation, fleet):
    version = whole_round(federation, fleet).resulting_version
    release = PrivacyRelease.objects.get()
    assert (release.number, release.version, release.noise_multiplier) == (1, version, NOISE)
    assert release.epsilon_spent == pytest.approx(privacy.epsilon_of([NOISE], DELTA))
    assert (version.privacy_epsilon, version.privacy_delta) == (release.epsilon_spent, DELTA)
    published = Event.objects.get(kind="model.published", payload__version=1).payload
    released = Event.objects.get(kind="privacy.released").payload
    for payload in (published, released):
        assert (payload["epsilon_spent"], payload["delta"]) == (release.epsilon_spent, DELTA)


def test_a_spent_budget_opens_no_further_round(federation, fleet):
    for _ in range(2):
        assert whole_round(federation, fleet).state == RoundState.COMPLETED
    assert PrivacyRelease.objects.latest("number").epsilon_spent <= TWO_RELEASES
    for open_another in (
        lambda: rounds.open_round(federation.id, actor=OPERATOR, now=timezone.now()),
        lambda: rounds.open_scheduled_round(federation.id, now=timezone.now()),
    ):
        with pytest.raises(Refusal, match="2 releases") as caught:
            open_another()
        assert caught.value.code == "privacy-budget-spent"
    assert Round.objects.count() == 2


def test_a_model_that_left_and_was_not_published_counts_and_the_next_attempt_again(federation, fleet, monkeypatch):
    round_ = collected(federation, fleet, [HONEST] * 4)

    def dies(*arguments):
        raise LeaseLost

    with monkeypatch.context() as before_publication:
        before_publication.setattr(steps, "publish_result", dies)
        assert not steps.aggregate_round(round_.id, now=timezone.now())
    assert steps.aggregate_round(round_.id, now=timezone.now() + timedelta(hours=1))
    lost, kept = PrivacyRelease.objects.order_by("number")
    assert (lost.version, kept.version.number) == (None, 1)
    assert kept.epsilon_spent > lost.epsilon_spent
    assert kept.version.privacy_epsilon == kept.epsilon_spent


def test_an_attempt_that_the_budget_does_not_cover_publishes_nothing_and_says_why(federation, fleet):
    round_ = collected(federation, fleet, [HONEST] * 4)
    for _ in range(2):
        charge_release(round_, now=timezone.now())
    assert not steps.aggregate_round(round_.id, now=timezone.now())
    round_.refresh_from_db()
    assert round_.state == RoundState.FAILED
    assert "budget is spent" in round_.end_reason
    assert PrivacyRelease.objects.count() == 2
    assert federation.versions.count() == 1


def test_a_round_that_began_anew_before_any_model_left_is_one_release(federation, fleet):
    round_ = collected(federation, fleet, [HONEST] * 4)
    EnclaveInstance.objects.filter(round_id=round_.id).update(wrapped_keys=b"\x00" * 200)
    assert not steps.aggregate_round(round_.id, now=timezone.now())
    assert not PrivacyRelease.objects.exists()


def test_a_release_is_charged_once_for_all_pieces_of_its_model(opened):
    with LeavingModel(opened) as leaving:
        for piece in (b"one", b"two"):
            leaving.take(piece)
        sealed = leaving.seal()
    assert (sealed.size_bytes, sealed.digest) == (6, blake3.blake3(b"onetwo").digest())
    assert leaving.release == PrivacyRelease.objects.get()


def test_nothing_is_kept_of_a_model_that_the_budget_does_not_cover(opened):
    for _ in range(2):
        charge_release(opened, now=timezone.now())
    with LeavingModel(opened) as leaving:
        with pytest.raises(Refusal, match="2 releases"):
            leaving.take(b"piece")
        assert leaving.seal().size_bytes == 0


def test_without_noise_there_is_no_ledger(federation, opened, monkeypatch):
    monkeypatch.setattr(privacy, "noise_multiplier_of", lambda policy: None)
    assert charge_release(opened, now=timezone.now()) is None
    assert not PrivacyRelease.objects.exists()


def test_without_a_budget_releases_are_counted_and_never_refused(noise, fleet):
    federation = make_federation(privacy_delta=DELTA)
    opened = rounds.open_round(federation.id, actor=OPERATOR, now=timezone.now())
    for _ in range(5):
        last = charge_release(opened, now=timezone.now())
    assert last.epsilon_spent == pytest.approx(privacy.epsilon_of([NOISE] * 5, DELTA))
    assert privacy_statement(federation).endswith("in 5 releases; there is no budget.")


def test_the_database_gives_a_release_number_once(opened):
    charge_release(opened, now=timezone.now())
    first = PrivacyRelease.objects.get()
    first.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        first.save(force_insert=True)


@pytest.mark.parametrize(
    "terms",
    [
        {"privacy_least_noise": None},
        {"privacy_budget_epsilon": None},
        {"privacy_budget_epsilon": -1.0},
        {"privacy_delta": None},
        {"privacy_delta": 1.5},
    ],
)
def test_the_database_keeps_half_a_budget_out(federation, terms):
    whole = {"privacy_budget_epsilon": 1.0, "privacy_least_noise": 4.0, "privacy_delta": DELTA}
    Federation.objects.filter(id=federation.id).update(**whole)
    with pytest.raises(IntegrityError), transaction.atomic():
        Federation.objects.filter(id=federation.id).update(**terms)


def test_a_budget_without_noise_is_refused():
    with pytest.raises(Refusal, match="adds noise"):
        make_federation(privacy_budget_epsilon=1.0, privacy_delta=DELTA)


def test_what_is_spent_and_left_is_said_in_a_sentence(federation, opened):
    assert privacy_statement(federation).endswith("in 0 releases; 2 more fit.")
    charge_release(opened, now=timezone.now())
    assert privacy_statement(federation) == (
        f"Epsilon {privacy.epsilon_of([NOISE], DELTA):.3g} of {TWO_RELEASES:g} spent at delta 1e-05 in 1 release; "
        "1 more fit."
    )


def test_operators_see_the_budget_and_what_is_outside_of_it(federation, opened, client):
    charge_release(opened, now=timezone.now())
    client.force_login(make_user("vera", "view_federation", "view_privacyrelease"))
    page = client.get(reverse("admin:training_federation_change", args=[federation.id])).content.decode()
    assert "in 1 release; 1 more fit." in page
    assert "Not covered by differential privacy" in page
    ledger = client.get(reverse("admin:training_privacyrelease_changelist")).content.decode()
    assert f"release 1 of {federation}" in ledger
    overview = client.get(reverse("console:overview")).content.decode()
    assert "spent at delta 0.00001" in overview


@pytest.mark.django_db(transaction=True)
def test_of_attempts_at_once_no_more_are_charged_than_the_budget_covers(noise, tmp_path):
    federation = make_federation(privacy_budget_epsilon=TWO_RELEASES, privacy_delta=DELTA)
    for name in ("alice", "carol", "dave"):
        enrol(name, tmp_path / name)
    opened = rounds.open_round(federation.id, actor=OPERATOR, now=timezone.now())

    def attempt():
        return charge_release(opened, now=timezone.now()).number

    charged = together(attempt, attempt, attempt, attempt)
    assert sorted(map(str, charged)) == ["1", "2", "privacy-budget-spent", "privacy-budget-spent"]
    assert PrivacyRelease.objects.count() == 2
