"""The courier: starts the sealed process, brings it what it asks for, and takes its answer.

It runs in the enclave worker: it carries ciphertexts in and a model and a signed result out, and
reads none of the host's secrets. One it makes: the attestation key, when the host directory is first
used; only sealed processes read it from then on. Whatever goes wrong with the process becomes
`Refusal("enclave-failed")`; nothing here waits longer than the host's timeout.
"""

import logging
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from enclave.child_messages import checked_message
from enclave.core.attesters.choice import SOFTWARE
from enclave.core.channel import MAX_REQUEST_BYTES, Channel, ChannelClosed
from enclave.core.foreseen import SEALED_MODEL
from enclave.core.host import attestation_public_key, destroy_round_key, initialise_host_directory
from enclave.core.requests import AggregateRequest, PrepareRequest
from enclave.core.second_pass import MODEL
from enclave.core.sources import BASE_MODEL
from enclave.held_model import HeldModel
from enclave.round_given import OpenBlob, RoundGiven, SealedRow, SealedUpdate
from enclave.spans import round_followed, step_ended
from enclave.spare_process import CHANNEL_OPTION, PROGRAM, SPARE, start
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.attestation.evidence import EnclaveClaims, read_evidence
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import RosterEntry, SignedResult
from qflare_protocol.staleness import OlderBase
from qflare_protocol.tensors import MAX_HEADER_BYTES

__all__ = [
    "EnclaveHost",
    "EnclaveTask",
    "OpenBlob",
    "PreparedRound",
    "RoundGiven",
    "SealedProcess",
    "SealedRow",
    "SealedUpdate",
    "aggregate_round",
    "attestation_public_key",
    "destroy_round_key",
    "initialise_host_directory",
    "prepare_round",
]

COPY_BYTES = 1 << 20
SPARE_DESCRIPTORS = 64
DESCRIPTORS_PER_ARGUMENT = 10_000
"""The kernel takes no argument of 128 KiB (`MAX_ARG_STRLEN`); a number has up to seven digits."""
SLOWEST_BYTES_PER_SECOND = 50e6
"""What a sealed process reads, decrypts and combines on a slow core from a slow disk; measured are 240 MB a second and
more (docs/benchmarks/sealed.md)."""

logger = logging.getLogger("qflare.enclave")


def ignore_step(name: str, seconds: float) -> None:
    """Take no note of how long a step took."""


@dataclass(frozen=True)
class EnclaveHost:
    """Where and as whom the sealed process runs, and who attests it.

    `timeout_seconds` bounds one whole request, beside the time that its blobs take.
    """

    directory: Path
    uid: int = 65534
    gid: int = 65534
    timeout_seconds: float = 600.0
    attester: str = SOFTWARE

    def seconds_for(self, task: "EnclaveTask") -> float:
        """Return how long the whole request may take: a time of its own, and one for the bytes of its blobs."""
        return self.timeout_seconds + task.blob_bytes / SLOWEST_BYTES_PER_SECOND


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
class EnclaveTask:
    """What one sealed process is started for: "prepare" or "aggregate" a round, with the open files of its blobs.

    `range_index` is given to one that works on a range alone; `blob_bytes` are what all blobs have together.
    """

    mode: str
    round_id: bytes
    federation_id: bytes
    memory_bytes: int
    blob_descriptors: tuple[int, ...] = ()
    range_index: int | None = None
    blob_bytes: int = 0


