"""What a device remembers between runs beside its keys: the log it has seen and the enclave it trusts.

Nothing here is secret; the files are private all the same.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from edge_client.given_up import GivenUpRound
from edge_client.outbox import Outbox
from edge_client.storage import DISK_IS_FULL, disk_is_full, write_private_file
from edge_client.training_folder import TrainingFolder
from qflare_protocol.attestation.appraisal import TIERS
from qflare_protocol.attestation.pins import PlatformPin, parse_pins
from qflare_protocol.errors import Refusal
from qflare_protocol.handshake import SeenCheckpoint

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class EnclavePins:
    """The enclaves a device trusts.

    - attestation_keys: 32-byte fingerprints of software enclave hosts' keys.
    - measurements: 64-byte code measurements.
    - platforms: hardware and the images it launched.
    - tiers: what tiers of evidence it takes; without "warning", hardware of a current TCB alone.
    """

    attestation_keys: frozenset[bytes] = frozenset()
    measurements: frozenset[bytes] = frozenset()
    platforms: frozenset[PlatformPin] = frozenset()
    tiers: frozenset[str] = frozenset(TIERS)

    @property
    def complete(self) -> bool:
        """Whether code and host are pinned, so that nothing is taken on first use."""
        return bool(self.measurements and (self.attestation_keys or self.platforms))

    def hosts(self) -> list[str]:
        """Return the pinned hosts and platforms, shortened for people."""
        keys = sorted(key.hex()[:16] for key in self.attestation_keys)
        return keys + sorted(f"{pin.attester} {pin.registers[0][1].hex()[:16]}" for pin in self.platforms)

    def to_json(self) -> dict[str, list[str]]:
        """Return the pins as JSON values; `from_json` reads them back."""
        return {
            "attestation_keys": sorted(key.hex() for key in self.attestation_keys),
            "measurements": sorted(value.hex() for value in self.measurements),
            "platforms": sorted(pin.to_text() for pin in self.platforms),
            "tiers": sorted(self.tiers),
        }

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> "EnclavePins":
        """Read pins. Raises `Refusal`, `KeyError`, `TypeError` or `ValueError` for damaged ones."""
        tiers = frozenset(members["tiers"])
        if not tiers or not tiers <= set(TIERS):
            raise ValueError("unknown tiers")
        return cls(
            frozenset(bytes.fromhex(key) for key in members["attestation_keys"]),
            frozenset(bytes.fromhex(value) for value in members["measurements"]),
            parse_pins(members["platforms"]),
            tiers,
        )


@dataclass(frozen=True)
class DeviceState:
    """The remembered state; `rounds_done` counts receipts, `newest_versions` is by federation id in hexadecimal."""

    checkpoint: SeenCheckpoint | None = None
    pins: EnclavePins = field(default_factory=EnclavePins)
    rounds_done: int = 0
    newest_versions: dict[str, int] = field(default_factory=dict)


class DeviceStateFile:
    """`state.json` in the device's home folder, beside it the outbox, the training at hand and the round given up."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._path, self._incident = home / "state.json", home / "log-incident.json"
        self.outbox, self.training = Outbox(home), TrainingFolder(home)
        self.evaluation, self.given_up = TrainingFolder(home, "evaluation"), GivenUpRound(home)
        self.state, self._unwritten_incident = self._read(), False

    def remember(self, **changes: Any) -> None:
        """Change members of the state and write it durably."""
        self.state = replace(self.state, **changes)
        write_private_file(self._path, json.dumps(_to_json(self.state), indent=1).encode())

    def remember_if_there_is_room(self, **changes: Any) -> None:
        """Change members of the state, on a full disk only as long as this process lives: what goes on by itself.

        After a restart the device knows less, and demands less: that the log extends an older checkpoint, say.
        """
        try:
            self.remember(**changes)
        except OSError as error:
            if not disk_is_full(error):
                raise
            log.error("state_not_kept", members=sorted(changes), because=DISK_IS_FULL)

    def keep_log_incident(self, facts: dict[str, Any]) -> Path:
        """Keep for a person what does not hold in the server's log, beside the last checkpoint that did.

        Where it cannot be written it counts as long as this process lives: nothing may hide it.
        """
        try:
            write_private_file(self._incident, json.dumps(facts, indent=1).encode())
        except OSError as error:
            self._unwritten_incident = True
            log.critical("log_incident_not_kept", because=str(error))
        return self._incident

    def refuse_after_log_incident(self) -> None:
        """Raise `Refusal("log-inconsistent")` while an incident with the server's log has not been looked into."""
        if self._unwritten_incident or self._incident.exists():
            detail = f"The server's log was forked or rolled back; look into {self._incident}, then move it away."
            raise Refusal("log-inconsistent", detail)

    def _read(self) -> DeviceState:
        if not self._path.exists():
            return DeviceState()
        try:
            return _from_json(json.loads(self._path.read_text()))
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError, Refusal) as error:
            raise Refusal("malformed-message", f"{self._path} is damaged; move it away to start afresh.") from error


def _to_json(state: DeviceState) -> dict[str, Any]:
    seen = state.checkpoint
    return {
        "checkpoint": None if seen is None else {"size": seen.size, "root": seen.root.hex()},
        **state.pins.to_json(),
        "rounds_done": state.rounds_done,
        "newest_versions": state.newest_versions,
    }


def _from_json(members: dict[str, Any]) -> DeviceState:
    seen = members["checkpoint"]
    return DeviceState(
        None if seen is None else SeenCheckpoint(int(seen["size"]), bytes.fromhex(seen["root"])),
        EnclavePins.from_json(members),
        int(members["rounds_done"]),
        {str(federation): int(number) for federation, number in members["newest_versions"].items()},
    )
