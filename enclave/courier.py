"""The courier: starts the sealed process, brings it what it asks for, and takes its answer.

It runs in the enclave worker: it carries ciphertexts in and a model and a signed result out, and
reads none of the host's secrets. One it makes: the attestation key, when the host directory is first
used; only sealed processes read it from then on. Whatever goes wrong with the process becomes
`Refusal("enclave-failed")`; nothing here waits longer than the host's timeout.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from enclave.core.aggregation import BASE_MODEL
from enclave.core.channel import PIECE_BYTES, Channel, ChannelClosed
from enclave.core.host import attestation_public_key, destroy_round_key, initialise_host_directory
from enclave.core.requests import AggregateRequest, PrepareRequest, SubmittedManifest
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.attestation.evidence import EnclaveClaims, unverified_claims
from qflare_protocol.errors import CATALOGUE, Refusal
from qflare_protocol.round_result import RosterEntry

__all__ = [
    "EnclaveHost",
    "PreparedRound",
    "SealedProcess",
    "SealedUpdate",
    "aggregate_round",
    "attestation_public_key",
    "destroy_round_key",
    "initialise_host_directory",
    "prepare_round",
]

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

logger = logging.getLogger("qflare.enclave")

OpenBlob = Callable[[], BinaryIO]


@dataclass(frozen=True)
class EnclaveHost:
    """Where and as whom the sealed process runs; `timeout_seconds` bounds one whole request."""

    directory: Path
    uid: int = 65534
    gid: int = 65534
    timeout_seconds: float = 600.0


@dataclass(frozen=True)
class PreparedRound:
    """What the enclave gives out when a round is prepared; the keys are wrapped for a successor of the same code."""

    evidence: bytes
    wrapped_keys: bytes
    claims: EnclaveClaims

    @property
    def key_id(self) -> bytes:
        """The 32-byte id of the round's keys."""
        return self.claims.key_id

    @property
    def hpke_public_key(self) -> bytes:
        """The key that devices seal their updates to, 1665 bytes."""
        return self.claims.hpke_public_key

    @property
    def result_public_key(self) -> bytes:
        """The ML-DSA-44 key that signs the result, 1312 bytes."""
        return self.claims.result_public_key


@dataclass(frozen=True)
class SealedUpdate:
    """One submitted update: the device, its signed manifest, and how to open the sealed blob for reading."""

    device_id: bytes
    manifest: bytes
    open_blob: OpenBlob


