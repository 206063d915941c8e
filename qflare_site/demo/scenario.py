"""The demo's course: start the site, enrol the fleet, let the schedule train, export and verify the log."""

import io
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.utils import timezone
from rich.console import Console

from audit.models import Entry
from audit.services import log_verifier_key, sequence_log
from devices.models import Device
from enrollment.services import issue_token
from qflare_protocol.qkd import QkdUse
from qflare_site.demo.display import Display, Moment, states_of
from qflare_site.demo.fleet import Fleet
from qflare_site.demo.report import read_rounds
from qflare_site.demo.settings import FEDERATION, HONEST_TRAINER, OPEN_EVERY_SECONDS, ROUND_SECONDS, DemoSettings
from sessions.qkd import set_qkd_policy
from training.models import Federation, FederationState, Participation, Round
from training.services.federations import create_federation
from training.services.schedules import schedule_rounds

ACTOR = "operator:demo"
POLL_SECONDS = 0.5


class DemoStuck(RuntimeError):
    """A phase did not end in its time; the message says which and where to look."""


class Scenario:
    """One run on a site that is up at `server`."""

    def __init__(self, demo: DemoSettings, server: str, display: Display) -> None:
        self._demo, self._server, self._display = demo, server, display
        self._folder = Path(settings.QFLARE_DATA_DIR)
        self._federation: Federation | None = None

    @property
    def federation(self) -> Federation:
        """The federation, freshly read."""
        if self._federation is None:
            raise DemoStuck("There is no federation yet.")
        self._federation.refresh_from_db()
        return self._federation

    def train(self, fleet: Fleet) -> None:
        """Create the federation, enrol the fleet and wait for the planned rounds and their evaluation."""
        self._federation = self._create_federation()
        if self._demo.qkd:
            set_qkd_policy("", QkdUse.REQUIRED, actor=ACTOR, now=timezone.now())
        names = self._demo.device_names()
        shards = random.Random(self._demo.seed).sample(range(len(names)), len(names))  # noqa: S311 - a demo's seed
        tokens = [issue_token(actor=ACTOR, now=timezone.now(), device_name=name).text for name in names]
        fleet.start(names, tokens, shards)
        self._wait(fleet, "Enrolling", self._all_enrolled, limit_seconds=120 + 60 * self._demo.devices)
        schedule_rounds(self._federation, every=timedelta(seconds=OPEN_EVERY_SECONDS), actor=ACTOR)
        self._wait(fleet, "Training", self._all_trained, limit_seconds=60 + self._demo.rounds * ROUND_SECONDS)

    def _create_federation(self) -> Federation:
        parameters, model = self._demo.trainer_parameters, self._folder / "initial.safetensors"
        command = [
            *(sys.executable, "-m", "edge_client", "initial-model", "--trainer", HONEST_TRAINER),
            *("--parameters", json.dumps(parameters), "--output", str(model)),
        ]
        subprocess.run(command, cwd=settings.BASE_DIR, check=True)  # noqa: S603 - the command line is our own
        return create_federation(
            FEDERATION,
            initial_model=model.read_bytes(),
            trainer=HONEST_TRAINER,
            policy=self._demo.policy,
            actor=ACTOR,
            now=timezone.now(),
            trainer_parameters=parameters,
            evaluator=HONEST_TRAINER,
            round_time=timedelta(seconds=ROUND_SECONDS),
            planned_rounds=self._demo.rounds,
        )

    def _all_enrolled(self) -> bool:
        return Device.objects.count() == self._demo.devices

    def _all_trained(self) -> bool:
        federation = self.federation
        pending = federation.versions.filter(evaluated_at=None, evaluation_error="").exists()
        return federation.state == FederationState.FINISHED and not pending

    def _wait(self, fleet: Fleet, phase: str, done: Callable[[], bool], *, limit_seconds: float) -> None:
        deadline = time.monotonic() + limit_seconds
        while not done():
            fleet.check()
            self._display.show(self._moment(phase))
            if time.monotonic() > deadline:
                raise DemoStuck(
                    f"{phase} did not end in {limit_seconds:.0f} s; the logs are in {settings.QFLARE_LOG_DIR}."
                )
            time.sleep(POLL_SECONDS)
        self._display.show(self._moment(phase))

    def _moment(self, phase: str) -> Moment:
        running = Round.objects.unfinished().first()
        parts = Participation.objects.filter(round=running).values_list("state", flat=True)
        return Moment(
            phase=f"{phase}: round {running.number} is {running.state}" if running else phase,
            enrolled=Device.objects.count(),
            devices=self._demo.devices,
            rounds=read_rounds(self.federation),
            planned_rounds=self._demo.rounds,
            round_states=states_of(list(parts)),
        )

    def verify_log(self) -> tuple[bool, int, str]:
        """Export the log and verify it offline with its key pinned.

        Returns whether it verified, the number of entries, and the verifier's words.
        """
        sequence_log()
        export, key = self._folder / "log-export", self._folder / "log.vkey"
        call_command("audit_export", str(export), stdout=io.StringIO())
        key.write_text(log_verifier_key() + "\n")
        command = [sys.executable, "-m", "verifier.qflare_verify", str(export), "--key", str(key)]
        verifier = subprocess.run(command, cwd=settings.BASE_DIR, capture_output=True, text=True, check=False)  # noqa: S603
        return verifier.returncode == 0, Entry.objects.count(), (verifier.stdout + verifier.stderr).strip()


def create_demo_operator(password: str) -> str:
    """Create the operator who may look at a kept demo; return the name."""
    get_user_model().objects.create_superuser("demo", password=password)
    return "demo"


def console_for_demo() -> Console:
    """Return a console that prints wide enough for the closing table where there is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
