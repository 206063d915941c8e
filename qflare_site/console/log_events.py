"""Events of the log by filters, one entry with its proof, and the checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.db.models import Q, QuerySet

from audit.kinds import kinds_naming, registered_kinds
from audit.models import Checkpoint, Entry, Event
from audit.services import current_checkpoint, inclusion_proof
from qflare_protocol.errors import Refusal
from qflare_protocol.merkle import verify_inclusion

EVENTS_PER_PAGE = 50
LARGEST_ID = 2**63 - 1
TRAINING = frozenset({"federation", "round", "update", "privacy", "model"})
BY_THE_DEVICE = frozenset(
    {"session.opened", "session.rekeyed", "qkd_key.reserved", "update.received", "model.evaluated_by_device"}
)
"""Kinds whose actor is always the device that they name: found by the actor, and most of a log."""
COMMITTED = ("payload_bytes", "salt", "commitment")


class LogFilter(forms.Form):
    """What of the log is shown; every field is a query parameter, so that a view of the log has its address."""

    kind = forms.ChoiceField(
        required=False, choices=lambda: [("", "All"), *((kind, kind) for kind in registered_kinds())]
    )
    actor = forms.CharField(required=False, max_length=200)
    device = forms.CharField(required=False, max_length=150)
    federation = forms.CharField(required=False, max_length=100)
    round = forms.IntegerField(required=False, min_value=0, max_value=2**31 - 1)
    since = forms.DateTimeField(required=False, label="Since (UTC)")
    until = forms.DateTimeField(required=False, label="Until (UTC)")
    before = forms.IntegerField(required=False, min_value=1, max_value=LARGEST_ID, widget=forms.HiddenInput)

    def alternatives(self) -> list[Q]:
        """Return which events are meant, those of any of these conditions; the page is not part of them.

        They are apart because PostgreSQL finds each by an index, and reads the whole log for one OR the other.
        """
        asked = self.cleaned_data
        found = [Q()]
        for name, meant in _MEANT.items():
            if asked.get(name) not in (None, ""):
                found = [one & another for one in found for another in meant(asked[name])]
        return found

    @property
    def narrowed(self) -> bool:
        """Whether a part of the log is shown."""
        return any(self.data.get(name) for name in _MEANT)

    def address(self, **changes: Any) -> str:
        """Return the query string of this view of the log with changes."""
        asked = {name: self.data.get(name, "") for name in _MEANT} | changes
        return "?" + urlencode({name: value for name, value in asked.items() if value})


def _kinds_of_training() -> list[str]:
    """Return the kinds that can name a federation or a round: there is an index on kinds, and none on payloads."""
    return [kind for kind in registered_kinds() if kind.partition(".")[0] in TRAINING]


def _kinds_about_devices() -> list[str]:
    """Return the kinds that name a device which may not be their actor."""
    return [kind for kind in kinds_naming("device") if kind not in BY_THE_DEVICE]


_MEANT: dict[str, Callable[[Any], tuple[Q, ...]]] = {
    "kind": lambda kind: (Q(kind=kind),),
    "actor": lambda actor: (Q(actor=actor),),
    "device": lambda name: (Q(actor=f"device:{name}"), Q(kind__in=_kinds_about_devices(), payload__device=name)),
    "federation": lambda name: (Q(kind__in=_kinds_of_training(), payload__federation=name),),
    "round": lambda number: (Q(kind__in=_kinds_of_training(), payload__round_number=number),),
    "since": lambda moment: (Q(occurred_at__gte=moment),),
    "until": lambda moment: (Q(occurred_at__lte=moment),),
}


@dataclass(frozen=True)
class LogPage:
    """Some events, newest first; `older` is the query string of those before them, empty where there are none."""

    events: list[Event]
    older: str


def read_events(asked: LogFilter) -> LogPage:
    """Return the page that a filter asks for; a filter that cannot be read shows nothing."""
    if not asked.is_valid():
        return LogPage([], "")
    events = Event.objects.select_related("entry").defer(*COMMITTED).order_by("-id")
    if asked.cleaned_data["before"]:
        events = events.filter(id__lt=asked.cleaned_data["before"])
    read = [event for meant in asked.alternatives() for event in events.filter(meant)[: EVENTS_PER_PAGE + 1]]
    rows = sorted({event.id: event for event in read}.values(), key=attrgetter("id"), reverse=True)
    shown = rows[:EVENTS_PER_PAGE]
    return LogPage(shown, asked.address(before=shown[-1].pk) if len(rows) > len(shown) else "")


@dataclass(frozen=True)
class Inclusion:
    """The proof that an entry is in the log under a checkpoint; `fault` says why it does not lead to its root."""

    checkpoint: Checkpoint
    path: list[bytes]
    fault: str


def read_inclusion(entry: Entry) -> Inclusion | None:
    """Return the entry's proof under the current checkpoint, checked; None before a checkpoint covers it."""
    head = current_checkpoint()
    if head is None or entry.index >= head.size:
        return None
    path = inclusion_proof(entry.index, head.size)
    try:
        verify_inclusion(bytes(entry.leaf_hash), entry.index, head.size, path, bytes(head.root))
    except Refusal as refusal:
        return Inclusion(head, path, refusal.detail)
    return Inclusion(head, path, "")


def previous_hash(entry: Entry) -> bytes | None:
    """Return the hash of the entry before, None of the first."""
    return Entry.objects.filter(index=entry.index - 1).values_list("entry_hash", flat=True).first()


def checkpoints() -> QuerySet[Checkpoint]:
    """Return the checkpoints with their anchors, newest first."""
    return Checkpoint.objects.prefetch_related("anchors").order_by("-id")
