"""The store that the site's settings name."""

import os
from functools import lru_cache
from pathlib import Path

from django.conf import settings

from training.blob_store.contract import BlobStore
from training.blob_store.folder import FolderStore
from training.blob_store.location import S3Location, parse_location


def blob_store() -> BlobStore:
    """Return the site's blob store."""
    location = s3_location()
    if location is None:
        return FolderStore(Path(settings.QFLARE_BLOB_DIR))
    return _s3_store(location, os.getpid())


def s3_location() -> S3Location | None:
    """Return the bucket of the site; None where blobs lie in a folder."""
    location = parse_location(settings.QFLARE_BLOB_URL) if settings.QFLARE_BLOB_URL else None
    return location if isinstance(location, S3Location) else None


@lru_cache(maxsize=4)
def _s3_store(location: S3Location, _process: int) -> BlobStore:
    """Return the one store of a process: connections are kept, and must not be shared by what forks."""
    from training.blob_store.s3 import S3Store  # the extra qflare[s3] is not everywhere

    return S3Store(location)
