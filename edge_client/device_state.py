"""What a device remembers between runs beside its keys: the log it has seen, the enclave it trusts,
and the update it still has to hand in. Nothing here is secret; the files are private all the same.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_client.storage import sync_folder, write_private_file
from qflare_protocol.errors import Refusal
from qflare_protocol.handshake import SeenCheckpoint


@dataclass(frozen=True)
class EnclavePins:
    """The enclave hosts and code a device trusts: 32-byte key fingerprints, 64-byte measurements."""

    attestation_keys: frozenset[bytes] = frozenset()
    measurements: frozenset[bytes] = frozenset()


@dataclass(frozen=True)
class DeviceState:
    """The remembered state; `rounds_done` counts receipts, `newest_versions` is by federation id in hexadecimal."""

    checkpoint: SeenCheckpoint | None = None
    pins: EnclavePins = field(default_factory=EnclavePins)
    rounds_done: int = 0
    newest_versions: dict[str, int] = field(default_factory=dict)


class DeviceStateFile:
    """`state.json` and `outbox` in the device's home folder."""

    def __init__(self, home: Path) -> None:
        self._path, self._outbox = home / "state.json", home / "outbox"
        self.state = self._read()

    def remember(self, **changes: Any) -> None:
        """Change members of the state and write it durably."""
        self.state = replace(self.state, **changes)
        write_private_file(self._path, json.dumps(_to_json(self.state), indent=1).encode())

    def keep_submission(self, body: bytes) -> None:
        """Keep a sealed update until its receipt has come, so that a power loss sends the same one again."""
        write_private_file(self._outbox, body)

    def kept_submission(self) -> bytes | None:
        """Return the sealed update whose receipt has not come yet."""
        return self._outbox.read_bytes() if self._outbox.exists() else None

    def drop_submission(self) -> None:
        """Forget the kept update: it has its receipt, or its round takes it no more."""
        if self._outbox.exists():
            self._outbox.unlink()
            sync_folder(self._outbox.parent)

    def _read(self) -> DeviceState:
        if not self._path.exists():
            return DeviceState()
        try:
            return _from_json(json.loads(self._path.read_text()))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise Refusal("malformed-message", f"{self._path} is damaged; move it away to start afresh.") from error


def _to_json(state: DeviceState) -> dict[str, Any]:
    seen = state.checkpoint
    return {
        "checkpoint": None if seen is None else {"size": seen.size, "root": seen.root.hex()},
        "attestation_keys": sorted(key.hex() for key in state.pins.attestation_keys),
        "measurements": sorted(value.hex() for value in state.pins.measurements),
        "rounds_done": state.rounds_done,
        "newest_versions": state.newest_versions,
    }


def _from_json(members: dict[str, Any]) -> DeviceState:
    seen = members["checkpoint"]
    return DeviceState(
        None if seen is None else SeenCheckpoint(int(seen["size"]), bytes.fromhex(seen["root"])),
        EnclavePins(
            frozenset(bytes.fromhex(key) for key in members["attestation_keys"]),
            frozenset(bytes.fromhex(value) for value in members["measurements"]),
        ),
        int(members["rounds_done"]),
        {str(federation): int(number) for federation, number in members["newest_versions"].items()},
    )
