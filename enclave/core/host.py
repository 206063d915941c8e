"""The enclave host directory: secrets that exist on this host alone, readable by the enclave's uid only.

    attestation.key            32-byte ML-DSA-44 seed, signs software evidence
    rounds/<round id>.key      32 random bytes, wraps the round's private keys
    rounds/<round id>.decision the digest of what the round's aggregation decided (see `DecisionRecord`)

The sealed process opens what it needs before it seals itself and nothing afterwards.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qflare_protocol import pqc
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM
from qflare_protocol.cose import Signer
from qflare_protocol.errors import Refusal

ROUNDS = "rounds"
SEED_BYTES = 32
SEALING_KEY_BYTES = 32
DECISION_BYTES = 64


class HostDirectory:
    """The open directory. Everything goes through its descriptor, so that the owner needs no access to its parents."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> "HostDirectory":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)

    def create_attestation_key(self) -> None:
        """Make the host's attestation key when it has none yet."""
        self._write_once("attestation.key", pqc.signature(SIGNATURE_ALGORITHM).generate().private)

    def attestation_signer(self) -> Signer:
        """Return the host's attestation key. Raises `Refusal("enclave-failed")` where there is none."""
        seed = self._read("attestation.key", SEED_BYTES)
        return Signer(SIGNATURE_ALGORITHM, seed, pqc.signature(SIGNATURE_ALGORITHM).public_key(seed))

    def create_sealing_key(self, round_id: bytes) -> bytes:
        """Return the round's sealing key, made when the round has none yet."""
        self._write_once(_key_name(round_id), os.urandom(SEALING_KEY_BYTES))
        return self.sealing_key(round_id)

    def sealing_key(self, round_id: bytes) -> bytes:
        """Return the round's sealing key. Raises `Refusal("enclave-failed")` where it is gone."""
        return self._read(_key_name(round_id), SEALING_KEY_BYTES)

    def open_decision(self, round_id: bytes) -> int:
        """Return a descriptor of the round's decision record, which outlives the sealing of the process."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(_decision_name(round_id), flags, 0o600, dir_fd=self._descriptor)

    def destroy_round_key(self, round_id: bytes) -> None:
        """Overwrite and remove the round's secrets; afterwards its wrapped keys open for nobody.

        The overwriting is best effort: a journal or a flash drive may keep old blocks.
        """
        self._erase(_key_name(round_id))
        self._erase(_decision_name(round_id))
        self._sync(ROUNDS)

    def _read(self, name: str, size: int) -> bytes:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._descriptor)
        except OSError as error:
            raise Refusal("enclave-failed", f"The enclave host cannot read {name}: {error.strerror}.") from error
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(size + 1)
        if len(content) != size:
            raise Refusal("enclave-failed", f"{name} on the enclave host does not have {size} bytes.")
        return content

    def _write_once(self, name: str, content: bytes) -> None:
        """Create the file, whole and durable, when it does not exist yet."""
        temporary = f"{name}.{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=self._descriptor), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        os.unlink(temporary, dir_fd=self._descriptor)
        self._sync(str(Path(name).parent))

    def _erase(self, name: str) -> None:
        try:
            descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._descriptor)
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(DECISION_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.unlink(name, dir_fd=self._descriptor)

    def _sync(self, subdirectory: str) -> None:
        descriptor = os.open(subdirectory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._descriptor)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class DecisionRecord:
    """What a round's aggregation decided, written once before the first byte of the new model leaves.

    A successor may only come to the same decision. Without this, whoever feeds the enclave could
    have the round aggregated twice, with and without one device, and subtract.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def commit(self, decision: bytes) -> None:
        """Write the 64-byte decision, or return when the same stands there. Raises `Refusal("conflict")`."""
        recorded = os.pread(self._descriptor, DECISION_BYTES, 0)
        if len(recorded) < DECISION_BYTES:  # empty, or torn by a crash before anything left the enclave
            os.pwrite(self._descriptor, decision, 0)
            os.fsync(self._descriptor)
        elif recorded != decision:
            raise Refusal("conflict", "This round was already aggregated from other updates and is not again.")


def initialise_host_directory(path: Path, uid: int, gid: int) -> None:
    """Make the directory (0700) and its attestation key where they do not exist; as root, owned by that uid and gid."""
    for directory in (path, path / ROUNDS):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    with HostDirectory(path) as host:
        host.create_attestation_key()
    if os.geteuid() == 0:
        for owned in (path, path / ROUNDS, path / "attestation.key"):
            os.chown(owned, uid, gid)


def attestation_public_key(path: Path) -> bytes:
    """Return the host's ML-DSA-44 attestation public key, whose fingerprint devices pin."""
    with HostDirectory(path) as host:
        return host.attestation_signer().public


def destroy_round_key(path: Path, round_id: bytes) -> None:
    """Remove the round's secrets from the host directory; doing it again changes nothing."""
    with HostDirectory(path) as host:
        host.destroy_round_key(round_id)


@contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Take the effective uid and gid for a moment where this process is root; else change nothing.

    It changes all threads of the process, so only the single-threaded enclave process uses it.
    """
    if os.geteuid() != 0:
        yield
        return
    former_gid = os.getegid()
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(former_gid)


def _key_name(round_id: bytes) -> str:
    return f"{ROUNDS}/{round_id.hex()}.key"


def _decision_name(round_id: bytes) -> str:
    return f"{ROUNDS}/{round_id.hex()}.decision"
