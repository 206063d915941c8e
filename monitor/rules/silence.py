"""Silence: of a federation's devices, and of the log."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import Max

from audit.models import Checkpoint, Event
from monitor.rules.definition import Finding, Rule
from monitor.terms import LOG, Action, Severity, Subject, SubjectKind, Terms
from training.models import Federation, FederationState
from training.services.presence import present_for

CHECKPOINT_BUCKET = timedelta(seconds=300)


def silent_federations(terms: Terms, since: datetime, now: datetime) -> Iterable[Finding]:
    """Find the federations whose devices, heard before, are all silent; `since` is when the monitor began to watch.

    Nobody was there to be heard while the site was down, so the window never begins before the monitor did. Nor is it
    shorter than what devices of so large a fleet may be told to wait.
    """
    if since > now - terms.window:
        return
    begin = now - max(terms.window, present_for())
    if since > begin:
        return
    for federation in Federation.objects.filter(state=FederationState.ACTIVE):
        members = federation.members().filter(last_seen_at__isnull=False)
        last = members.aggregate(last=Max("last_seen_at"))["last"]
        if last is None or last > begin:
            continue
        if members[: terms.threshold].count() >= terms.threshold:
            detail = f"The last of its devices was heard at {last:%Y-%m-%d %H:%M:%S}."
            yield Finding(Subject(SubjectKind.FEDERATION, federation.name), detail)


def silent_log(terms: Terms, since: datetime, now: datetime) -> Iterable[Finding]:
    """Find a log that has something to sign and no checkpoint within the window."""
    last = Checkpoint.objects.order_by("-id").values_list("created_at", flat=True).first()
    if max(last or since, since) <= now - terms.window and (last or Event.objects.exists()):
        moment = f"{last:%Y-%m-%d %H:%M:%S}" if last else "never"
        waiting = Event.objects.filter(sequenced=False).count()
        yield Finding(LOG, f"Last checkpoint: {moment}; {waiting} events wait.")


SILENCE_RULES = (
    Rule(
        "fleet-silence",
        "Nobody of a federation's devices has been heard for a while, though they were heard before.",
        "devices that were heard before",
        Terms(2, timedelta(hours=1), Severity.WARNING),
        possible_responses=(Action.PAUSE_FEDERATION,),
        examine=silent_federations,
        counts=False,
    ),
    Rule(
        "log-silence",
        "The log has had no checkpoint for two buckets: nothing new can be proved, and no rule over events sees more.",
        "not used",
        Terms(1, 2 * CHECKPOINT_BUCKET, Severity.CRITICAL),
        examine=silent_log,
        counts=False,
    ),
)
