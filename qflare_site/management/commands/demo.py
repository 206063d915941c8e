"""`manage.py demo`: train handwritten digits on a fleet of real processes, two of them attackers."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console

from qflare_site.demo.display import Display, show_report
from qflare_site.demo.fleet import DeviceDied, Fleet
from qflare_site.demo.memory import PeakMemory
from qflare_site.demo.report import DemoReport, count_sessions, read_rounds
from qflare_site.demo.scenario import DemoStuck, Scenario, console_for_demo, create_demo_operator
from qflare_site.demo.settings import DemoSettings
from qflare_site.demo.stage import demo_stage
from qflare_site.processes import ProcessGroup, StartFailed, tend_until_signalled


class Command(BaseCommand):
    help = "Run a complete federated training on this machine: real processes, real data, simulated attackers."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--devices", type=int, default=10, help="edge devices, 3 to 100 (default 10)")
        parser.add_argument("--poisoned", type=int, default=2, help="how many of them attack (default 2)")
        parser.add_argument("--rounds", type=int, default=5, help="rounds to train, 3 to 100 (default 5)")
        parser.add_argument("--seed", type=int, default=1, help="seed of data split and training (default 1)")
        parser.add_argument(
            "--qkd", action="store_true", help="mix a key of a SIMULATED quantum key distribution into every session"
        )
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
        parser.add_argument("--keep", action="store_true", help="keep the site running at the end, to look around")
        # Set by the command itself when it runs again inside the environment of its own stage.
        parser.add_argument("--on-stage", type=float, help="internal: when the command was started, Unix seconds")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            demo = DemoSettings(**{name: options[name] for name in ("devices", "poisoned", "rounds", "seed", "qkd")})
        except ValueError as error:
            raise CommandError(str(error)) from error
        if options["on_stage"] is None:
            sys.exit(_run_on_stage(demo, keep=options["keep"]))
        console = console_for_demo()
        try:
            passed = _perform(demo, console, options["on_stage"], options["json"], keep=options["keep"])
        except (DemoStuck, DeviceDied, StartFailed) as failure:
            raise CommandError(str(failure)) from failure
        sys.exit(0 if passed else 1)


def _run_on_stage(demo: DemoSettings, *, keep: bool) -> int:
    """Run this same command again inside a fresh site of its own."""
    with demo_stage(demo, keep=keep) as stage:
        command = [sys.executable, *sys.argv, "--on-stage", str(time.time())]
        process = subprocess.Popen(command, env=stage.environment)  # noqa: S603 - our own command again
        status = None
        while status is None:
            with contextlib.suppress(KeyboardInterrupt):  # the child has received it too and is clearing up
                status = process.wait()
        if status:
            stage.keep_files = True
            Console(stderr=True).print(f"The files and logs of this run are kept in {stage.folder}.", highlight=False)
    return status


def _perform(demo: DemoSettings, console: Console, started_at: float, json_file: Path | None, *, keep: bool) -> bool:
    group = ProcessGroup(bind=f"127.0.0.1:{_free_port()}")
    with PeakMemory() as memory, contextlib.ExitStack() as stack:
        console.print(_introduction(demo), highlight=False)
        stack.callback(group.stop)
        group.start()
        with Display(console) as display, Fleet(group.url, settings.QFLARE_DATA_DIR / "devices", qkd=demo.qkd) as fleet:
            scenario = Scenario(demo, group.url, display)
            scenario.train(fleet)
        verified, entries, words = scenario.verify_log()
        if not verified:
            console.print(words, highlight=False)
        report = DemoReport(
            settings.PROFILE,
            read_rounds(scenario.federation),
            demo.rounds,
            verified,
            entries,
            time.time() - started_at,
            memory.peak_bytes,
            count_sessions(qkd_demanded=demo.qkd),
        )
        show_report(console, report)
        if json_file:
            json_file.write_text(json.dumps(report.to_json(), indent=1) + "\n")
        _invite(console, group, keep=keep)
    return not report.failures()


def _introduction(demo: DemoSettings) -> str:
    quantum = "\nEvery session also has a key of a SIMULATED quantum key distribution in its root." if demo.qkd else ""
    return (
        f"QFLARE demo on the {settings.PROFILE} profile: {demo.devices} devices, {demo.poisoned} of them simulated "
        f"attackers (sign flip times five), {demo.rounds} rounds, seed {demo.seed}.\n"
        f"All devices share this address, so limits by address are the defaults times {demo.devices}: "
        f"enrolment {os.environ['QFLARE_RATE_ENROLMENT']}, challenges {os.environ['QFLARE_RATE_CHALLENGE']}, "
        f"submissions {os.environ['QFLARE_RATE_SUBMISSION']}, downloads {os.environ['QFLARE_RATE_DOWNLOAD']}.{quantum}"
    )


def _invite(console: Console, group: ProcessGroup, *, keep: bool) -> None:
    address = f"{group.url}/admin/"
    if not keep:
        console.print(f"The admin was at {address}; run with --keep to sign in and look around.", highlight=False)
        return
    password = secrets.token_urlsafe(12)
    name = create_demo_operator(password)
    console.print(
        f"The site stays up: sign in at {address} as {name} with password {password}. Ctrl-C ends it.", highlight=False
    )
    console.print(f"Its files are in {settings.QFLARE_DATA_DIR}.", highlight=False)
    for restarted in tend_until_signalled(group):
        console.print(f"{restarted} had ended and was started again.", highlight=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
