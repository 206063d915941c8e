"""An evaluator that stays: `python -m edge_client.evaluation_server SPEC` imports code once and forks for each model.

A line of JSON on standard input names the model's file, the federation's parameters, and the files that the fork's
output and complaints go to; a line on standard output gives the fork's exit status. It ends with its input, or when
nobody has asked for a while.
"""

import ctypes
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from edge_client.trainer import Trainer, find_trainer
from qflare_protocol.errors import Refusal
from qflare_protocol.tensors import decode_tensors

IDLE_SECONDS = 120.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def main() -> int:
    """Import the code and serve; 2 where it is not there, and why goes to standard error."""
    _end_with_the_parent()
    try:
        trainer_class = find_trainer(sys.argv[1])
    except Refusal as refusal:
        sys.stderr.write(f"Refused ({refusal.code}): {refusal.detail}\n")
        return 2
    answers = os.dup(1)
    os.dup2(2, 1)  # what the code prints is no answer
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0] and (line := sys.stdin.buffer.readline()):
        pid = os.fork()
        if pid == 0:
            _evaluate(trainer_class, json.loads(line))
        _, status = os.waitpid(pid, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))
    return 0


def _end_with_the_parent() -> None:
    """Be killed when the parent ends (prctl(2)); at once where it has ended already."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)


def _evaluate(trainer_class: type[Trainer], task: dict[str, Any]) -> None:
    """Do the task in the fork and end it, whatever happens."""
    _end_with_the_parent()  # who is tired of waiting kills it
    status = 1
    try:
        for descriptor, name in ((1, "output"), (2, "complaints")):
            file = os.open(task[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(file, descriptor)
        metrics = trainer_class(task["parameters"], {}).evaluate(decode_tensors(Path(task["model"]).read_bytes()))
        sys.stdout.write(json.dumps(metrics) + "\n")
        sys.stdout.flush()
        status = 0
    except SystemExit as ended:
        status = 0 if ended.code in (None, 0) else 1
    except BaseException:  # noqa: BLE001 - it ends this process, and its reason is told
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    raise SystemExit(main())
