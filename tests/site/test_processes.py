"""The process group: what it starts it tends, and what it ends leaves nothing behind."""

import gc
import os
import runpy
import signal
import subprocess
import sys
import time

import psutil
import pytest
from celery.signals import worker_before_create_process
from django.conf import settings

from qflare_site import processes
from qflare_site.processes import ProcessGroup, StartFailed, commands, free_address

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "time.sleep(600)",
]


@pytest.fixture
def group_of(tmp_path):
    groups = []

    def make(**command_lines):
        group = ProcessGroup("127.0.0.1:1", log_dir=tmp_path / "log", command_lines=command_lines)
        groups.append(group)
        for name in command_lines:
            group._launch(name)
        return group

    yield make
    for group in groups:
        group.stop()


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_stopping_ends_every_process(group_of):
    group = group_of(one=SLEEP, two=SLEEP)
    pids = group.pids()
    assert set(pids) == {"one", "two"}
    group.stop()
    assert all(gone(pid) for pid in pids.values())
    assert group.pids() == {}


def test_a_process_that_ignores_the_request_is_killed(group_of, monkeypatch):
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.5)
    group = group_of(one=STUBBORN)
    pid = group.pids()["one"]
    time.sleep(0.3)
    group.stop()
    assert gone(pid)


def test_grandchildren_end_with_their_group(group_of):
    group = group_of(one=PARENT)
    process = psutil.Process(group.pids()["one"])
    wait_for(process.children)
    (grandchild,) = process.children()
    group.stop()
    wait_for(lambda: gone(grandchild.pid))


def test_a_dead_process_is_started_again_after_its_backoff(group_of, monkeypatch):
    monkeypatch.setattr(processes.Child, "backoff_seconds", 0.2)
    group = group_of(one=SLEEP, two=SLEEP)
    before = group.pids()
    group._children["one"].backoff_seconds = 0.2
    os.kill(before["one"], signal.SIGKILL)
    wait_for(lambda: "one" not in group.pids())
    assert group.tend() == []
    wait_for(lambda: group.tend() == ["one"])
    after = group.pids()
    assert after["one"] != before["one"]
    assert after["two"] == before["two"]


def test_the_backoff_doubles_for_a_process_that_dies_at_once(group_of):
    group = group_of(one=[sys.executable, "-c", "pass"])
    group._children["one"].backoff_seconds = 0.1
    wait_for(lambda: group.tend() == ["one"])
    assert group._children["one"].backoff_seconds == 0.2


def test_restarting_one_leaves_the_others(group_of):
    group = group_of(one=PARENT, two=SLEEP)
    before = group.pids()
    wait_for(psutil.Process(before["one"]).children)
    (grandchild,) = psutil.Process(before["one"]).children()
    group.restart("one")
    after = group.pids()
    assert gone(before["one"])
    wait_for(lambda: gone(grandchild.pid))
    assert after["one"] != before["one"]
    assert after["two"] == before["two"]


def test_output_goes_to_one_log_a_process(group_of, tmp_path):
    group_of(one=[sys.executable, "-c", "print('hello')"])
    log = tmp_path / "log" / "one.log"
    wait_for(lambda: log.read_text() == "hello\n")
    assert log.parent.stat().st_mode & 0o777 == 0o700


