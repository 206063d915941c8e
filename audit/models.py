"""The tables of the log. Entries, tiles and checkpoints are only ever inserted: triggers refuse the rest."""

import uuid

from django.db import models
from django.db.models import Q

from audit.kinds import describe
from qflare_protocol.audit_entry import COMMITMENT_BYTES, SALT_BYTES, AuditEntry, disclosure_bytes, to_microseconds
from qflare_protocol.log_tiles import TILE_WIDTH
from qflare_protocol.merkle import HASH_BYTES

ERASED = "erased"
"""What stands in the place of the actor of an event whose disclosure was erased."""


class Event(models.Model):
    """Something that happened, written in the transaction in which it happened; the sequencer's inbox.

    It is the disclosure of its entry (`qflare_protocol.audit_entry`): who, what, and the salt. Erased, it
    keeps kind, time and commitment alone, and the log's proofs hold as before.

    `sequenced` belongs to the sequencer alone. It is a column, and not the absence of an entry, so that
    finding the next events costs the same however long the log is.
    """

    event_id = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    occurred_at = models.DateTimeField()
    kind = models.CharField(max_length=100)
    actor = models.CharField(max_length=200)
    payload = models.JSONField()
    payload_bytes = models.BinaryField(help_text="As committed to; a database may change numbers in JSON.")
    salt = models.BinaryField(max_length=SALT_BYTES)
    commitment = models.BinaryField(max_length=COMMITMENT_BYTES)
    sequenced = models.BooleanField(default=False)
    erased_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["id"], condition=Q(sequenced=False), name="audit_event_unsequenced"),
            models.Index(fields=["kind", "-id"], name="audit_event_kind"),
            models.Index(fields=["actor", "-id"], name="audit_event_actor"),
            models.Index(fields=["occurred_at"], name="audit_event_by_time"),
        ]
        constraints = [
            models.CheckConstraint(condition=~Q(actor=""), name="audit_event_has_an_actor"),
            models.CheckConstraint(
                condition=Q(erased_at=None) | Q(actor=ERASED, payload={}, payload_bytes=b"", salt=b"", sequenced=True),
                name="audit_event_erased_whole",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} by {self.actor}"

    @property
    def description(self) -> str:
        """The event in words."""
        return describe(self.kind, self.payload) if self.erased_at is None else f"{self.kind}, erased"

    def disclosure_bytes(self) -> bytes:
        """Return the canonical bytes that the entry commits to; none where the event was erased."""
        if self.erased_at is not None:
            return b""
        return disclosure_bytes(bytes(self.salt), self.actor, bytes(self.payload_bytes))


class Entry(models.Model):
    """One link of the hash chain and one leaf of the tree (`qflare_protocol.audit_entry`)."""

    index = models.BigIntegerField(primary_key=True)
    event = models.OneToOneField(Event, on_delete=models.PROTECT, related_name="entry")
    occurred_at = models.DateTimeField()
    kind = models.CharField(max_length=100)
    commitment = models.BinaryField(max_length=COMMITMENT_BYTES)
    entry_hash = models.BinaryField(max_length=64)
    leaf_hash = models.BinaryField(max_length=32)

    class Meta:
        ordering = ["-index"]
        verbose_name_plural = "entries"
        indexes = [models.Index(fields=["occurred_at"], name="audit_entry_by_time")]
        constraints = [models.CheckConstraint(condition=Q(index__gte=0), name="audit_entry_index_from_0")]

    def __str__(self) -> str:
        return f"{self.index}: {self.kind}"

    @property
    def description(self) -> str:
        """The entry in words."""
        return self.event.description

    def canonical_bytes(self, previous_hash: bytes) -> bytes:
        """Return the bytes that are hashed and exported, made anew from the columns and the hash before it."""
        time = to_microseconds(self.occurred_at)
        return AuditEntry(self.index, time, self.kind, bytes(self.commitment), previous_hash).to_bytes()


class Tile(models.Model):
    """256 hashes of tree level 8 * `level`, once all of them are there (C2SP tlog-tiles), and the root over them.

    The hashes at the right edge are in `Entry.leaf_hash` and in the roots of the tiles below.
    """

    level = models.PositiveSmallIntegerField()
    index = models.BigIntegerField()
    hashes = models.BinaryField(max_length=TILE_WIDTH * HASH_BYTES)
    root = models.BinaryField(max_length=HASH_BYTES)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["level", "index"], name="audit_one_tile_per_place"),
            models.CheckConstraint(condition=Q(index__gte=0), name="audit_tile_place"),
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
        indexes = [models.Index(fields=["created_at"], name="audit_checkpoint_by_time")]
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
        indexes = [models.Index(fields=["seen_at"], name="audit_sighting_by_time")]

    def __str__(self) -> str:
        return f"{self.device_name}: {self.size} entries"


class WitnessCosignature(models.Model):
    """A device's signature under a checkpoint of this log that it found to continue all it had seen."""

    device_name = models.CharField(max_length=150)
    key_fingerprint = models.BinaryField(max_length=32)
    algorithm = models.CharField(max_length=32)
    public_key = models.BinaryField()
    size = models.BigIntegerField()
    root = models.BinaryField(max_length=HASH_BYTES)
    cosignature = models.BinaryField()
    received_at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["size", "id"], name="audit_cosignature_by_size")]
        constraints = [
            models.UniqueConstraint(
                fields=["device_name", "key_fingerprint", "size"], name="audit_one_cosignature_per_size"
            ),
            models.CheckConstraint(condition=Q(size__gte=1), name="audit_cosignature_size"),
        ]

    def __str__(self) -> str:
        return f"{self.device_name} under {self.size} entries"


class AnchorState(models.TextChoices):
    """How far an anchor is."""

    PENDING = "pending", "pending"
    COMPLETED = "completed", "completed"
    FAILED = "failed", "failed"


class AnchorReceipt(models.Model):
    """That a checkpoint was, or is to be, laid down at a place outside this house (`audit.anchors`)."""

    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="anchors")
    anchor = models.CharField(max_length=60, help_text="Its name in QFLARE_ANCHORS.")
    kind = models.CharField(max_length=20)
    state = models.CharField(max_length=10, choices=AnchorState, default=AnchorState.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    receipt = models.BinaryField(default=b"")
    error = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    done_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["next_attempt_at"], condition=Q(state="pending"), name="audit_anchor_due"),
            models.Index(fields=["anchor", "-id"], name="audit_anchor_latest"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["checkpoint", "anchor"], name="audit_one_receipt_per_anchor"),
            models.CheckConstraint(condition=Q(state__in=AnchorState.values), name="audit_anchor_state"),
            models.CheckConstraint(
                condition=(Q(state="completed", done_at__isnull=False) & ~Q(receipt=b""))
                | (~Q(state="completed") & Q(receipt=b"")),
                name="audit_anchor_done_with_its_receipt",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.anchor}: {self.state}"


class Sequencer(models.Model):
    """The one row whose lock a transaction holds while it appends to the log or signs it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    last_run_at = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="audit_one_sequencer")]

    def __str__(self) -> str:
        return f"last run {self.last_run_at:%Y-%m-%d %H:%M:%S}"
