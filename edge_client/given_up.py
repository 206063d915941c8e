"""The round that this device gave up: kept until the server knows it, and so that it is not trained for again."""

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_client.storage import disk_is_full, write_private_file

_MEMBERS = frozenset({"round_id", "key_ids", "reason", "told"})


@dataclass(frozen=True)
class GivenUp:
    """A round without an update from here, the ids of the enclave keys it had then, and why it gets none."""

    round_id: bytes
    key_ids: tuple[bytes, ...]
    reason: str
    told: bool = False


class GivenUpRound:
    """The last round that was given up: `training/given-up.json` in the device's home.

    A round that begins anew with other keys is another one to train for.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / "training" / "given-up.json"
        self._last = self._read()

    def keep(self, given_up: GivenUp) -> None:
        """Keep a round that is given up; on a full disk only as long as this process lives."""
        self._last = given_up
        facts = vars(given_up) | {
            "round_id": given_up.round_id.hex(),
            "key_ids": [key_id.hex() for key_id in given_up.key_ids],
        }
        try:
            write_private_file(self._path, json.dumps(facts).encode())
        except OSError as error:
            if not disk_is_full(error):
                raise
            with contextlib.suppress(OSError):
                self._path.unlink()  # it tells of an earlier round

    def untold(self) -> GivenUp | None:
        """Return the round that the server is still to be told of."""
        return self._last if self._last and not self._last.told else None

    def told(self) -> None:
        """Remember that the server knows."""
        if self._last is not None:
            self.keep(replace(self._last, told=True))

    def is_assigned_again(self, round_id: bytes, key_ids: tuple[bytes, ...]) -> bool:
        """Return whether the server assigns what was given up; it is then to be told once more."""
        if self._last is None or (self._last.round_id, self._last.key_ids) != (round_id, key_ids):
            return False
        self._last = replace(self._last, told=False)
        return True

    def _read(self) -> GivenUp | None:
        """Read the record; one that is damaged is as good as none."""
        try:
            return _from_json(json.loads(self._path.read_text()))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None


def _from_json(facts: Any) -> GivenUp:
    if not isinstance(facts, dict) or set(facts) != _MEMBERS or not isinstance(facts["told"], bool):
        raise ValueError("another record")
    round_id, key_ids = bytes.fromhex(facts["round_id"]), tuple(bytes.fromhex(key_id) for key_id in facts["key_ids"])
    if len(round_id) != 16 or any(len(key_id) != 32 for key_id in key_ids):
        raise ValueError("ids of other lengths")
    return GivenUp(round_id, key_ids, str(facts["reason"]), facts["told"])