def test_children_end_when_their_parent_is_killed(tmp_path):
    script = (
        "import django, pathlib, sys, time; django.setup()\n"
        "from qflare_site.processes import ProcessGroup\n"
        f"log_dir, lines = pathlib.Path({str(tmp_path)!r}), {{'one': {SLEEP}}}\n"
        "group = ProcessGroup('127.0.0.1:1', log_dir=log_dir, command_lines=lines)\n"
        "group._launch('one'); print(group.pids()['one'], flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: gone(child))


def test_waiting_for_health_names_the_process_that_died(group_of):
    group = group_of(one=[sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(StartFailed, match=r"one ended with status 3; see .*one\.log"):
        group.wait_until_healthy(10)


def test_waiting_for_health_ends(group_of):
    group = group_of(one=SLEEP)
    with pytest.raises(StartFailed, match="did not become healthy in 0 s"):
        group.wait_until_healthy(0.1)


def test_a_database_that_cannot_be_migrated_stops_the_start(tmp_path):
    group = ProcessGroup(
        "127.0.0.1:1", log_dir=tmp_path, environment={"DEBUG": "perhaps"}, command_lines={"one": SLEEP}
    )
    with pytest.raises(StartFailed, match="could not be migrated"):
        group.start()
    assert "DEBUG" in (tmp_path / "migrate.log").read_text()
    assert group.pids() == {}


def test_a_start_forgets_the_numbers_of_former_processes_and_keeps_its_own(tmp_path, settings, monkeypatch):
    settings.QFLARE_METRICS_DIR = tmp_path
    own = f"counter_{os.getpid()}.db"
    for name in ("counter_1.db", "histogram_1.db", own, "notes"):
        (tmp_path / name).touch()
    group = ProcessGroup("127.0.0.1:1", log_dir=tmp_path / "log", command_lines={"one": SLEEP})
    monkeypatch.setattr(group, "migrate", lambda: None)
    monkeypatch.setattr(group, "wait_until_healthy", lambda seconds: None)
    try:
        group.start()
    finally:
        group.stop()
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} == {own, "notes"}


def test_each_queue_has_a_worker_and_the_enclave_has_its_own():
    lines = commands("127.0.0.1:8000")
    assert list(lines) == ["web", "worker", "enclave", "beat"]
    assert lines["worker"][lines["worker"].index("-Q") + 1] == "default,audit"
    assert lines["enclave"][lines["enclave"].index("-Q") + 1] == "enclave"
    assert lines["enclave"][lines["enclave"].index("--concurrency") + 1] == "1"


def test_blas_is_pinned_to_one_thread(group_of, tmp_path):
    group_of(one=[sys.executable, "-c", "import os; print(os.environ['OPENBLAS_NUM_THREADS'])"])
    wait_for(lambda: (tmp_path / "log" / "one.log").read_text() == "1\n")


def test_threads_share_few_arenas_unless_the_operator_says_otherwise(group_of, tmp_path, monkeypatch):
    said = [sys.executable, "-c", "import os; print(os.environ['MALLOC_ARENA_MAX'])"]
    group_of(one=said)
    wait_for(lambda: (tmp_path / "log" / "one.log").read_text() == "2\n")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    group_of(other=said)
    wait_for(lambda: (tmp_path / "log" / "other.log").read_text() == "8\n")


@pytest.mark.parametrize("forks", ["gunicorn", "celery"])
def test_what_is_loaded_before_a_fork_is_out_of_the_childs_collectors_reach(forks):
    loaded = [["an object of the parent"]]
    assert any(known is loaded for known in gc.get_objects())
    try:
        if forks == "celery":
            worker_before_create_process.send(sender=None)
        else:
            runpy.run_path(str(settings.BASE_DIR / "deploy" / "gunicorn.conf.py"))["when_ready"](None)
        assert not any(known is loaded for known in gc.get_objects())
    finally:
        gc.unfreeze()


def test_a_free_address_can_be_bound():
    import socket

    host, port = free_address().split(":")
    with socket.socket() as server:
        server.bind((host, int(port)))


@pytest.mark.slow
@pytest.mark.skipif("DATABASE_URL" in os.environ, reason="it needs a database that is not the test's own")
def test_serve_brings_up_a_healthy_site_and_ctrl_c_ends_all_of_it(tmp_path):
    environment = {**os.environ, "QFLARE_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "qflare_site.settings"}
    command = [sys.executable, "manage.py", "serve", "--bind", "127.0.0.1:0"]
    serve = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        lines = iter(serve.stdout.readline, "")
        assert any("QFLARE is ready" in line for line in lines), (tmp_path / "log" / "web.log").read_text()
        family = psutil.Process(serve.pid).children(recursive=True)
        assert len(family) >= 4
    finally:
        serve.send_signal(signal.SIGINT)
        rest, _ = serve.communicate(timeout=60)
    assert "All processes have ended." in rest
    assert serve.returncode == 0
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