class SealedProcess:
    """A running sealed process; as a context manager it is dead, and waited for, at the end."""

    def __init__(self, host: EnclaveHost, task: "EnclaveTask") -> None:
        self._deadline = time.monotonic() + host.seconds_for(task)
        running = SPARE.take(_arguments(host, task), task.blob_descriptors)
        if running is None:
            ours, theirs = socket.socketpair()
            running = start(_command(host, task, theirs.fileno()), (ours, theirs), task.blob_descriptors)
        self._process, self._socket = running.process, running.socket
        self._channel = Channel(self._read, self._write, sends=MAX_REQUEST_BYTES)

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
        except Refusal as refusal:
            raise Refusal("enclave-failed", f"The sealed process failed: {refusal.detail}") from refusal
        return checked_message(message, expected)

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
    host: EnclaveHost,
    *,
    round_id: bytes,
    federation_id: bytes,
    policy: AggregationPolicy,
    nonce: bytes,
    range_index: int = 0,
    range_count: int = 1,
) -> PreparedRound:
    """Have the enclave make the keys and evidence of the round, or of one of the ranges that share its model.

    Raises `Refusal`: "enclave-failed", "sealing-refused" where the policy demands a protection that
    this host does not give, "evidence-refused" for a nonce of another length than 16 to 64 bytes.
    """
    task = EnclaveTask("prepare", round_id, federation_id, policy.maximum_memory_bytes)
    with round_followed("prepare", round_id), SealedProcess(host, task) as process:
        process.receive("ready")
        process.send(PrepareRequest(round_id, federation_id, policy, nonce, range_index, range_count).to_map())
        answer = process.receive("prepared")
    # The courier reads what its own child gave it; devices verify, see `attestation.appraise`.
    claims = read_evidence(answer["evidence"]).claims
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
    carried: Sequence[SealedRow] = (),
    older_bases: Sequence[OlderBase] = (),
    write_output: Callable[[str, bytes], None],
    on_step: Callable[[str, float], None] = ignore_step,
) -> SignedResult:
    """Have the enclave aggregate the round and return its signed result, with the verdicts that it names.

    `write_output` takes the new model, as the output "model", and the new carried rows, by their names,
    piece by piece; they are to be kept only when this returns.
    `on_step` is told the seconds of each step. Called again with the same inputs, after whatever
    crash, it gives the same model and the same result payload. Raises `Refusal`: "enclave-failed",
    "sealing-refused", "too-few-updates" (its extension `verdicts` says why), "conflict" for other
    inputs than those that were aggregated before, "decryption-failed" for keys of other code,
    "carried-rows-lost" for carried rows of other code, policy or host.
    """
    given = RoundGiven(
        round_id,
        federation_id,
        policy,
        wrapped_keys,
        base_model_digest,
        open_base_model,
        roster,
        updates,
        carried,
        older_bases,
    )
    return aggregate_given(host, given, write_output=write_output, on_step=on_step)


def aggregate_given(
    host: EnclaveHost,
    given: RoundGiven,
    *,
    write_output: Callable[[str, bytes], None],
    on_step: Callable[[str, float], None] = ignore_step,
) -> SignedResult:
    """Do what `aggregate_round` does for what is given of the round."""
    answer = run_request(host, given, AggregateRequest.to_map, write_output=write_output, on_step=on_step)
    return result_of(answer)


def run_request(
    host: EnclaveHost,
    given: RoundGiven,
    ask: Callable[[AggregateRequest], Mapping[str, Any]],
    *,
    range_index: int | None = None,
    write_output: Callable[[str, bytes], None],
    on_step: Callable[[str, float], None] = ignore_step,
) -> dict[str, Any]:
    """Start a sealed process over a round's blobs, ask what `ask` makes of the round, and return the last answer.

    `range_index` is given for what has the record of a range instead of the round's. Raises what the
    process refuses, and `Refusal("enclave-failed")`.
    """
    _allow_open_files(len(given.openers))
    with round_followed("aggregate", given.round_id), ExitStack() as stack:
        descriptors = [_descriptor_of(stack.enter_context(opener()), stack) for opener in given.openers]
        task = EnclaveTask(
            "aggregate",
            given.round_id,
            given.federation_id,
            given.policy.maximum_memory_bytes,
            tuple(descriptors),
            range_index,
            sum(os.fstat(descriptor).st_size for descriptor in descriptors),
        )
        started = time.monotonic()
        process = stack.enter_context(SealedProcess(host, task))
        process.receive("ready")
        _step_ended(on_step, "seal", time.monotonic() - started)
        process.send(ask(given.request(tuple(descriptors))))
        # The new model has the base model's tensors; its header may be longer than one that others wrote.
        held = stack.enter_context(HeldModel(os.fstat(descriptors[BASE_MODEL]).st_size + MAX_HEADER_BYTES))
        return _attend(process, held, write_output, on_step)


