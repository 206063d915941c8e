"""Watching: every entry of the log is read once, in its order, and how things stand is examined."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max, Q

from audit.models import Entry, Event
from monitor.models import Incident, MonitorPosition, RuleSetting, Sighting
from monitor.rules import RULES, Rule
from monitor.services.incidents import add_responses, cooling_down, note_sighting, open_incident
from monitor.services.responses import carry_out_due
from monitor.services.tuning import enabled_rules, make_settings
from monitor.terms import ACTOR, Terms

BATCH = 200
"""Entries read in one transaction: few, because on SQLite nobody else writes meanwhile."""
LONGEST_GAP = timedelta(minutes=5)
"""A monitor that has not run for longer knows nothing of that time: silence counts anew from its return."""


def watch(*, now: datetime) -> int:
    """Read what is new in the log, examine how things stand, and carry out what is due; return the entries read."""
    make_settings(now)
    note_run(now)
    read = 0
    while count := read_entries(now=now):
        read += count
    examine(now=now)
    carry_out_due(now=now)
    forget_old_sightings(now)
    return read


def read_entries(limit: int = BATCH, *, now: datetime) -> int:
    """Read up to `limit` new entries and what the rules find in them, in one commit; return how many.

    Entries are read by their index in the log and not by the events' ids. One sequencer at a time gives
    out indices without a gap and commits them in order, so what lies below the position was read, by this
    monitor, once; on PostgreSQL an event with a lower id can be committed later. Of several monitors one
    reads and the others find the position taken.
    """
    with transaction.atomic():
        position = MonitorPosition.objects.select_for_update(skip_locked=True).filter(id=1).first()
        if position is None:
            return 0
        size = Entry.objects.aggregate(last=Max("index"))["last"]
        end = min(position.next_index + limit, 0 if size is None else size + 1)
        if end <= position.next_index:
            return 0
        _apply_rules(position.next_index, end, now)
        MonitorPosition.objects.filter(id=1).update(next_index=end)
    return end - position.next_index


def _apply_rules(start: int, end: int, now: datetime) -> None:
    rules = [(rule, terms) for rule, terms in enabled_rules() if rule.findings is not None]
    kinds = frozenset().union(*(rule.kinds for rule, _ in rules))
    entries = Entry.objects.filter(index__gte=start, index__lt=end, kind__in=kinds).select_related("event")
    for entry in entries.order_by("index"):
        if entry.event.erased_at is None and entry.event.actor != ACTOR:
            _apply_to_event(rules, entry.event, now)


def _apply_to_event(rules: Iterable[tuple[Rule, Terms]], event: Event, now: datetime) -> None:
    for rule, terms in rules:
        if event.kind in rule.kinds and rule.findings is not None:
            for finding in rule.findings(event, terms):
                note_sighting(rule, terms, finding, event, now=now)


def examine(*, now: datetime) -> None:
    """Have the rules that look at how things stand do so, and open what they find."""
    position = MonitorPosition.objects.get(id=1)
    for rule, terms in enabled_rules():
        if rule.examine is None:
            continue
        for finding in rule.examine(terms, position.watching_since, now):
            with transaction.atomic():
                # The position's row makes this monitor the only one that opens.
                MonitorPosition.objects.select_for_update().get(id=1)
                known = Incident.objects.unclosed(rule.name, finding.subject).exists()
                if not known and not cooling_down(rule, finding.subject, terms, now):
                    add_responses(open_incident(rule, terms, finding, now=now, last_event_at=now), terms)


@transaction.atomic
def note_run(now: datetime) -> None:
    """Remember that the monitor runs, and since when without a break."""
    first = MonitorPosition(id=1, watching_since=now, last_run_at=now)
    MonitorPosition.objects.bulk_create([first], ignore_conflicts=True)
    MonitorPosition.objects.filter(id=1, last_run_at__lt=now - LONGEST_GAP).update(watching_since=now)
    MonitorPosition.objects.filter(id=1).update(last_run_at=now)


def forget_old_sightings(now: datetime) -> None:
    """Delete what rules saw, and no incident holds, once no window reaches back to it.

    A window's length more is kept: a monitor that catches up reads events of a while ago.
    """
    old = ~Q(rule__in=RULES)
    for setting in RuleSetting.objects.filter(rule__in=RULES):
        old |= Q(rule=setting.rule, occurred_at__lte=now - 2 * setting.terms.window)
    Sighting.objects.filter(old, incident=None).delete()