class SealedProcess:
    """A running sealed process; as a context manager it is dead, and waited for, at the end."""

    def __init__(self, host: EnclaveHost, mode: str, round_id: bytes, memory_bytes: int) -> None:
        self._deadline = time.monotonic() + host.timeout_seconds
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - a fixed command of our own
                _command(host, mode, round_id, memory_bytes, theirs.fileno()),
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
            )
        self._channel = Channel(self._read, self._write)

    def __enter__(self) -> "SealedProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. Raises `Refusal("enclave-failed")`."""
        try:
            self._channel.send(message)
        except OSError as error:
            raise self._failure() from error

    def receive(self, *expected: str) -> dict[str, Any]:
        """Return the next message, of one of the expected kinds.

        Raises the refusal that the process answers with, and `Refusal("enclave-failed")` when it
        has died, is late or says something else.
        """
        try:
            message = self._channel.receive()
        except (OSError, ChannelClosed) as error:
            raise self._failure() from error
        if message.get("kind") == "refused":
            raise _refusal(message)
        if message.get("kind") not in expected:
            raise Refusal("enclave-failed", f"The sealed process failed: {message.get('where', 'unexpected message')}.")
        return message

    def _read(self, size: int) -> bytes:
        self._set_timeout()
        return self._socket.recv(size)

    def _write(self, data: memoryview) -> int:
        self._set_timeout()
        return self._socket.send(data)

    def _set_timeout(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _failure(self) -> Refusal:
        """Say how the process ended; one that is still alive after its end of the channel is silent is late."""
        try:
            status = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return Refusal("enclave-failed", "The sealed process did not answer in time and was ended.")
        self._log_errors()
        return Refusal("enclave-failed", f"The sealed process ended with {_describe(status)}.")

    def _log_errors(self) -> None:
        # Before it is sealed the process may complain in its standard error; sealed, it has none.
        if self._process.stderr is not None and (complaint := self._process.stderr.read(8192)):
            logger.error("The sealed process wrote: %s", complaint.decode(errors="replace").strip())


def prepare_round(
    host: EnclaveHost, *, round_id: bytes, federation_id: bytes, policy: AggregationPolicy, nonce: bytes
) -> PreparedRound:
    """Have the enclave make the round's keys and evidence.

    Raises `Refusal`: "enclave-failed", "sealing-refused" where the policy demands a protection that
    this host does not give, "evidence-refused" for a nonce of another length than 16 to 64 bytes.
    """
    with SealedProcess(host, "prepare", round_id, policy.maximum_memory_bytes) as process:
        process.receive("ready")
        process.send(PrepareRequest(round_id, federation_id, policy, nonce).to_map())
        answer = process.receive("prepared")
    # The courier reads what its own child gave it; devices verify, see `attestation.appraise`.
    _, claims = unverified_claims(answer["evidence"])
    return PreparedRound(answer["evidence"], answer["wrapped_keys"], claims)


def aggregate_round(
    host: EnclaveHost,
    *,
    round_id: bytes,
    federation_id: bytes,
    policy: AggregationPolicy,
    wrapped_keys: bytes,
    base_model_digest: bytes,
    open_base_model: OpenBlob,
    roster: Sequence[RosterEntry],
    updates: Sequence[SealedUpdate],
    write_model: Callable[[bytes], None],
    on_step: Callable[[str, float], None] = lambda name, seconds: None,
) -> bytes:
    """Have the enclave aggregate the round and return its signed result.

    `write_model` takes the new model piece by piece; it is to be kept only when this returns.
    `on_step` is told the seconds of each step. Called again with the same inputs, after whatever
    crash, it gives the same model and the same result payload. Raises `Refusal`: "enclave-failed",
    "sealing-refused", "too-few-updates" (its extension `verdicts` says why), "conflict" for other
    inputs than those that were aggregated before, "decryption-failed" for keys of other code.
    """
    request = AggregateRequest(
        round_id=round_id,
        federation_id=federation_id,
        policy=policy,
        wrapped_keys=wrapped_keys,
        base_model_digest=base_model_digest,
        roster=tuple(roster),
        updates=tuple(SubmittedManifest(update.device_id, update.manifest) for update in updates),
    )
    openers = {BASE_MODEL: open_base_model} | {index: update.open_blob for index, update in enumerate(updates)}
    with SealedProcess(host, "aggregate", round_id, policy.maximum_memory_bytes) as process, _Blobs(openers) as blobs:
        started = time.monotonic()
        process.receive("ready")
        on_step("seal", time.monotonic() - started)
        process.send(request.to_map())
        return _attend(process, blobs, write_model, on_step)


def _attend(
    process: SealedProcess,
    blobs: "_Blobs",
    write_model: Callable[[bytes], None],
    on_step: Callable[[str, float], None],
) -> bytes:
    """Serve the process until its result is there."""
    while True:
        message = process.receive("read", "model", "step", "aggregated")
        match message["kind"]:
            case "read":
                process.send({"piece": blobs.read(message["source"], message["reading"])})
            case "model":
                write_model(message["piece"])
            case "step":
                on_step(message["name"], message["seconds"])
            case _:
                result: bytes = message["result"]
                return result


class _Blobs:
    """The open blobs, one per source and reading; a blob is closed as soon as it has ended."""

    def __init__(self, openers: Mapping[int, OpenBlob]) -> None:
        self._openers = openers
        self._open: dict[tuple[int, int], BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "_Blobs":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def read(self, source: int, reading: int) -> bytes:
        """Return the next piece, empty at the end."""
        place = (source, reading)
        if place not in self._open:
            self._open[place] = self._stack.enter_context(self._openers[source]())
        piece = self._open[place].read(PIECE_BYTES)
        if not piece:
            self._open[place].close()
        return piece


def _command(host: EnclaveHost, mode: str, round_id: bytes, memory_bytes: int, descriptor: int) -> list[str]:
    options = {
        "--channel-fd": descriptor,
        "--host-directory": host.directory.resolve(),
        "--round": round_id.hex(),
        "--uid": host.uid,
        "--gid": host.gid,
        "--memory-bytes": memory_bytes,
        "--parent-pid": os.getpid(),
    }
    flags = [str(part) for option in options.items() for part in option]
    return [sys.executable, "-P", "-s", "-B", "-m", "enclave.core", mode, *flags]


def _environment() -> dict[str, str]:
    """Nothing of ours is inherited: no secret, no Django, and BLAS on one thread."""
    return {"PYTHONPATH": str(ROOT), "PATH": os.defpath, "LC_ALL": "C.UTF-8", **ONE_THREAD}


def _refusal(message: Mapping[str, Any]) -> Refusal:
    code = message["code"] if message["code"] in CATALOGUE else "enclave-failed"
    return Refusal(code, message["detail"], **message["extensions"])


def _describe(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    return f"signal {-status} ({signal.Signals(-status).name})"
