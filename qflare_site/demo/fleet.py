"""The demo's devices: one `edge_client` process each, with a key store, a token and a shard of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from qflare_site.demo.qkd import sae_environment
from qflare_site.demo.settings import HONEST_TRAINER, POISONED_TRAINER, is_poisoned
from qflare_site.processes import ONE_THREAD

STOP_SECONDS = 10


class DeviceDied(RuntimeError):
    """A device's process ended before it was stopped; the message ends with its last words."""


@dataclass
class _Running:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Fleet:
    """The running devices; as a context manager they are ended at its end."""

    def __init__(self, server: str, folder: Path, *, qkd: bool = False) -> None:
        self._server, self._folder, self._qkd = server, folder, qkd
        self._running: list[_Running] = []

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self, names: Sequence[str], tokens: Sequence[str], shards: Sequence[int]) -> None:
        """Start every device with its token and its shard."""
        for name, token, shard in zip(names, tokens, shards, strict=True):
            self._start(name, token, shard)

    def _start(self, name: str, token: str, shard: int) -> None:
        home = self._folder / name
        home.mkdir(mode=0o700, parents=True)
        token_file = home / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        command = [
            *(sys.executable, "-m", "edge_client", "--json-logs", "--home", str(home), "--key-file", str(home / "key")),
            *("run", "--server", self._server, "--name", name, "--token-file", str(token_file)),
            *("--trainer", POISONED_TRAINER if is_poisoned(name) else HONEST_TRAINER),
            *("--option", f"shard={shard}", "--longest-wait", "5"),
        ]
        environment = {**os.environ, **ONE_THREAD, **(sae_environment(name) if self._qkd else {})}
        log = home / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - the command line is our own
                command, cwd=settings.BASE_DIR, env=environment, stdout=output, stderr=output
            )
        self._running.append(_Running(name, process, log))

    def check(self) -> None:
        """Return when every device is alive. Raises `DeviceDied`."""
        for device in self._running:
            status = device.process.poll()
            if status is not None:
                tail = device.log.read_text(errors="replace")[-2000:]
                raise DeviceDied(f"{device.name} ended with status {status}:\n{tail}")

    def logs(self) -> list[Path]:
        """Return the log file of each device."""
        return [device.log for device in self._running]

    def stop(self) -> None:
        """Ask every device to end, then kill what is left; by process id."""
        for device in self._running:
            if device.process.poll() is None:
                device.process.send_signal(signal.SIGTERM)
        for device in self._running:
            try:
                device.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                device.process.kill()
                device.process.wait()
        self._running.clear()
