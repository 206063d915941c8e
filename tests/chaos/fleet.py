"""Devices that ask for work all the time, in threads, and keep every receipt."""

import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from edge_client.backoff import Backoff
from edge_client.device_state import DeviceStateFile
from edge_client.hand_in import HandIn
from edge_client.http import Http
from edge_client.identity_keeper import IdentityKeeper
from edge_client.outbox import KeptUpdate
from edge_client.round_worker import RoundWorker
from edge_client.trainer import Tensors
from edge_client.training import TrainingHere
from qflare_protocol.cose import unverified_payload
from tests.chaos.stage import PIECE_BYTES
from tests.system.running_site import KnownUpdateTrainer, enrolled_identity

DEVICES = 4
PARAMETERS = 1_500_000
ASK_AGAIN_SECONDS = 0.2


def changes() -> list[Tensors]:
    """Return what each device adds: whole numbers whose mean is whole, so that float32 adds them exactly."""
    generator = np.random.default_rng(3)
    drawn = generator.integers(-20, 20, size=(DEVICES, PARAMETERS)) * DEVICES
    return [{"w": row.astype(np.float32)} for row in drawn]


class Receipts:
    """The manifest digests of all receipts that devices hold, by round and device."""

    def __init__(self) -> None:
        self._held: dict[bytes, dict[bytes, set[bytes]]] = defaultdict(lambda: defaultdict(set))

    def keep(self, receipt: bytes) -> None:
        """Keep a receipt that its device has checked."""
        said = unverified_payload(receipt, purpose="update receipt")
        self._held[said["round_id"]][said["device_id"]].add(said["manifest_digest"])

    def of_round(self, round_id: bytes) -> dict[bytes, set[bytes]]:
        """Return what each device was promised in a round."""
        return {device: set(digests) for device, digests in self._held[round_id].items()}


class KeepingHandIn(HandIn):
    """Shows every receipt that held to the run."""

    def __init__(self, receipts: Receipts, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._receipts = receipts

    def _check_receipt(self, receipt: bytes, kept: KeptUpdate) -> None:
        super()._check_receipt(receipt, kept)
        self._receipts.keep(receipt)


class KeepingWorker(RoundWorker):
    """A round worker whose receipts the run sees; with `in_pieces` it hands in piece by piece."""

    def __init__(self, url: str, identity: Any, folder: Path, change: Tensors, receipts: Receipts, in_pieces: bool):
        memory = DeviceStateFile(folder / identity.name)
        trainer = KnownUpdateTrainer(change, 10)
        keeper = IdentityKeeper(identity, lambda changed: None)
        super().__init__(Http(url), keeper, memory, TrainingHere(lambda _: trainer), Backoff(0.1, 0.5))
        limit = {"whole_bytes": PIECE_BYTES} if in_pieces else {}
        self._outgoing = KeepingHandIn(receipts, self._session, memory.outbox, self._asked, self._refused, **limit)


class FleetStopped(Exception):  # noqa: N818 - it ends a device's thread and is no error
    """The run is over."""


class Fleet:
    """All devices of a run; half of them hand in by pieces. `failures` says what ended one before its time."""

    def __init__(self, url: str, folder: Path) -> None:
        self.receipts, self.failures, self._over = Receipts(), [], threading.Event()
        self.changes = changes()
        self.workers = [
            KeepingWorker(url, enrolled_identity(url, f"device-{n}"), folder, change, self.receipts, n % 2 == 1)
            for n, change in enumerate(self.changes)
        ]

    @property
    def ids(self) -> set[bytes]:
        """The devices' ids."""
        return {worker.device_id for worker in self.workers}

    def start(self) -> None:
        """Let every device work until `stop`."""
        for worker in self.workers:
            threading.Thread(target=self._work, args=(worker,), daemon=True).start()

    def stop(self) -> None:
        """Let devices end when they next have nothing to do."""
        self._over.set()

    def _work(self, worker: RoundWorker) -> None:
        try:
            worker.run(sleep=self._wait)
        except FleetStopped:
            return
        except BaseException as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            raise

    def _wait(self, seconds: float) -> None:
        if self._over.wait(min(seconds, ASK_AGAIN_SECONDS)):
            raise FleetStopped
