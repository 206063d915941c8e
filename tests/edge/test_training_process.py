"""Training code runs in a process under limits: whatever it does, the device goes on with a reason."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import structlog

from edge_client import training_process
from edge_client.tensor_files import map_tensor_file, write_tensor_file
from edge_client.trainer import EvaluationOutcome, Progress, TrainingFailed, TrainingStopped
from edge_client.training import Trained, TrainingTask
from edge_client.training_folder import TrainingFolder
from edge_client.training_limits import Limits, LimitWatch
from edge_client.training_process import TrainingProcess
from qflare_protocol.errors import Refusal
from qflare_protocol.progress import ProgressReport

SPEC = "tests.edge.troubled_trainers:Troubled"
BASE = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def folder(tmp_path: Path) -> TrainingFolder:
    made = TrainingFolder(tmp_path)
    made.begin()
    write_tensor_file(made.base, {"w": BASE})
    return made


@pytest.fixture
def process() -> Iterator[TrainingProcess]:
    made = TrainingProcess(SPEC, {"samples": "7"})
    yield made
    made.close()


def task(trouble: str = "none", **parameters: Any) -> TrainingTask:
    return TrainingTask({"trouble": trouble, **parameters}, 1)


def nobody(progress: Progress) -> None:
    """Watches nothing."""


def test_what_is_trained_lies_in_the_folder(process: TrainingProcess, folder: TrainingFolder) -> None:
    assert process.train(task(), folder, nobody) == Trained(7, {"loss": 0.5})
    assert np.array_equal(map_tensor_file(folder.trained)["w"], BASE + 1)
    assert np.array_equal(map_tensor_file(folder.base)["w"], BASE)


def test_the_code_is_imported_once_for_all_rounds(
    folder: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTED_IMPORTS", str(tmp_path / "imports"))
    process = TrainingProcess(SPEC, {})
    for _ in range(3):
        process.train(task(), folder, nobody)
    process.close()
    assert (tmp_path / "imports").read_text() == "imported\n"


def test_no_round_sees_what_the_one_before_left_in_memory(process: TrainingProcess, folder: TrainingFolder) -> None:
    for _ in range(2):
        process.train(task("leaks"), folder, nobody)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("crashes", r"crashed \(SIGSEGV\)"),
        ("leaves", "ended with status 0 and no outcome"),
        ("raises", r"^KeyError at troubled_trainers.py:\d+$"),
    ],
)
def test_a_crash_is_a_reason_and_the_next_round_is_trained(
    process: TrainingProcess, folder: TrainingFolder, trouble: str, reason: str
) -> None:
    with pytest.raises(TrainingFailed, match=reason):
        process.train(task(trouble), folder, nobody)
    assert process.train(task(), folder, nobody).sample_count == 7


def test_the_reason_never_quotes_the_data(process: TrainingProcess, folder: TrainingFolder) -> None:
    with pytest.raises(TrainingFailed) as failure:
        process.train(task("raises"), folder, nobody)
    assert "Lovelace" not in str(failure.value)


def test_training_code_is_held_to_its_memory(folder: TrainingFolder) -> None:
    process = TrainingProcess(SPEC, {}, Limits(memory_bytes=256 << 20))
    with pytest.raises(TrainingFailed, match="MemoryError"):
        process.train(task("takes_memory"), folder, nobody)
    assert process.train(task(), folder, nobody).sample_count == 10
    process.close()


def test_training_code_is_held_to_its_processor_time(folder: TrainingFolder) -> None:
    process = TrainingProcess(SPEC, {}, Limits(cpu_seconds=1))
    with pytest.raises(TrainingFailed, match="used up its 1 s of processor time"):
        process.train(task("takes_time"), folder, nobody)
    for _ in range(2):  # each round has a budget of its own
        assert process.train(task(), folder, nobody).sample_count == 10
    process.close()


@pytest.mark.parametrize("trouble", ["takes_time_in_others", "takes_time_in_orphans"])
def test_the_processor_time_of_what_it_starts_counts_too(folder: TrainingFolder, trouble: str) -> None:
    process = TrainingProcess(SPEC, {}, Limits(cpu_seconds=1))
    with pytest.raises(TrainingFailed, match="^used up its 1 s of processor time$"):
        process.train(task(trouble), folder, nobody)
    assert process.train(task(), folder, nobody).sample_count == 10
    process.close()


def left_behind(pid_file: Path) -> list[psutil.Process]:
    pids = [int(pid) for pid in pid_file.read_text().split()]
    assert len(pids) == 2
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


def test_nothing_that_a_training_starts_outlives_it(
    process: TrainingProcess, folder: TrainingFolder, tmp_path: Path
) -> None:
    process.train(task("leaves_others", pid_file=str(tmp_path / "pids")), folder, nobody)
    assert not left_behind(tmp_path / "pids")


def stop(progress: Progress) -> None:
    raise TrainingStopped("The round is cancelled.")


def test_nothing_that_a_stopped_training_started_outlives_it(
    process: TrainingProcess, folder: TrainingFolder, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pids"

    def stop_when_they_run(progress: Progress) -> None:
        if pid_file.exists() and len(pid_file.read_text().split()) == 2:
            stop(progress)

    with pytest.raises(TrainingStopped):
        process.train(task("leaves_others_and_sleeps", pid_file=str(pid_file)), folder, stop_when_they_run)
    assert not left_behind(pid_file)


def test_nothing_that_a_training_started_outlives_its_process_when_that_is_closed(
    folder: TrainingFolder, tmp_path: Path
) -> None:
    process, pid_file = TrainingProcess(SPEC, {}), tmp_path / "pids"
    process._ask(task("leaves_others_and_sleeps", pid_file=str(pid_file)), "train", folder)
    deadline = time.monotonic() + 30
    while not pid_file.exists() or len(pid_file.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.close()
    assert not left_behind(pid_file)


def test_what_the_import_has_started_lives_as_long_as_the_process(
    folder: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARTED_AT_IMPORT", str(tmp_path / "pid"))
    process = TrainingProcess(SPEC, {})
    process.train(task(), folder, nobody)
    started = psutil.Process(int((tmp_path / "pid").read_text()))
    assert started.is_running()
    process.close()
    assert not started.is_running()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(time_seconds=1), "^took more than its 1 s$"),
        (Limits(idle_seconds=2), r"^hung: it used no processor time for 2 s \(--idle-limit\)$"),
    ],
    ids=["time", "idle"],
)
def test_a_training_that_hangs_is_ended_with_a_reason(folder: TrainingFolder, limits: Limits, reason: str) -> None:
    process = TrainingProcess(SPEC, {}, limits)
    with pytest.raises(TrainingFailed, match=reason):
        process.train(task("hangs"), folder, nobody)
    assert process.train(task(), folder, nobody).sample_count == 10
    process.close()


def test_a_training_that_works_is_not_taken_for_one_that_hangs(folder: TrainingFolder) -> None:
    process = TrainingProcess(SPEC, {}, Limits(cpu_seconds=4, idle_seconds=1))
    with pytest.raises(TrainingFailed, match="processor time$"):
        process.train(task("takes_time"), folder, nobody)
    process.close()


def test_a_training_that_was_suspended_with_its_machine_is_not_taken_for_one_that_hangs() -> None:
    now = 0.0
    watch = LimitWatch(Limits(idle_seconds=20), lambda: 1.0, lambda: now)
    for now in (1.0, 2.0, 4000.0, 4009.0, 4018.0):  # noqa: B007 - the watch reads it
        assert watch.exceeded() == ""
    now = 4023.0
    assert watch.exceeded().startswith("hung")


def test_lower_limits_that_the_device_has_itself_are_kept(folder: TrainingFolder) -> None:
    limits = "import resource as r; r.setrlimit(r.RLIMIT_CPU, (50, 60)); r.setrlimit(r.RLIMIT_AS, (1 << 44, 1 << 44))"
    task_limits = "limit_this_process(Limits(memory_bytes=1 << 45, cpu_seconds=100))"
    shown = "print(r.getrlimit(r.RLIMIT_CPU), r.getrlimit(r.RLIMIT_AS))"
    code = f"{limits}\nfrom edge_client.training_limits import Limits, limit_this_process\n{task_limits}\n{shown}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split(") (") == ["(60, 60", f"{1 << 44}, {1 << 44})\n"]


def test_a_leader_that_nobody_can_reap_is_left_after_a_while() -> None:
    done = subprocess.run([sys.executable, "-c", TRACED], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "-9"
    assert "training_processes_left" in done.stdout


TRACED = """
import ctypes, os, signal, time
from edge_client.process_tree import ProcessTree, become_subreaper
PTRACE_SEIZE = 0x4206  # whoever traces a process is the only one that can wait for its end
become_subreaper()
(reads, tells), (hears, says) = os.pipe(), os.pipe()
tracer = os.fork()
if not tracer:
    traced = int(os.read(reads, 20))
    pid, nothing = ctypes.c_long(traced), ctypes.c_void_p()
    os.write(says, b"1" if ctypes.CDLL(None).ptrace(PTRACE_SEIZE, pid, nothing, nothing) == 0 else b"0")
    time.sleep(600)
