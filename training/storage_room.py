"""Telling a store that takes nothing at the moment from every other failure to write."""

import errno
import os
import shutil
from pathlib import Path

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def is_out_of_room(error: OSError) -> bool:
    """Return whether a write failed because the disk is full, the quota is used up or the file system takes none.

    Such a failure passes when an operator makes room; nothing about what was to be written is wrong.
    """
    return error.errno in _NO_ROOM


def require_room(folder: Path, size_bytes: int) -> None:
    """Raise the `OSError` of a full disk where the folder's file system has fewer free bytes than that.

    A folder that is not there yet passes. Nothing is reserved: the write itself may still fail.
    """
    if folder.exists() and shutil.disk_usage(folder).free < size_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
