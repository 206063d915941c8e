"""Driver: a site is backed up, killed and restored elsewhere, and its devices go on; or they find that it is older.

`take FOLDER` runs a site through a round and into a second one, backs it up, kills every process, and leaves the
devices' files. `restore FOLDER` restores the backup on a new host and ends the second round there with the same
devices. `older FOLDER` restores the same backup once more: to the devices, which have seen more, it is a fork.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edge_client.key_store import PassphraseLock, load_identity, save_identity
from edge_client.trainer import Trainer
from tests.system.running_site import (
    KnownUpdateTrainer,
    create_federation,
    enrolled_identity,
    set_up_django,
    site,
    wait_for,
    worker_of,
)

NAMES = ("press-1", "press-2", "press-3")
PARAMETERS = 5_000
BACKUP = "site.qfb"
LOCK = PassphraseLock("of the test")


def main() -> None:
    set_up_django()
    verb, folder = sys.argv[1], Path(sys.argv[2])
    {"take": take, "restore": restore, "older": older}[verb](folder)


def take(folder: Path) -> None:
    from django.core.management import call_command
    from django.utils import timezone

    from keyring.custodians import make_custodian_key
    from training.services.rounds import open_round

    private, public = make_custodian_key()
    (folder / "ada").write_text(private)
    (folder / "ada.pub").write_text(public)
    with site() as group:
        federation = create_federation({"w": np.zeros(PARAMETERS, np.float32)})
        identities = [enrolled_identity(group.url, name) for name in NAMES]
        for identity in identities:
            save_identity(folder / f"{identity.name}.store", LOCK, identity)
        workers = [worker_of(group.url, identity, folder, trainer()) for identity in identities]
        complete_a_round(federation, workers)
        open_round(federation.id, actor="operator:test", now=timezone.now())
        wait_for(lambda: states()[-1] == "open", "the second round to open")
        assert workers[0].work_once()[0], "the device was given no work"
        call_command("backup", folder / BACKUP, to=[f"ada={folder / 'ada.pub'}"])
        for pid in group.pids().values():
            os.kill(pid, signal.SIGKILL)
    print("taken")  # noqa: T201


def restore(folder: Path) -> None:
    from audit.services import sequence_log
    from audit.verification import verify_log
    from training.models import ModelVersion

    bring_back(folder)
    with site() as group:
        workers = [device(group.url, name, folder) for name in NAMES]
        wait_for(lambda: all_completed_by(workers), "the second round to complete", 120)
        wait_for(lambda: ModelVersion.objects.count() == 3, "the third version")
        sequence_log()
        for worker in workers:
            worker.work_once()  # a new session: the device keeps the checkpoint it is shown
        assert verify_log().entries > 0
    print("the same devices completed the second round")  # noqa: T201


def older(folder: Path) -> None:
    from audit.models import Event
    from qflare_protocol.errors import Refusal

    bring_back(folder)
    with site() as group:
        worker = device(group.url, NAMES[0], folder)
        try:
            worker.work_once()
        except Refusal as refusal:
            assert refusal.code == "log-inconsistent", refusal  # noqa: PT017 - a driver, not a test
        else:
            raise AssertionError("the device did not notice that the log is older than what it has seen")
        assert Event.objects.filter(kind="log.fork_reported", payload__device=NAMES[0]).exists()
    print("the device found the older log")  # noqa: T201


def all_completed_by(workers: list[Any]) -> bool:
    """Let every device ask for work, and return whether both rounds are over; the second has to begin anew."""
    for worker in workers:
        worker.work_once()
    return states() == ["completed", "completed"]


def bring_back(folder: Path) -> None:
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    call_command("restore", folder / BACKUP, key=folder / "ada")


def complete_a_round(federation: Any, workers: list[Any]) -> None:
    from django.utils import timezone

    from training.services.rounds import open_round

    open_round(federation.id, actor="operator:test", now=timezone.now())
    wait_for(lambda: states()[-1] == "open", "the round to open")
    for worker in workers:
        assert worker.work_once()[0], "the device was given no work"
    wait_for(lambda: states()[-1] == "completed", "the round to complete")


def states() -> list[str]:
    from training.models import Round

    return list(Round.objects.order_by("number").values_list("state", flat=True))


def trainer() -> Trainer:
    return KnownUpdateTrainer({"w": np.ones(PARAMETERS, np.float32)}, 10)


def device(url: str, name: str, folder: Path) -> Any:
    """Return the device again, with the identity and state it kept, at the site's new address."""
    return worker_of(url, load_identity(folder / f"{name}.store", LOCK), folder, trainer())


if __name__ == "__main__":
    sys.exit(main())
