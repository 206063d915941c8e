"""Blobs that nothing needs any more: of refused submissions, of rounds that are over, of killed writers."""

from datetime import datetime, timedelta

from training.blob_store.configured import blob_store
from training.long_work import turn_of_long_work
from training.models import UNFINISHED, CarriedRow, ModelVersion, RangeOutput, Update
from training.services.uploads import sweep_uploads

UNREFERENCED_FOR = timedelta(hours=1)


def referenced_digests() -> set[str]:
    """Return the digests of all blobs that something needs.

    An update of a finished round can be opened by nobody: its key is destroyed.
    """
    named = (
        Update.objects.filter(participation__round__state__in=UNFINISHED),
        RangeOutput.objects.all(),
        CarriedRow.objects.all(),
    )
    # One statement sees one state: asked one after the other, a digest that a publication moves from one table to
    # another in between would be in neither.
    of_versions = ModelVersion.objects.order_by().values_list("blob_digest", flat=True)
    others = (rows.order_by().values_list("blob_digest", flat=True) for rows in named)
    return set(of_versions.union(*others, all=True))


def sweep_blobs(*, now: datetime) -> int | None:
    """Delete the others and abandoned uploads, once they have lain for long, and return how many.

    None where the host is at other work that takes long: then nothing was done.
    """
    with turn_of_long_work(gives_way=False) as ours:
        return _sweep(now) if ours else None


def _sweep(now: datetime) -> int:
    seconds = UNREFERENCED_FOR.total_seconds()
    abandoned = sweep_uploads(older_than_seconds=seconds, now=now)
    return abandoned + blob_store().delete_unreferenced(
        referenced_digests(), older_than_seconds=seconds, now=now.timestamp()
    )
