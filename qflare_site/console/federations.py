"""The federations, and one federation with its rounds, policy, schedule and privacy budget."""

from typing import Any

from django.db.models import OuterRef, Subquery
from django.http import HttpRequest
from django_celery_beat.models import PeriodicTask

from qflare_site.console.figures.effort import bytes_per_round, duration_per_round
from qflare_site.console.figures.learning import accuracy_per_round, loss_per_round
from qflare_site.console.figures.participation import participation_per_round
from qflare_site.console.figures.scores import score_strip
from qflare_site.console.listing import Choice, Listing
from qflare_site.console.overview import SELDOM_SECONDS
from qflare_site.console.pages import EVERY_SECONDS
from qflare_site.console.policy import explained_policy
from qflare_site.console.round_rows import round_rows
from training.models import UNFINISHED, Federation, FederationState, ModelVersion, Round
from training.privacy import OUTSIDE_THE_GUARANTEE
from training.services.privacy_budget import privacy_statement
from training.services.schedules import schedule_name

ROUNDS_SHOWN = 25


def list_federations(request: HttpRequest) -> Listing:
    """Return the page of federations that the request asks for, each with its last round's number and accuracy."""
    rounds = Round.objects.filter(federation=OuterRef("pk")).order_by("-number")
    measured = ModelVersion.objects.filter(federation=OuterRef("pk"), metrics__accuracy__isnull=False)
    rows = Federation.objects.annotate(
        last_round=Subquery(rounds.values("number")[:1]),
        last_state=Subquery(rounds.values("state")[:1]),
        measured=Subquery(measured.order_by("-number").values("metrics")[:1]),
    ).select_related("current_version")
    choices = (Choice("state", "State", FederationState.choices),)
    return Listing.of(rows.order_by("name"), request, choices=choices, search=("name", "group", "trainer"))


def read_rounds(federation: Federation) -> dict[str, Any]:
    """Return the federation's last rounds, newest first; alive while one runs or another may open."""
    rows = round_rows(federation.rounds.order_by("-number")[:ROUNDS_SHOWN])
    return {
        "rows": rows,
        "current": next((row for row in rows if row.running), None),
        "live": federation.state != FederationState.FINISHED or any(row.running for row in rows),
    }


def read_terms(federation: Federation) -> dict[str, Any]:
    """Return the policy with what each part does, the terms of its rounds, its schedule and its privacy budget."""
    return {
        "policy": explained_policy(federation.aggregation_policy()),
        "schedule": PeriodicTask.objects.filter(name=schedule_name(federation)).first(),
        "privacy": privacy_statement(federation) if federation.privacy_delta else "",
        "outside_the_guarantee": OUTSIDE_THE_GUARANTEE,
    }


def read_figures(federation: Federation) -> dict[str, Any]:
    """Return how the federation learns, who takes part with which outcome, and what its rounds take.

    Asked for every few seconds while a round runs or its model waits to be evaluated, else every minute.
    """
    figures = (
        accuracy_per_round, loss_per_round, participation_per_round, score_strip, duration_per_round, bytes_per_round,
    )  # fmt: skip
    changing = has_running_round(federation) or _waits_for_evaluation(federation)
    return {
        "heading": "How it goes",
        "shown": [figure(federation.id) for figure in figures],
        "live": federation.state != FederationState.FINISHED or changing,
        "every": EVERY_SECONDS if changing else SELDOM_SECONDS,
    }


def _waits_for_evaluation(federation: Federation) -> bool:
    waiting = federation.versions.filter(evaluated_at=None, evaluation_error="")
    return bool(federation.evaluator) and waiting.exists()


def has_running_round(federation: Federation) -> bool:
    """Whether a round of the federation runs."""
    return federation.rounds.filter(state__in=UNFINISHED).exists()
