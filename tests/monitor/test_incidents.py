"""Incidents: opened once, extended, acknowledged, assigned, noted, closed; and the log is read exactly once."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from audit.models import Event
from audit.services import erase_disclosures, sequence_log
from monitor.models import Incident, IncidentState, MonitorPosition, Sighting
from monitor.services.incidents import acknowledge, add_note, assign, close_incident
from monitor.services.watch import read_entries, watch
from qflare_protocol.errors import Refusal
from tests.audit_triggers import log_triggers_lifted
from tests.monitor.conftest import OLGA, Scene

pytestmark = pytest.mark.django_db


def opened(scene: Scene) -> Incident:
    scene.refused("replayed challenge", times=3)
    (incident,) = scene.look()
    return incident


def test_an_incident_tells_what_was_found_and_the_log_tells_of_it(scene):
    incident = opened(scene)
    assert [entry.actor for entry in incident.timeline.all()] == ["monitor", "monitor"]
    event = Event.objects.get(kind="incident.opened")
    expected = {"incident_id": str(incident.id), "rule": "replays", "subject": "Device alice", "severity": "warning"}
    assert (event.actor, event.payload) == ("monitor", expected)
    assert incident.sightings.count() == incident.event_count == 3


def test_looking_again_changes_nothing(scene):
    opened(scene)
    before = Event.objects.filter(actor="monitor").count()
    for _ in range(3):
        scene.later(seconds=5).look()
    assert Incident.objects.get().event_count == 3
    assert Event.objects.filter(actor="monitor").count() == before


def test_more_of_the_same_extends_the_incident_and_opens_none(scene):
    incident = opened(scene)
    scene.later(hours=2).refused("sequence-reused", kind="request.refused")
    assert scene.look() == [incident]
    incident.refresh_from_db()
    assert (incident.event_count, incident.last_event_at) == (4, scene.now)


def test_every_entry_is_read_once_however_small_the_batches_are(scene):
    scene.refused("replayed challenge", times=7)
    sequence_log(scene.now)
    watch(now=scene.now)  # makes the position
    sequence_log(scene.now)  # what the monitor itself wrote
    MonitorPosition.objects.update(next_index=0)
    Sighting.objects.update(incident=None)
    read = [read_entries(2, now=scene.now) for _ in range(8)]
    assert sum(read) == Event.objects.count()
    assert read[-1] == 0
    assert Sighting.objects.count() == 7


def test_an_event_that_is_committed_late_with_a_low_id_is_read_all_the_same(scene):
    scene.refused("replayed challenge", times=2)
    late = Event.objects.latest("id")
    Event.objects.filter(id=late.id).update(sequenced=True)  # as if its transaction were still open
    scene.event("device.suspended", device="bob", reason="x")
    assert scene.look() == []
    with log_triggers_lifted():
        Event.objects.filter(id=late.id).update(sequenced=False)
    scene.refused("replayed challenge")
    (incident,) = scene.look()
    assert incident.sightings.filter(event_id=late.id).exists()


def test_what_was_erased_before_it_was_read_counts_for_nothing(scene):
    scene.refused("replayed challenge", times=3)
    sequence_log(scene.now)
    erase_disclosures(list(Event.objects.values_list("id", flat=True)), reason="asked for", actor=OLGA, now=scene.now)
    assert scene.look() == []


def test_a_disabled_rule_sees_nothing(scene):
    scene.tuned("replays", enabled=False)
    scene.refused("replayed challenge", times=3)
    assert scene.look() == []
    assert not Sighting.objects.exists()


def test_a_tuned_threshold_and_severity_hold(scene):
    scene.tuned("replays", threshold=1, severity="critical")
    scene.refused("replayed challenge")
    (incident,) = scene.look()
    assert incident.severity == "critical"


def test_an_incident_is_acknowledged_assigned_noted_and_closed_and_each_step_is_in_timeline_and_log(scene):
    incident = opened(scene)
    acknowledge(incident.id, actor=OLGA, now=scene.now)
    incident.refresh_from_db()
    assert (incident.state, incident.assignee) == (IncidentState.ACKNOWLEDGED, OLGA)
    assign(incident.id, "operator:vera", actor=OLGA, now=scene.now)
    add_note(incident.id, " called the ward ", actor=OLGA, now=scene.now)
    close_incident(incident.id, note="a broken switch", actor=OLGA, now=scene.now)
    incident.refresh_from_db()
    assert (incident.state, incident.assignee) == (IncidentState.CLOSED, "operator:vera")
    assert (incident.closed_at, incident.closing_note) == (scene.now, "a broken switch")
    steps = [entry.text for entry in incident.timeline.filter(actor=OLGA)]
    assert steps == ["Acknowledged.", "Assigned to operator:vera.", "called the ward", "Closed: a broken switch"]
    kinds = list(Event.objects.filter(actor=OLGA).order_by("id").values_list("kind", flat=True))
    assert kinds == ["incident.acknowledged", "incident.assigned", "incident.noted", "incident.closed"]


def test_a_closed_incident_stays_closed(scene):
    incident = opened(scene)
    close_incident(incident.id, note="done", actor=OLGA, now=scene.now)
    for verb in (
        lambda: acknowledge(incident.id, actor=OLGA, now=scene.now),
        lambda: assign(incident.id, OLGA, actor=OLGA, now=scene.now),
        lambda: close_incident(incident.id, note="again", actor=OLGA, now=scene.now),
    ):
        with pytest.raises(Refusal, match="conflict: The incident is closed"):
            verb()


@pytest.mark.parametrize("note", ["", "  "])
def test_closing_and_noting_need_words(scene, note):
    incident = opened(scene)
    for verb in (close_incident, add_note):
        with pytest.raises(Refusal, match="Write a note"):
            verb(incident.id, note=note, actor=OLGA, now=scene.now)
    assert Incident.objects.get().state == IncidentState.OPEN


def test_after_closing_nothing_opens_until_it_has_cooled_down_and_nothing_is_lost(scene):
    scene.tuned("replays", cool_down_seconds=600, window_seconds=600)
    close_incident(opened(scene).id, note="done", actor=OLGA, now=scene.now)
    scene.later(minutes=5).refused("replayed challenge", times=3)
    assert scene.look() == []
    scene.later(minutes=6).refused("replayed challenge")
    (incident,) = scene.look()
    assert incident.event_count == 4


def test_events_of_a_closed_incident_do_not_count_for_the_next(scene):
    scene.tuned("replays", cool_down_seconds=0)
    close_incident(opened(scene).id, note="done", actor=OLGA, now=scene.now)
    scene.later(seconds=5).refused("replayed challenge", times=2)
    assert scene.look() == []


def test_what_no_window_reaches_any_more_is_forgotten(scene):
    scene.refused("replayed challenge", times=2)
    scene.look()
    assert Sighting.objects.count() == 2
    scene.later(minutes=21).look()
    assert Sighting.objects.count() == 0


def test_the_database_keeps_one_unclosed_incident_per_rule_and_subject(scene):
    incident = opened(scene)
    with pytest.raises(IntegrityError), transaction.atomic():
        Incident.objects.create(
            rule=incident.rule,
            subject_kind=incident.subject_kind,
            subject_name=incident.subject_name,
            severity="warning",
            opened_at=scene.now,
            last_event_at=scene.now,
        )


@pytest.mark.parametrize(
    "change", [{"state": "closed"}, {"closing_note": "x"}, {"closed_at": "2026-03-01T12:00Z"}, {"severity": "loud"}]
)
def test_the_database_refuses_an_incident_that_contradicts_itself(scene, change):
    opened(scene)
    with pytest.raises(IntegrityError), transaction.atomic():
        Incident.objects.update(**change)


def test_after_a_gap_silence_counts_anew(scene):
    scene.look()
    since = MonitorPosition.objects.get().watching_since
    scene.later(minutes=4).look()
    assert MonitorPosition.objects.get().watching_since == since
    scene.now += timedelta(minutes=6)
    scene.look()
    assert MonitorPosition.objects.get().watching_since == scene.now
