"""A process that waits ahead of its round becomes the sealed process of one request, and of one only."""

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from enclave import courier
from enclave.core.__main__ import main
from enclave.core.measurement import measure
from enclave.core.waiting import await_task
from enclave.courier import EnclaveHost, EnclaveTask, SealedProcess, initialise_host_directory, prepare_round
from enclave.spare_process import SpareProcesses
from qflare_protocol.errors import Refusal
from tests.enclave_core.rounds import FEDERATION, ROUND, Round, deltas
from tests.policies import screened

POLICY = screened()
TASK = EnclaveTask("prepare", ROUND, FEDERATION, POLICY.maximum_memory_bytes)
UID = 65534 if os.geteuid() == 0 else os.getuid()


@pytest.fixture
def host(tmp_path):
    initialise_host_directory(tmp_path / "host", UID, UID)
    return EnclaveHost(tmp_path / "host", UID, UID, timeout_seconds=60.0)


@pytest.fixture
def spare(monkeypatch):
    kept = SpareProcesses(1)
    monkeypatch.setattr(courier, "SPARE", kept)
    kept.keep()
    yield kept
    kept.drop()


@pytest.fixture
def started(monkeypatch):
    """What the courier starts for a request itself."""
    commands, command = [], courier._command
    monkeypatch.setattr(courier, "_command", lambda *given: commands.append(given) or command(*given))
    return commands


def prepare(host):
    return prepare_round(host, round_id=ROUND, federation_id=FEDERATION, policy=POLICY, nonce=b"n" * 32)


def aggregate(host, entry):
    """Return the verified result and the new model's bytes."""
    outputs = {}

    def write(name, piece):
        outputs[name] = outputs.get(name, b"") + piece

    made = courier.aggregate_round(host, **(entry.for_courier() | {"write_output": write}))
    return entry.result_of(made), outputs["model"]


def test_a_whole_round_by_waiting_processes_is_that_of_processes_started_for_it(host, spare, started):
    entry = Round(prepared=prepare(host))
    entry.submit_all(deltas(5))
    result, model = aggregate(host, entry)
    assert started == []
    spare.drop()
    same, same_model = aggregate(host, entry)
    assert len(started) == 1
    assert (result, model) == (same, same_model)


def test_a_waiting_process_is_sealed_as_one_that_is_started_for_its_round(host, spare):
    with SealedProcess(host, TASK) as process:
        waited = process.receive("ready")
    spare.drop()
    with SealedProcess(host, TASK) as process:
        assert process.receive("ready") == waited


def test_what_a_process_measures_is_what_it_had_loaded_before_it_waited(monkeypatch):
    measured = []
    monkeypatch.setattr("enclave.core.__main__.warm_up", measure.cache_clear)
    monkeypatch.setattr("enclave.core.__main__.await_task", lambda _: measured.append(measure.cache_info().currsize))
    main(["wait", "--channel-fd", "3"])
    assert measured == [1]


def test_each_process_serves_one_request(host, spare):
    with SealedProcess(host, TASK) as first, SealedProcess(host, TASK) as second:
        assert first.pid != second.pid


def test_one_that_died_while_it_waited_costs_a_start(host, spare, started):
    os.kill(spare.pids[0], signal.SIGKILL)
    psutil.Process(spare.pids[0]).wait()
    prepare(host)
    assert len(started) == 1
    prepare(host)
    assert len(started) == 1


def test_where_no_process_can_be_started_ahead_the_round_goes_on(host, spare, monkeypatch):
    def no_room(*_):
        raise BlockingIOError("fork: resource temporarily unavailable")

    monkeypatch.setattr("enclave.spare_process.start", no_room)
    prepare(host)
    assert spare.pids == []


def test_a_process_that_is_given_half_a_task_ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall((100).to_bytes(4, "big") + b"half")
        ours.shutdown(socket.SHUT_WR)
        assert await_task(os.dup(theirs.fileno())) is None


def test_a_process_is_seen_under_the_name_it_is_given():
    name = "import sys; from enclave.core.kernel import name_process; name_process('sealed aggregate'); "
    shown = subprocess.run(
        [sys.executable, "-c", name + "print(open('/proc/self/comm').read())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == "sealed aggregat"


def test_more_files_than_the_kernel_passes_at_once_are_inherited(host, spare, started):
    entry = Round(prepared=prepare(host))
    entry.submit_all(deltas(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("enclave.spare_process.MAX_PASSED_DESCRIPTORS", 3)
        aggregate(host, entry)
    assert len(started) == 1


def test_a_forked_worker_does_not_take_its_parents_process(spare, monkeypatch):
    monkeypatch.setattr(spare, "_owner", os.getppid())
    assert spare.take([], ()) is None
    monkeypatch.undo()
    assert len(spare.pids) == 1


def test_a_task_out_of_form_is_refused_by_the_process(host, spare):
    with pytest.raises(Refusal, match="enclave-failed"), SealedProcess(host, TASK_OF_NO_MODE) as process:
        process.receive("ready")


TASK_OF_NO_MODE = EnclaveTask("idle", ROUND, FEDERATION, POLICY.maximum_memory_bytes)
