"""One process of virtual devices: `python -m bench.fleet.generator URL THREADS FOLDER`.

Commands come as lines of JSON on standard input, one answer each on standard output: how many devices did it,
the bytes that went and came, and the seconds of every request by endpoint.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, local
from typing import Any

import httpx
import numpy as np
import structlog

from edge_client.backoff import Backoff
from edge_client.device_state import DeviceStateFile
from edge_client.enrolment import enroll_device
from edge_client.http import Http
from edge_client.identity_keeper import IdentityKeeper
from edge_client.round_worker import RoundWorker
from edge_client.tensor_files import map_tensor_file, write_tensor_file
from edge_client.trainer import EvaluationOutcome
from edge_client.training import Trained, TrainingTask, Watch
from edge_client.training_folder import TrainingFolder

BODY_OF_BARE_POST = json.dumps({"note": "x" * 64}).encode()


class TimedHttp(Http):
    """The client's connection, with a note of how long every request took and of the bytes on the wire.

    `wire_bytes` are first lines, headers and bodies both ways, as HTTP/1.1 writes them; TCP and IP are not in it.
    """

    def __init__(self, server: str, samples: dict[str, list[float]], lock: Lock) -> None:
        super().__init__(server, timeout_seconds=300)
        self._samples, self._lock = samples, lock
        self.wire_bytes = 0
        self._client.event_hooks = {"response": [self._count_heads]}

    def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send one request and note its seconds under its endpoint."""
        started = time.perf_counter()
        response = super().send(method, path, body, headers)
        self._note(method, path, response.status_code, time.perf_counter() - started)
        self.wire_bytes += len(body) + len(response.content)
        return response

    @contextmanager
    def opened(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Send a GET, give the answer with its body unread, and note the seconds until the caller has read it."""
        started = time.perf_counter()
        with super().opened(path, headers) as response:
            yield response
            self._note("GET", path, response.status_code, time.perf_counter() - started)
            self.wire_bytes += response.num_bytes_downloaded

    def _count_heads(self, response: httpx.Response) -> None:
        request = response.request
        first_lines = (
            (request.method.encode(), request.url.raw_path, b"HTTP/1.1"),
            (b"HTTP/1.1", str(response.status_code).encode(), response.reason_phrase.encode()),
        )
        self.wire_bytes += sum(len(b" ".join(line)) + len(b"\r\n") for line in first_lines)
        self.wire_bytes += sum(_header_bytes(message.headers) for message in (request, response))

    def _note(self, method: str, path: str, status: int, seconds: float) -> None:
        endpoint = f"{method} {'/'.join(path.partition('?')[0].split('/')[:3])}"
        with self._lock:
            self._samples.setdefault(endpoint if status < 300 else f"{endpoint} -> {status}", []).append(seconds)


def _header_bytes(headers: httpx.Headers) -> int:
    return sum(len(name) + len(value) + len(b": \r\n") for name, value in headers.raw) + len(b"\r\n")


class Precomputed:
    """Hands in a change that was drawn before, in place of a training."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def train(self, task: TrainingTask, folder: TrainingFolder, watch: Watch) -> Trained:
        """Add a device's own small noise to the base model."""
        base = map_tensor_file(folder.base)
        noise = np.random.default_rng(self._seed)
        write_tensor_file(
            folder.trained,
            {name: value + noise.normal(0, 0.01, value.shape).astype(np.float32) for name, value in base.items()},
        )
        return Trained(10, {"loss": 1.0})

    def evaluate(self, task: TrainingTask, folder: TrainingFolder) -> EvaluationOutcome | None:
        """Virtual devices hold no data."""
        return None

    def close(self) -> None:
        """Nothing to end."""


class Generator:
    """The virtual devices of this process."""

    def __init__(self, url: str, threads: int, folder: Path) -> None:
        self._url, self._folder = url, folder
        self._pool, self._local, self._lock = ThreadPoolExecutor(threads), local(), Lock()
        self._samples: dict[str, list[float]] = {}
        self._devices: list[RoundWorker] = []
        self._connections: list[TimedHttp] = []

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do one command with all devices and return its figures."""
        self._samples.clear()
        started, cpu, before = time.perf_counter(), time.process_time(), self._wire_bytes()
        done = sum(getattr(self, f"_{command['do']}")(command))
        return {
            "done": done,
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu,
            "wire_bytes": self._wire_bytes() - before,
            "samples": self._samples,
        }

    def _enrol(self, command: dict[str, Any]) -> Iterable[int]:
        made = list(self._pool.map(self._enrol_one, command["tokens"]))
        self._devices += made
        return [len(made)]

    def _session(self, command: dict[str, Any]) -> Iterable[int]:
        return self._each(lambda device: device._session.open())

    def _rekey(self, command: dict[str, Any]) -> Iterable[int]:
        return self._each(lambda device: device._session.rekey(), counted=lambda generation: int(generation > 0))

    def _ask(self, command: dict[str, Any]) -> Iterable[int]:
        """Ask for work, and post to the bare view beside each time where its address is given."""
        times, beside = int(command["times"]), command.get("beside")

        def ask(device: RoundWorker) -> int:
            for _ in range(times):
                device._session.post("/api/work", {})
                if beside:
                    self._bare(beside)
            return times

        return self._each(ask, counted=int)

    def _round(self, command: dict[str, Any]) -> Iterable[int]:
        return self._each(RoundWorker.work_once, counted=lambda worked: int(worked[0]))

    def _bare(self, url: str) -> None:
        if not hasattr(self._local, "bare"):
            self._local.bare = TimedHttp(url, self._samples, self._lock)
        self._local.bare.send("POST", "/bare", BODY_OF_BARE_POST, {"Content-Type": "application/json"})

    def _each(
        self, action: Callable[[RoundWorker], Any], counted: Callable[[Any], int] = lambda answer: 1
    ) -> Iterable[int]:
        def run(device: RoundWorker) -> int:
            device._session._http = self._http()  # the connection of the thread that serves the device now
            return counted(action(device))

        return self._pool.map(run, self._devices)

    def _enrol_one(self, token: str) -> RoundWorker:
        number = int.from_bytes(os.urandom(6))
        identity = enroll_device(self._http(), self._url, token, f"virtual-{number}")
        memory = DeviceStateFile(self._folder / identity.device_id.hex())
        keeper = IdentityKeeper(identity, lambda changed: None)
        return RoundWorker(self._http(), keeper, memory, Precomputed(number), Backoff(attempts=20))

    def _wire_bytes(self) -> int:
        return sum(connection.wire_bytes for connection in self._connections)

    def _http(self) -> TimedHttp:
        if not hasattr(self._local, "http"):
            self._local.http = TimedHttp(self._url, self._samples, self._lock)
            self._connections.append(self._local.http)
        found: TimedHttp = self._local.http
        return found


def main() -> None:
    """Obey until standard input ends."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    generator = Generator(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    for line in sys.stdin:
        print(json.dumps(generator.obey(json.loads(line))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