tree = ProcessTree()
leader = os.fork()
if not leader:
    os.setsid()
    time.sleep(600)
os.write(tells, str(leader).encode())
assert os.read(hears, 1) == b"1"
tree.lead(leader)
status = tree.end()
os.kill(tracer, signal.SIGKILL)
print(status, flush=True)
"""


def test_the_other_threads_of_a_zombie_are_ended_too(
    process: TrainingProcess, folder: TrainingFolder, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    process.train(task("leaves_a_headless_one", pid_file=str(pid_file)), folder, nobody)
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_what_the_code_prints_is_no_answer(process: TrainingProcess, folder: TrainingFolder) -> None:
    assert process.train(task("prints"), folder, nobody) == Trained(7, {"loss": 0.5})


def test_what_a_task_starts_reads_no_command_of_the_device(
    process: TrainingProcess, folder: TrainingFolder, tmp_path: Path
) -> None:
    def stop_when_it_runs(progress: Progress) -> None:
        if progress.fraction > 0:
            stop(progress)

    with pytest.raises(TrainingStopped):
        process.train(task("reads_its_input", pid_file=str(tmp_path / "pid")), folder, stop_when_it_runs)
    assert process.train(task("reads_its_input"), folder, nobody).sample_count == 7


def test_what_the_import_has_started_reads_no_command_of_the_device(
    folder: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READS_AT_IMPORT", str(tmp_path / "read"))
    process = TrainingProcess(SPEC, {})
    for _ in range(2):
        process.train(task(), folder, nobody)
    process.close()
    assert (tmp_path / "read").read_bytes() == b""


def test_a_broken_answer_is_skipped_with_one_warning(process: TrainingProcess, folder: TrainingFolder) -> None:
    with structlog.testing.capture_logs() as logged, pytest.raises(TrainingFailed, match=r"killed.*\(SIGKILL\)"):
        process.train(task("dies_while_it_speaks"), folder, nobody)
    assert [one["event"] for one in logged].count("training_process_answer_broken") == 1
    assert process.train(task(), folder, nobody).sample_count == 7


def test_progress_is_told_and_a_training_that_nobody_waits_for_is_stopped(
    process: TrainingProcess, folder: TrainingFolder, tmp_path: Path
) -> None:
    told: list[Progress] = []

    def watch(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 5:
            raise TrainingStopped("The round is cancelled.")

    with pytest.raises(TrainingStopped, match="cancelled"):
        process.train(task("sleeps", pid_file=str(tmp_path / "pid")), folder, watch)
    assert told[0] == Progress(0.0, 1.0, {"step": 0.0})
    assert told[4].fraction > told[0].fraction
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert process.train(task(), folder, nobody).sample_count == 7


def test_metrics_out_of_form_are_dropped_with_one_warning_and_cost_nothing_else(
    process: TrainingProcess, folder: TrainingFolder
) -> None:
    told: list[Progress] = []
    with structlog.testing.capture_logs() as logged:
        trained = process.train(task("misreports"), folder, told.append)
    taken = {"good": 0.5} | {f"m{number}": 1.0 for number in range(31)}
    assert trained == Trained(7, taken)
    reports = [one for one in told if one.metrics]
    assert reports and all(one == Progress(0.0, None, taken) for one in reports)
    ProgressReport(bytes(16), "training", reports[0].fraction, reports[0].loss, reports[0].metrics)
    (warning,) = [one for one in logged if one["event"] == "metrics_out_of_form_dropped"]
    assert {"loss", "nan", "large", "none", "several", "a\nline", "m31"} <= set(warning["names"])
    assert len(warning["names"]) == 10


def importing_process() -> psutil.Process:
    alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    (child,) = [one for one in alive if "edge_client.training_child" in one.cmdline()]
    return child


def kill_importing_process() -> None:
    importing = importing_process()
    importing.kill()
    deadline = time.monotonic() + 10
    while importing.status() != psutil.STATUS_ZOMBIE:  # whoever started it reaps it
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_training_process_that_died_between_rounds_costs_no_round(
    process: TrainingProcess, folder: TrainingFolder
) -> None:
    process.train(task(), folder, nobody)
    kill_importing_process()
    with structlog.testing.capture_logs() as logged:
        assert process.train(task(), folder, nobody).sample_count == 7
    assert [one["status"] for one in logged if one["event"] == "training_process_died"] == [-signal.SIGKILL]


def test_a_training_process_that_is_killed_costs_its_round_though_others_hold_its_pipe(
    process: TrainingProcess, folder: TrainingFolder, tmp_path: Path
) -> None:
    pid_file, looks, workers = tmp_path / "pids", list[int](), list[psutil.Process]()

    def kill_when_seen(progress: Progress) -> None:
        looks.append(pid_file.exists())
        if sum(looks) == 3:
            workers.extend(left_behind(pid_file))
            kill_importing_process()

    with pytest.raises(TrainingFailed, match="ended with status -9"):
        process.train(task("sleeps_in_forks", pid_file=str(pid_file)), folder, kill_when_seen)
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert len(gone) == 2 and not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    assert process.train(task(), folder, nobody).sample_count == 7


def test_what_the_watch_finds_is_raised_though_the_training_process_has_died(
    process: TrainingProcess, folder: TrainingFolder
) -> None:
    def find(progress: Progress) -> None:
        kill_importing_process()
        raise Refusal("log-inconsistent", "The log was forked.")

    with pytest.raises(Refusal, match="forked"):
        process.train(task("hangs"), folder, find)
    assert process.train(task(), folder, nobody).sample_count == 7


def test_a_training_does_not_outlive_its_device(folder: TrainingFolder, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    device = subprocess.Popen([sys.executable, "-c", DEVICE, str(folder.base.parents[1]), str(pid_file), "sleeps"])
    deadline = time.monotonic() + 30
    while not pid_file.exists() or not pid_file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    training = psutil.Process(int(pid_file.read_text()))
    os.kill(device.pid, signal.SIGKILL)
    device.wait()
    gone, alive = psutil.wait_procs([training], timeout=10)
    assert gone and not alive


DEVICE = """
import sys
from pathlib import Path
from edge_client.training import TrainingTask
from edge_client.training_folder import TrainingFolder
from edge_client.training_process import TrainingProcess
process = TrainingProcess("tests.edge.troubled_trainers:Troubled", {})
task = TrainingTask({"trouble": sys.argv[3], "pid_file": sys.argv[2]}, 1)
process.train(task, TrainingFolder(Path(sys.argv[1])), lambda progress: None)
"""


def test_a_signal_to_the_whole_group_leaves_nothing_of_the_training(folder: TrainingFolder, tmp_path: Path) -> None:
    pid_file, home = tmp_path / "pids", str(folder.base.parents[1])
    command = [sys.executable, "-c", DEVICE, home, str(pid_file), "leaves_others_and_sleeps"]
    device = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 30
    while not pid_file.exists() or len(pid_file.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    processes = left_behind(pid_file)
    os.killpg(device.pid, signal.SIGTERM)
    device.wait()
    gone, alive = psutil.wait_procs(processes, timeout=10)
    assert len(gone) == 2 and not alive


def test_code_that_is_not_there_is_refused_before_any_round(folder: TrainingFolder) -> None:
    with pytest.raises(Refusal, match="has no Nobody"):
        TrainingProcess("tests.edge.troubled_trainers:Nobody", {}).open()


def test_a_file_in_the_current_folder_shadows_no_module_of_the_training_process(
    folder: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "selectors.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    process = TrainingProcess(SPEC, {})
    assert process.train(task(), folder, nobody).sample_count == 10
    process.close()


def test_an_evaluation_that_hangs_is_ended(folder: TrainingFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_process, "EVALUATION_SECONDS", 1)
    process = TrainingProcess(SPEC, {"hangs": "yes"})
    with pytest.raises(TrainingFailed, match="took more than 1 s"):
        process.evaluate(task(), folder)
    assert process.train(task(), folder, nobody).sample_count == 10
    process.close()


def test_a_device_evaluates_on_its_own_data(process: TrainingProcess, folder: TrainingFolder) -> None:
    assert process.evaluate(task(), folder) == EvaluationOutcome(7, {"mean": 5.5})


def test_a_device_without_held_out_data_evaluates_nothing(folder: TrainingFolder) -> None:
    process = TrainingProcess(SPEC, {})
    assert process.evaluate(task(), folder) is None
    process.close()
