"""Enclave instances: the keys and the evidence of the sealed process of each round."""

import uuid

from django.db import models
from django.db.models import Q


class EnclaveInstance(models.Model):
    """The enclave of one round, or of one range of it: its public keys, evidence, and private keys under their seal.

    `wrapped_keys` opens only inside a sealed process of the same measurement and policy on the
    enclave host; it is destroyed when the round ends.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    round_id = models.UUIDField(help_text="The round this instance serves.")
    range_index = models.PositiveSmallIntegerField(default=0, help_text="The range of the model it works on.")
    range_count = models.PositiveSmallIntegerField(default=1, help_text="How many ranges the model has.")
    attester = models.CharField(max_length=20)
    tier = models.CharField(max_length=20, help_text="The appraisal of the evidence.")
    key_id = models.BinaryField(max_length=32, unique=True)
    hpke_public_key = models.BinaryField()
    result_public_key = models.BinaryField()
    measurement = models.BinaryField(max_length=64)
    policy_digest = models.BinaryField(max_length=64)
    evidence = models.BinaryField()
    attestation_key = models.BinaryField(
        help_text="The enclave host's public attestation key: whose host it is, and in software evidence who signed."
    )
    protections = models.JSONField(default=dict, help_text="What the kernel granted the sealed process.")
    appraisal = models.JSONField(default=dict, help_text="The host's own appraisal: an EAR without the evidence.")
    wrapped_keys = models.BinaryField(null=True)
    prepared_at = models.DateTimeField(db_index=True)
    retired_at = models.DateTimeField(null=True, blank=True)
    key_destroyed_at = models.DateTimeField(null=True, blank=True, help_text="When the host's sealing key went.")

    class Meta:
        ordering = ("-prepared_at",)
        indexes = (
            models.Index(
                fields=("-prepared_at",),
                condition=Q(key_destroyed_at=None, retired_at__isnull=False),
                name="enclave_key_to_destroy",
            ),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("round_id", "range_index"), condition=Q(retired_at=None), name="one_live_enclave_per_range"
            ),
            models.CheckConstraint(
                condition=Q(range_index__lt=models.F("range_count")), name="a_range_is_one_of_its_count"
            ),
            models.CheckConstraint(
                condition=Q(retired_at=None, wrapped_keys__isnull=False)
                | Q(retired_at__isnull=False, wrapped_keys=None),
                name="a_retired_enclave_keeps_no_key",
            ),
            models.CheckConstraint(
                condition=Q(key_destroyed_at=None) | Q(retired_at__isnull=False),
                name="a_key_is_destroyed_after_retirement",
            ),
        )

    def __str__(self) -> str:
        return f"enclave {bytes(self.key_id).hex()[:16]}"