def result_of(answer: Mapping[str, Any]) -> SignedResult:
    """Return the signed result that an answer brings. Raises `Refusal("enclave-failed")` where it is another answer."""
    if answer["kind"] != "aggregated":
        raise Refusal("enclave-failed", "The sealed process failed: it gave no result.")
    return SignedResult(answer["result"], answer["verdicts"])


def _attend(
    process: SealedProcess,
    held: HeldModel,
    write_output: Callable[[str, bytes], None],
    on_step: Callable[[str, float], None],
) -> dict[str, Any]:
    """Serve the process until its answer is there."""
    while True:
        message = process.receive("output", "model-key", "step", "aggregated", "said")
        match message["kind"]:
            case "output" if message["name"] == SEALED_MODEL:
                held.take(message["piece"])
            case "output":
                write_output(message["name"], message["piece"])
            case "model-key":
                for piece in held.open(message["key"]):
                    write_output(MODEL, piece)
            case "step":
                _step_ended(on_step, message["name"], message["seconds"])
            case _:
                return message


def _step_ended(on_step: Callable[[str, float], None], name: str, seconds: float) -> None:
    on_step(name, seconds)
    step_ended(name, seconds)


def _descriptor_of(blob: BinaryIO, stack: ExitStack) -> int:
    """Return a blob's descriptor; one that is no file, as a decrypted base model, is copied into memory without a name.

    It must not touch a disk: the model store keeps its models encrypted.
    """
    try:
        return blob.fileno()
    except OSError:
        copy = stack.enter_context(os.fdopen(os.memfd_create("blob"), "w+b"))
        shutil.copyfileobj(blob, copy, COPY_BYTES)
        copy.flush()
        return copy.fileno()


def _allow_open_files(blobs: int) -> None:
    """Raise this process's soft limit of open files where the round's blobs need it.

    Raises `Refusal("enclave-failed")` where the hard limit is below that.
    """
    wanted = len(list(Path("/proc/self/fd").iterdir())) + blobs + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Refusal("enclave-failed", f"The round needs {wanted} open files; this process may open {hard}.")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _command(host: EnclaveHost, task: EnclaveTask, descriptor: int) -> list[str]:
    return [*PROGRAM, *_arguments(host, task), CHANNEL_OPTION, str(descriptor)]


def _arguments(host: EnclaveHost, task: EnclaveTask) -> list[str]:
    """Return the command line of a sealed process but for its channel."""
    options: dict[str, object] = {
        "--host-directory": host.directory.resolve(),
        "--uid": host.uid,
        "--gid": host.gid,
        "--memory-bytes": task.memory_bytes,
        "--cpu-seconds": math.ceil(host.seconds_for(task)),  # one thread uses no more in that time
        "--round": task.round_id.hex(),
        "--federation": task.federation_id.hex(),
        "--parent-pid": os.getpid(),
        "--attester": host.attester,
    }
    if task.range_index is not None:
        options["--range"] = task.range_index
    arguments = [task.mode, *(str(part) for option in options.items() for part in option)]
    for begin in range(0, len(task.blob_descriptors), DESCRIPTORS_PER_ARGUMENT):
        some = task.blob_descriptors[begin : begin + DESCRIPTORS_PER_ARGUMENT]
        arguments += ["--blob-fds", ",".join(map(str, some))]
    return arguments


def _describe(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    return f"signal {-status} ({signal.Signals(-status).name})"
