"""A federation ends when the metric of its model reached its goal, or has not improved for as long as it may."""

import statistics
import uuid
from collections import defaultdict

from training.models import Federation, ModelVersion, ParticipationState, Round, Update
from training.services.federations import finish_federation
from training.terms import Direction, RoundTerms


def reported_metrics(round_: Round) -> dict[str, float]:
    """Return the median of each metric that most of the accepted devices of a round reported.

    A median and no mean: no minority of the devices can move it out of what the others say.
    """
    accepted = Update.objects.filter(
        participation__round=round_, participation__state=ParticipationState.ACCEPTED
    ).values_list("metrics", flat=True)
    values: dict[str, list[float]] = defaultdict(list)
    for metrics in accepted:
        for name, value in metrics.items():
            values[name].append(value)
    return {name: statistics.median(row) for name, row in sorted(values.items()) if 2 * len(row) > len(accepted)}


def stop_when_due(federation_id: uuid.UUID) -> None:
    """End a federation whose metric says so, inside the caller's transaction, with its event.

    The metric is the evaluator's where the federation has one, else what its devices reported.
    """
    federation = Federation.objects.get(id=federation_id)
    if not federation.stop_metric:
        return
    reason = reason_to_stop(federation, _measured(federation))
    if reason:
        finish_federation(federation, reason=reason)


def _measured(federation: Federation) -> list[float]:
    """Return the metric from the first round's version on, each made from the one before; none left behind.

    A version that was restored is the model of another: the metric stands in the row of either.
    """
    column = "metrics" if federation.evaluator else "reported_metrics"
    rows = ModelVersion.objects.filter(federation=federation).values_list("id", "restored_from_id", column)
    versions = {id_: (restored_from or id_, metrics) for id_, restored_from, metrics in rows}
    rounds = Round.objects.filter(federation=federation, resulting_version__isnull=False)
    bases = dict(rounds.values_list("resulting_version_id", "base_version_id"))
    values: list[float] = []
    at = federation.current_version_id
    while at is not None:
        made, metrics = versions[at]
        value = metrics.get(federation.stop_metric, versions[made][1].get(federation.stop_metric))
        if made in bases and value is not None:
            values.append(value)
        at = bases.get(made)
    return values[::-1]


def reason_to_stop(terms: RoundTerms, values: list[float]) -> str:
    """Return why training ends after these values of its metric, in the order of versions; empty: it goes on."""
    if not values:
        return ""
    sign = 1 if terms.stop_direction == Direction.MAXIMISE else -1
    rising = [sign * value for value in values]
    if terms.stop_goal is not None and rising[-1] >= sign * terms.stop_goal:
        return f"{terms.stop_metric} is {values[-1]:g}, its goal was {terms.stop_goal:g}"
    best = max(range(len(rising)), key=rising.__getitem__)  # the first of several
    if terms.stop_patience is not None and len(rising) - 1 - best >= terms.stop_patience:
        return f"{terms.stop_metric} did not improve on {values[best]:g} for {terms.stop_patience} versions"
    return ""
