"""Whom a round invites, and how many."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from audit.models import Event
from devices.models import Device
from devices.services import set_device_labels
from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.errors import Refusal
from tests.factories import make_device
from tests.open_rounds import make_federation
from tests.people import OPERATOR, nothing_changed
from tests.policies import bare
from training.models import Federation, Participation, Round
from training.services import selection
from training.services.rounds import cancel_round, open_round
from training.terms import Selection, Terms

pytestmark = pytest.mark.django_db


@pytest.fixture
def ten():
    return [make_device(f"device-{number}") for number in range(10)]


def invited_next(federation, seed=7):
    """Open a round, end it, and return the names of the devices it invited."""
    opened = open_round(federation.id, actor=OPERATOR, now=timezone.now(), chance=random.Random(seed))
    names = set(opened.participations.values_list("device__name", flat=True))
    assert opened.invited == len(names)
    cancel_round(opened.id, reason="seen enough", actor=OPERATOR, now=timezone.now())
    return names


def chosen(**terms):
    return make_federation(terms=Terms(**terms))


def test_all_are_invited_and_the_round_closes_at_its_target(ten):
    federation = chosen(target_updates=4)
    assert len(invited_next(federation)) == 10
    assert Round.objects.get().target_updates == 4


def test_the_target_is_over_selected_for_stragglers(ten):
    federation = chosen(selection=Selection.RANDOM.value, target_updates=4, over_selection=1.5)
    assert len(invited_next(federation)) == 6
    assert Round.objects.get().target_updates == 4


@pytest.mark.parametrize("terms", [{}, {"target_updates": 4}, {"selection": "random", "selection_fraction": 1.0}])
def test_of_more_devices_than_a_round_can_name_chance_leaves_some_out(ten, monkeypatch, terms):
    monkeypatch.setattr(selection, "MAX_DEVICES_OF_A_ROUND", 9)
    federation = chosen(**terms)
    drawn = [invited_next(federation, seed) for seed in range(8)]
    assert {len(names) for names in drawn} == {9}
    assert len(set(map(frozenset, drawn))) > 1


def test_a_fraction_is_rounded_up_and_never_below_the_minimum(ten):
    assert len(invited_next(chosen(selection="random", selection_fraction=0.41))) == 5
    assert len(invited_next(make_federation("few", terms=Terms(selection="random", selection_fraction=0.1)))) == 3


def test_chance_reaches_every_device(ten):
    federation = chosen(selection="random", target_updates=3)
    drawn = Counter(name for seed in range(40) for name in invited_next(federation, seed))
    assert len(drawn) == 10
    assert max(drawn.values()) < 30


def test_a_target_of_more_than_there_are_is_what_there_is(ten):
    federation = chosen(selection="random", target_updates=50)
    assert len(invited_next(federation)) == 10
    assert Round.objects.get().target_updates == 10


def test_only_devices_that_bear_every_label_are_invited(ten):
    for device in ten[:4]:
        set_device_labels(device.id, {"gpu": "yes", "site": "north"}, actor=OPERATOR)
    set_device_labels(ten[4].id, {"gpu": "yes"}, actor=OPERATOR)
    federation = chosen(selection_labels={"gpu": "yes", "site": "north"})
    assert invited_next(federation) == {device.name for device in ten[:4]}


def test_too_few_devices_with_the_labels_are_refused_in_words(ten):
    set_device_labels(ten[0].id, {"gpu": "yes"}, actor=OPERATOR)
    federation = chosen(selection_labels={"gpu": "yes"})
    with nothing_changed(), pytest.raises(Refusal, match="10 devices are active, 1 of them bear the labels"):
        open_round(federation.id, actor=OPERATOR, now=timezone.now())


def test_the_least_recently_used_come_first(ten):
    federation = chosen(selection="least-recently-used", target_updates=5)
    first = invited_next(federation)
    assert invited_next(federation, seed=8) == {device.name for device in ten} - first


def test_the_highest_loss_comes_first_and_unknown_losses_before_it(ten):
    federation = chosen(selection="highest-loss", target_updates=4)
    everybody = make_federation("everybody")
    invited_next(everybody)
    assert len(invited_next(federation)) == 4
    # Everybody's losses of another federation count for nothing here.
    Participation.objects.filter(round__federation=everybody).update(loss=99.0)
    federation.refresh_from_db()
    Federation.objects.filter(id=federation.id).update(selection="all")
    invited_next(federation)
    latest = federation.rounds.order_by("-number")[0]
    for number, device in enumerate(ten[:9]):
        Participation.objects.filter(round=latest, device=device).update(loss=float(number))
    Participation.objects.filter(round__federation=federation, device=ten[9]).delete()  # it was never asked
    Federation.objects.filter(id=federation.id).update(selection="highest-loss")
    assert invited_next(federation) == {"device-9", "device-8", "device-7", "device-6"}


@pytest.fixture
def by_loss(ten):
    """A federation that chooses four by their loss; all ten were invited once and told theirs, each its number."""
    federation = chosen(selection="highest-loss", target_updates=4)
    Federation.objects.update(selection="all")
    invited_next(federation)
    tell_losses(federation)
    Federation.objects.update(selection="highest-loss")
    return federation


def tell_losses(federation, *silent):
    """Open the latest round, and let its devices tell their numbers as losses, but for those that are silent."""
    latest = federation.rounds.order_by("-number")[0]
    Round.objects.filter(id=latest.id).update(opened_at=timezone.now())
    for part in latest.participations.select_related("device"):
        if part.device.name not in silent:
            Participation.objects.filter(id=part.id).update(loss=float(part.device.name.removeprefix("device-")))


def test_a_device_that_was_asked_and_never_answered_comes_last(by_loss):
    make_device("device-10")
    assert "device-10" in invited_next(by_loss)
    tell_losses(by_loss, "device-10")
    assert invited_next(by_loss) == {"device-9", "device-8", "device-7", "device-6"}


def test_a_device_that_fell_silent_loses_its_place_after_three_rounds(by_loss):
    for _ in range(3):
        assert "device-9" in invited_next(by_loss)
        tell_losses(by_loss, "device-9")
    assert invited_next(by_loss) == {"device-8", "device-7", "device-6", "device-5"}


def test_a_round_that_never_opened_asked_nobody(by_loss):
    for _ in range(3):
        invited_next(by_loss)
    assert invited_next(by_loss) == {"device-9", "device-8", "device-7", "device-6"}


def test_among_silent_devices_the_one_asked_longest_ago_comes_first(by_loss):
    Participation.objects.exclude(device__name="device-3").update(loss=None)
    first = invited_next(by_loss)
    assert "device-3" in first
    tell_losses(by_loss, *first - {"device-3"})
    second = invited_next(by_loss, seed=8)
    assert first & second == {"device-3"}


def test_the_root_of_trust_is_always_invited(ten):
    root = ten[6]
    federation = chosen(selection="random", target_updates=3)
    policy = replace(federation.aggregation_policy(), root_device=root.id.hex)
    Federation.objects.filter(id=federation.id).update(policy=policy.to_map())
    assert all(root.name in invited_next(federation, seed) for seed in range(8))


@pytest.mark.parametrize(
    "terms",
    [
        {"selection": "best"},
        {"selection": "random"},
        {"selection_fraction": 0.0},
        {"selection_fraction": 1.1},
        {"selection_fraction": float("nan")},
        {"target_updates": 0},
        {"target_updates": 2},
        {"target_updates": True},
        {"over_selection": 0.9},
        {"over_selection": 11.0},
        {"extension_seconds": 60},
        {"maximum_extensions": 2},
        {"extension_seconds": -1, "maximum_extensions": 2},
    ],
    ids=str,
)
def test_terms_that_do_not_hold_are_refused(terms):
    with nothing_changed(), pytest.raises(Refusal, match="policy-refused"):
        chosen(**terms)


@pytest.mark.parametrize(
    "columns",
    [
        {"selection": "best"},
        {"selection": "random"},
        {"selection_fraction": 0.0},
        {"target_updates": 0},
        {"over_selection": 0.5},
    ],
    ids=str,
)
def test_the_database_refuses_them_too(columns):
    federation = make_federation()
    with pytest.raises(IntegrityError), transaction.atomic():
        Federation.objects.filter(id=federation.id).update(**columns)


@pytest.mark.parametrize(
    "labels",
    [["gpu"], {"": "x"}, {"gpu": ""}, {"gpu": "x" * 101}, {"gpu": 1}, {str(n): "x" for n in range(33)}, {"a": "\x00"}],
    ids=lambda labels: str(labels)[:20],
)
def test_labels_out_of_form_are_refused(labels):
    device = make_device("device")
    with nothing_changed(), pytest.raises(Refusal, match="malformed-message"):
        set_device_labels(device.id, labels, actor=OPERATOR)


def test_labelling_is_an_event():
    device = make_device("device")
    set_device_labels(device.id, {"gpu": "yes"}, actor=OPERATOR)
    assert Event.objects.get(kind="device.labelled").payload["labels"] == {"gpu": "yes"}


def test_the_root_of_trust_is_invited_whatever_the_labels_say(db, enclave_here):
    devices = [make_device(f"ward-{number}") for number in range(5)]
    Device.objects.exclude(id=devices[0].id).update(labels={"site": "north"})
    policy = bare(filters=(Stage("root-cosine"),), root_device=devices[0].id.hex)
    federation = make_federation("rooted", policy=policy, terms=Terms(selection_labels={"site": "north"}))
    opened = open_round(federation.id, actor=OPERATOR, now=timezone.now())
    assert opened.participations.filter(device=devices[0]).exists()
    cancel_round(opened.id, reason="once more", actor=OPERATOR, now=timezone.now())
    Device.objects.filter(id=devices[0].id).update(state="revoked")
    with pytest.raises(Refusal, match="The root device"):
        open_round(federation.id, actor=OPERATOR, now=timezone.now())


def test_a_round_of_few_reads_the_keys_of_no_others(ten):
    federation = chosen(selection=Selection.RANDOM.value, target_updates=3)
    with CaptureQueriesContext(connection) as asked:
        opened = open_round(federation.id, actor=OPERATOR, now=timezone.now())
    (reading,) = [query["sql"] for query in asked if query["sql"].startswith("SELECT") and "public_key" in query["sql"]]
    invited = {part.device_id for part in opened.participations.all()}
    assert len(invited) == 3
    assert {device.id for device in ten if device.id.hex in reading.replace("-", "")} == invited
