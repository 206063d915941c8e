"""The embedded profile's shared counters: integers that expire, in an SQLite file of their own."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS counter (key TEXT PRIMARY KEY, value INTEGER NOT NULL, expires_at REAL NOT NULL);
    CREATE INDEX IF NOT EXISTS counter_expiry ON counter (expires_at);
"""
_NEVER = float("inf")


class CounterCache(BaseCache):
    """A Django cache of integers only, with atomic `add` and `incr` between the processes of one host.

    Nothing is pickled, so whoever can write the file can change a count but run no code. Losing the
    file loses counts that live for a minute; therefore it is not synchronised to disk.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._file = Path(location)
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._has_schema = False

    def add(self, key: str, value: int, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a counter unless a live one exists; return whether it was stored."""
        now = time.time()
        with self._database() as database:
            database.execute("DELETE FROM counter WHERE expires_at <= ?", (now,))
            row = (self._key(key, version), _integer(value), self._expiry(timeout, now))
            added = database.execute("INSERT INTO counter VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row)
        return added.rowcount == 1

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return the live counter, or `default`."""
        with self._database() as database:
            query = "SELECT value FROM counter WHERE key = ? AND expires_at > ?"
            row = database.execute(query, (self._key(key, version), time.time())).fetchone()
        return default if row is None else row[0]

    def set(self, key: str, value: int, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a counter, replacing any."""
        row = (self._key(key, version), _integer(value), self._expiry(timeout, time.time()))
        with self._database() as database:
            database.execute("INSERT OR REPLACE INTO counter VALUES (?, ?, ?)", row)

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Add to a live counter and return its new value. Raises `ValueError` when there is none."""
        command = "UPDATE counter SET value = value + ? WHERE key = ? AND expires_at > ? RETURNING value"
        with self._database() as database:
            row = database.execute(command, (_integer(delta), self._key(key, version), time.time())).fetchone()
        if row is None:
            raise ValueError(f"There is no live counter {key!r}.")
        return int(row[0])

    def touch(self, key: str, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a live counter a new time to live; return whether there was one."""
        now = time.time()
        command = "UPDATE counter SET expires_at = ? WHERE key = ? AND expires_at > ?"
        with self._database() as database:
            changed = database.execute(command, (self._expiry(timeout, now), self._key(key, version), now))
        return changed.rowcount == 1

    def delete(self, key: str, version: int | None = None) -> bool:
        """Remove a counter; return whether there was one."""
        with self._database() as database:
            removed = database.execute("DELETE FROM counter WHERE key = ?", (self._key(key, version),))
        return removed.rowcount == 1

    def clear(self) -> None:
        """Remove every counter."""
        with self._database() as database:
            database.execute("DELETE FROM counter")

    def _key(self, key: str, version: int | None) -> str:
        return str(self.make_and_validate_key(key, version=version))

    def _expiry(self, timeout: float | None, now: float) -> float:
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        return _NEVER if seconds is None else now + seconds

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        # One connection an operation: cheap for SQLite, and nothing is carried over a fork or between threads.
        with closing(sqlite3.connect(self._file, timeout=5, isolation_level="IMMEDIATE")) as database:
            database.execute("PRAGMA synchronous=OFF")
            if not self._has_schema:
                database.execute("PRAGMA journal_mode=WAL")
                database.executescript(_SCHEMA)
                self._has_schema = True
            with database:
                yield database


def _integer(value: int) -> int:
    if type(value) is not int:
        raise TypeError("The counter cache stores integers only.")
    return value
