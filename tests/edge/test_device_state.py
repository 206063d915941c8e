"""What a device remembers: written whole, read back, and refused when it is damaged."""

import errno
import json
from pathlib import Path

import pytest

from edge_client import device_state
from edge_client.device_state import DeviceState, DeviceStateFile, EnclavePins
from qflare_protocol.attestation import PlatformPin
from qflare_protocol.errors import Refusal
from qflare_protocol.handshake import SeenCheckpoint

PLATFORM = PlatformPin.parse("sev-snp/MEASUREMENT=" + "ab" * 48 + "/min-snp=23")
PINS = EnclavePins(
    frozenset({b"k" * 32, b"l" * 32}), frozenset({b"m" * 64}), frozenset({PLATFORM}), frozenset({"affirming"})
)


def test_a_new_device_remembers_nothing(tmp_path):
    memory = DeviceStateFile(tmp_path)
    assert memory.state == DeviceState()


def test_the_state_survives_a_restart(tmp_path):
    DeviceStateFile(tmp_path).remember(checkpoint=SeenCheckpoint(3, b"r" * 32), pins=PINS)
    memory = DeviceStateFile(tmp_path)
    memory.remember(rounds_done=2)
    assert DeviceStateFile(tmp_path).state == DeviceState(SeenCheckpoint(3, b"r" * 32), PINS, 2)
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def damaged(**changes):
    whole = {"checkpoint": None, "attestation_keys": [], "measurements": [], "platforms": [], "tiers": ["warning"]}
    whole |= {"rounds_done": 0, "newest_versions": {}}
    return json.dumps(whole | changes)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", "1", "{}", "\x00", damaged(checkpoint={}), damaged(checkpoint={"size": "x", "root": ""}),
        damaged(checkpoint="x"), damaged(checkpoint={"size": 1, "root": "zz"}), damaged(attestation_keys=None),
        damaged(measurements=[1]), damaged(platforms=["tdx"]), damaged(platforms=[1]), damaged(tiers=[]),
        damaged(tiers=["none"]), damaged(tiers=1), damaged(rounds_done=None), damaged(rounds_done=float("inf")),
        damaged(rounds_done=float("nan")),
    ],
)  # fmt: skip
def test_a_damaged_state_is_refused_by_name(tmp_path, content):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(Refusal, match="state.json is damaged"):
        DeviceStateFile(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "state.json").write_bytes(b"\xff\xfe")
    with pytest.raises(Refusal, match="malformed-message"):
        DeviceStateFile(tmp_path)


class FullDisk:
    """Stands for `write_private_file` on a disk without room."""

    def __call__(self, path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "full", str(path))


def test_on_a_full_disk_the_log_that_was_seen_counts_as_long_as_the_process_lives(tmp_path, monkeypatch):
    memory = DeviceStateFile(tmp_path)
    memory.remember(rounds_done=1)
    monkeypatch.setattr(device_state, "write_private_file", FullDisk())
    memory.remember_if_there_is_room(checkpoint=SeenCheckpoint(5, b"r" * 32))
    assert memory.state.checkpoint == SeenCheckpoint(5, b"r" * 32)
    assert DeviceStateFile(tmp_path).state.checkpoint is None
    with pytest.raises(OSError, match="full"):
        memory.remember(rounds_done=2)


def test_an_incident_that_cannot_be_written_stops_the_device_all_the_same(tmp_path, monkeypatch):
    memory = DeviceStateFile(tmp_path)
    monkeypatch.setattr(device_state, "write_private_file", FullDisk())
    memory.keep_log_incident({"reason": "forked"})
    assert not (tmp_path / "log-incident.json").exists()
    with pytest.raises(Refusal) as refused:
        memory.refuse_after_log_incident()
    assert refused.value.code == "log-inconsistent"
