"""The figures on the screens of a federation, of a round, and on the overview: who sees them, and when they live."""

import pytest
from django.urls import reverse
from django.utils import timezone

from tests.admin.conftest import signed_in
from tests.factories import make_user, populate
from training.models import Federation, ModelVersion
from training.services.rounds import cancel_round

pytestmark = pytest.mark.django_db


def text_of(browser, name, row=None, **query):
    answer = browser.get(reverse(f"console:{name}", args=(row.pk,) if row else ()), query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_a_federation_has_its_figures_beneath_its_rounds(staff):
    site = populate(now=timezone.now())
    page = text_of(staff, "federation", site.federation)
    for title in ("Accuracy per round", "Loss per round", "Participation by outcome", "Scores by device and round"):
        assert f"{title}</strong>" in page
    assert reverse("console:round", args=(site.completed.pk,)) in page.split("figure-plot")[1]


def test_figures_are_asked_for_often_while_a_round_runs_and_seldom_between_two(staff):
    site = populate(now=timezone.now())
    screens = (("federation", site.federation, "figures"), ("round", site.running, "scatter"))
    assert all('data-live="3"' in text_of(staff, name, row, panel=panel) for name, row, panel in screens)
    cancel_round(site.running.id, reason="a drill", actor="operator:olga", now=timezone.now())
    assert 'data-live="60"' in text_of(staff, "federation", site.federation, panel="figures")
    assert "data-live" not in text_of(staff, "round", site.running, panel="scatter")
    assert "data-live" not in text_of(staff, "overview", panel="figures")


def test_figures_wait_for_the_evaluation_of_the_last_model(staff):
    site = populate(now=timezone.now())
    cancel_round(site.running.id, reason="a drill", actor="operator:olga", now=timezone.now())
    Federation.objects.update(evaluator="example:Evaluator")
    ModelVersion.objects.update(evaluated_at=None)
    assert 'data-live="3"' in text_of(staff, "federation", site.federation, panel="figures")
    assert 'data-live="3"' in text_of(staff, "round", site.completed, panel="progress")
    ModelVersion.objects.update(evaluation_error="it crashed")
    assert 'data-live="60"' in text_of(staff, "federation", site.federation, panel="figures")
    assert "data-live" not in text_of(staff, "round", site.completed, panel="progress")


def test_a_round_shows_its_updates_by_direction_and_length_once_it_has_ended(staff):
    site = populate(now=timezone.now())
    assert "edge-0: Rejected: cosine too small" in text_of(staff, "round", site.completed, panel="scatter")
    assert "figure-plot" not in text_of(staff, "round", site.running, panel="scatter")


def test_the_overview_shows_the_last_day_to_whoever_may_see_the_log(staff):
    populate(now=timezone.now())
    assert "Devices online</strong>" in text_of(staff, "overview")
    assert "Devices online</strong>" not in text_of(signed_in(make_user("wendy", "view_device")), "overview")


def test_whoever_may_not_see_participations_sees_no_devices_in_a_federations_figures():
    site = populate(now=timezone.now())
    page = text_of(signed_in(make_user("fay", "view_federation")), "federation", site.federation)
    assert "edge-0" not in page
    assert "figure-plot" not in page


def test_an_accepted_update_has_no_reason(staff):
    site = populate(now=timezone.now())
    page = text_of(staff, "round", site.completed, panel="scatter")
    assert "edge-1: Accepted, cosine" in page
    assert "no reason given" not in page
