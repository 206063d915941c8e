"""Rounds in which something is killed, and what has to hold of each of them afterwards."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.chaos.fleet import PARAMETERS, Fleet
from tests.chaos.stage import Stage
from tests.chaos.steps import SHARED_STEPS, Step, at_step
from tests.policies import bare
from tests.system.log_driver import with_patience
from tests.system.running_site import ROOT, create_federation, judged_round_of, wait_for

ROUND_ENDS_WITHIN_SECONDS = 110
SEALED = {"preparing", "aggregation begins", "first pass", "second pass", *(step.name for step in SHARED_STEPS)}
"""The steps at which there is a sealed process to kill."""


@dataclass
class Told:
    """What became of one round."""

    killed: bool
    seconds: float
    attempts: int


@dataclass
class Run:
    """A federation of a fleet on a stage, its model shared by so many sealed processes; `model` is what it must be."""

    stage: Stage
    fleet: Fleet
    ranges: int = 1
    federation: Any = None
    model: np.ndarray = field(default_factory=lambda: np.zeros(PARAMETERS, np.float32))

    def __post_init__(self) -> None:
        policy = bare(ranges=self.ranges)
        self.federation = create_federation({"w": self.model}, policy, name=f"chaos-{self.ranges}")
        self._mean = np.mean([change["w"] for change in self.fleet.changes], axis=0, dtype=np.float64)

    def round_with(self, step: Step, trouble: Callable[[], bool]) -> Told:
        """Open a round, make trouble when it is at the step, wait for its end, and check all that was promised."""
        from django.utils import timezone

        from training.services.rounds import open_round

        round_ = open_round(self.federation.id, actor="operator:test", now=timezone.now())
        with at_step(step, round_.id) as there:
            killed = there and trouble()
        started = time.monotonic()
        ended = self._ended(round_.id)
        told = Told(killed, time.monotonic() - started, ended.attempts)
        self._check(ended)
        return told

    def _ended(self, round_id: Any) -> Any:
        """Return the round as it ended; what died is started again meanwhile, as `manage.py serve` does."""
        from training.models import UNFINISHED, Round

        def over() -> Any:
            self.stage.group.tend()
            found: list[Any] = []
            with_patience(lambda: found.append(Round.objects.select_related("resulting_version").get(id=round_id)))
            return found[-1] if found[-1].state not in UNFINISHED else None

        return wait_for(over, "the round to end without hands", ROUND_ENDS_WITHIN_SECONDS)

    def _check(self, ended: Any) -> None:
        """Every update with a receipt is in the signed result once, and the model is their exact mean."""
        from audit.models import Event
        from qflare_protocol.tensors import encode_tensors, model_digest
        from training.models import Update

        assert ended.state == "completed", f"the round {ended.state}: {ended.end_reason}"
        assert ended.restarts == 0, "keys were lost, and with them updates that had their receipt"
        promised = wait_for(lambda: self._all_receipts(ended.id.bytes), "every device to hold its receipt")
        judged = judged_round_of(ended)
        assert len(judged.accepted) == len(judged.verdicts) == len(self.fleet.workers)
        assert {one.device_id: {one.manifest_digest} for one in judged.accepted} == promised
        assert Update.objects.filter(participation__round=ended).count() == len(promised)
        events = Event.objects.filter(payload__round_id=str(ended.id))
        assert events.filter(kind="update.received").count() == len(promised)
        assert events.filter(kind="round.completed").count() == 1
        self.model = np.asarray(self.model + self._mean, np.float32)
        assert judged.result.model_digest == model_digest(encode_tensors({"w": self.model})), "the model is another one"

    def _all_receipts(self, round_id: bytes) -> dict[bytes, set[bytes]] | None:
        assert not self.fleet.failures, self.fleet.failures
        held = self.fleet.receipts.of_round(round_id)
        return held if set(held) == self.fleet.ids else None

    def check_log(self) -> int:
        """Let the log verify itself, then be exported and verified offline; return its number of entries."""
        from django.core.management import call_command

        from audit.models import Event
        from audit.verification import verify_log

        wait_for(lambda: not Event.objects.filter(sequenced=False).exists(), "the log to be sequenced")
        entries = verify_log().entries
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.redirect_stdout(io.StringIO()):
                call_command("audit_export", Path(folder) / "export")
            command = [sys.executable, str(ROOT / "verifier" / "qflare_verify.py"), f"{folder}/export"]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)  # noqa: S603
        assert done.returncode == 0, done.stdout + done.stderr
        return entries


def applies(step: Step, victim: str) -> bool:
    """Say whether there is such a victim at that step."""
    return victim != "sealed process" or step.name in SEALED
