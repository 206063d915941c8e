"""Archives of what leaves the database: JSON lines files in one folder, each on stable storage before its rows go."""

import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from django.conf import settings

_DRAFT = ".part"


class ArchiveFile:
    """One run's file, such as `sessions-20260301T030000Z.jsonl`; made with the first row, none without any.

    It has the ending `.part` until the run is over. One that kept it is of a run that was killed: all that
    this run deleted is in it, and its last lines may be rows that are still there and archived again later.
    """

    def __init__(self, stem: str, now: datetime) -> None:
        self.path = Path(settings.QFLARE_ARCHIVE_DIR) / f"{stem}-{now:%Y%m%dT%H%M%S%f}Z.jsonl"
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        self._file.close()
        if kind is None:
            self._draft.rename(self.path)
            _sync_folder(self.path.parent)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and return when they are on stable storage; raises `OSError` where that cannot be had."""
        if self._file is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8")
            _sync_folder(self.path.parent)
        self._file.writelines(json.dumps(row, separators=(",", ":"), default=_as_text) + "\n" for row in rows)
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def _draft(self) -> Path:
        return self.path.with_name(self.path.name + _DRAFT)


def _as_text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else str(value)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
