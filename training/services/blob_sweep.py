"""Blobs that nothing needs any more: of refused submissions, of rounds that are over, of killed writers."""

from datetime import datetime, timedelta

from training.blob_store.configured import blob_store
from training.models import UNFINISHED, CarriedRow, ModelVersion, RangeOutput, Update
from training.services.uploads import sweep_uploads

UNREFERENCED_FOR = timedelta(hours=1)


def referenced_digests() -> set[str]:
    """Return the digests of all blobs that something needs.

    An update of a finished round can be opened by nobody: its key is destroyed.
    """
    running = Update.objects.filter(participation__round__state__in=UNFINISHED)
    return {
        *ModelVersion.objects.values_list("blob_digest", flat=True),
        *running.values_list("blob_digest", flat=True),
        *CarriedRow.objects.values_list("blob_digest", flat=True),
        *RangeOutput.objects.values_list("blob_digest", flat=True),
    }


def sweep_blobs(*, now: datetime) -> int:
    """Delete the others and abandoned uploads, once they have lain for long, and return how many."""
    seconds = UNREFERENCED_FOR.total_seconds()
    abandoned = sweep_uploads(older_than_seconds=seconds, now=now)
    return abandoned + blob_store().delete_unreferenced(
        referenced_digests(), older_than_seconds=seconds, now=now.timestamp()
    )
