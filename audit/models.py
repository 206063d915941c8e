"""The tables of the log. Entries, tree nodes and checkpoints are only ever inserted: triggers refuse the rest."""

import uuid
from typing import Any

from django.db import models
from django.db.models import Q

from audit.kinds import describe
from qflare_protocol.audit_entry import AuditEntry, to_microseconds
from qflare_protocol.encoding import decode


class Event(models.Model):
    """Something that happened, written in the transaction in which it happened; the sequencer's inbox.

    `sequenced` belongs to the sequencer alone. It is a column, and not the absence of an entry, so that
    finding the next events costs the same however long the log is.
    """

    event_id = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    occurred_at = models.DateTimeField()
    actor = models.CharField(max_length=200)
    kind = models.CharField(max_length=100)
    payload = models.JSONField()
    payload_bytes = models.BinaryField(help_text="As the log will hold it; a database may change numbers in JSON.")
    sequenced = models.BooleanField(default=False)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["id"], condition=Q(sequenced=False), name="audit_event_unsequenced"),
            models.Index(fields=["kind", "-id"], name="audit_event_kind"),
        ]
        constraints = [models.CheckConstraint(condition=~Q(actor=""), name="audit_event_has_an_actor")]

    def __str__(self) -> str:
        return f"{self.kind} by {self.actor}"

    @property
    def description(self) -> str:
        """The event in words."""
        return describe(self.kind, self.payload)


class Entry(models.Model):
    """One link of the hash chain and one leaf of the tree (`qflare_protocol.audit_entry`)."""

    index = models.BigIntegerField(primary_key=True)
    event = models.OneToOneField(Event, on_delete=models.PROTECT, related_name="entry")
    occurred_at = models.DateTimeField()
    actor = models.CharField(max_length=200)
    kind = models.CharField(max_length=100)
    payload_bytes = models.BinaryField()
    previous_hash = models.BinaryField(max_length=64, unique=True)
    entry_hash = models.BinaryField(max_length=64, unique=True)
    leaf_hash = models.BinaryField(max_length=32)

    class Meta:
        ordering = ["-index"]
        verbose_name_plural = "entries"
        constraints = [models.CheckConstraint(condition=Q(index__gte=0), name="audit_entry_index_from_0")]

    def __str__(self) -> str:
        return f"{self.index}: {self.kind} by {self.actor}"

    @property
    def payload(self) -> dict[str, Any]:
        """The payload as recorded. Raises `Refusal("malformed-message")` where the row was damaged."""
        payload: dict[str, Any] = decode(bytes(self.payload_bytes), what="audit payload")
        return payload

    @property
    def description(self) -> str:
        """The entry in words."""
        return describe(self.kind, self.payload)

    def canonical_bytes(self) -> bytes:
        """Return the bytes that are hashed and exported, made anew from the columns."""
        time, previous = to_microseconds(self.occurred_at), bytes(self.previous_hash)
        return AuditEntry(self.index, time, self.actor, self.kind, self.payload, previous).to_bytes()


class TreeNode(models.Model):
    """The hash of one complete subtree of two leaves or more; the leaves themselves are in `Entry.leaf_hash`."""

    level = models.PositiveSmallIntegerField()
    index = models.BigIntegerField()
    hash = models.BinaryField(max_length=32)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["level", "index"], name="audit_one_node_per_place"),
            models.CheckConstraint(condition=Q(level__gte=1, index__gte=0), name="audit_node_place"),
        ]

    def __str__(self) -> str:
        return f"level {self.level}, index {self.index}"


class Checkpoint(models.Model):
    """A signed tree head; `note` is the C2SP note, the other columns repeat it for queries."""

    size = models.BigIntegerField()
    root = models.BinaryField(max_length=32)
    note = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["size", "created_at"], name="audit_one_checkpoint_per_moment"),
            models.CheckConstraint(condition=Q(size__gte=0), name="audit_checkpoint_size"),
        ]

    def __str__(self) -> str:
        return f"{self.size} entries at {self.created_at:%Y-%m-%d %H:%M:%S}"


class WitnessSighting(models.Model):
    """The last checkpoint that a device presented and that is part of this log."""

    device_name = models.CharField(max_length=150, unique=True)
    size = models.BigIntegerField()
    root = models.BinaryField(max_length=32)
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ["device_name"]

    def __str__(self) -> str:
        return f"{self.device_name}: {self.size} entries"


class Sequencer(models.Model):
    """The one row whose lock a transaction holds while it appends to the log or signs it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    last_run_at = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="audit_one_sequencer")]

    def __str__(self) -> str:
        return f"last run {self.last_run_at:%Y-%m-%d %H:%M:%S}"
