"""The enclave host directory: secrets that exist on this host alone, readable by the enclave's uid only.

    attestation.key            32-byte ML-DSA-44 seed, signs software evidence
    attestation.pub            its public key, 1312 bytes; all that a courier reads
    rounds/<round id>.key      32 random bytes, wraps the round's private keys
    endorsements/              what operators lay beside hardware evidence: leaf.der, intermediate.der, root.der,
                               collateral.json; nothing secret, each may be absent
    rounds/<round id>.decision digests of the inputs and of the decision of its aggregation (see `DecisionRecord`)
    rounds/<round id>-<n>.decision the same of range n of a model that several processes share
    federations/<id>.key       32 random bytes, seals the rows that a federation carries from round to round

The sealed process opens what it needs before it seals itself and nothing afterwards.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from enclave.core.attesters.interface import Endorsements
from qflare_protocol import pqc
from qflare_protocol.attestation.certificates import MAX_CERTIFICATE_BYTES
from qflare_protocol.attestation.dcap_collateral import MAX_COLLATERAL_BYTES
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM
from qflare_protocol.cose import Signer
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import MAX_RANGES

ROUNDS = "rounds"
FEDERATIONS = "federations"
SEED_BYTES = 32
ATTESTATION_PUBLIC_BYTES = 1312
SEALING_KEY_BYTES = 32
DIGEST_BYTES = 64
RECORD_BYTES = 2 * DIGEST_BYTES


class HostDirectory:
    """The open directory. Everything goes through its descriptor, so that the owner needs no access to its parents."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> "HostDirectory":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)

    def create_attestation_key(self) -> None:
        """Make the host's attestation key and its public file where they do not exist yet.

        The seed is in this process's memory then and only then: once the public file stands, the
        seed is not read again here.
        """
        if self._exists("attestation.pub"):
            return
        if not self._exists("attestation.key"):
            self._write_once("attestation.key", pqc.signature(SIGNATURE_ALGORITHM).generate().private)
        self._write_once("attestation.pub", self.attestation_signer().public, mode=0o644)

    def attestation_public_key(self) -> bytes:
        """Return the public key without touching the seed. Raises `Refusal("enclave-failed")` where there is none."""
        return self._read("attestation.pub", ATTESTATION_PUBLIC_BYTES)

    def attestation_signer(self) -> Signer:
        """Return the host's attestation key. Raises `Refusal("enclave-failed")` where there is none."""
        seed = self._read("attestation.key", SEED_BYTES)
        return Signer(SIGNATURE_ALGORITHM, seed, pqc.signature(SIGNATURE_ALGORITHM).public_key(seed))

    def endorsements(self) -> Endorsements:
        """Return what was laid beside hardware evidence.

        Raises `Refusal("enclave-failed")` for a chain that is not whole, or files that are too long.
        """
        names = ("leaf.der", "intermediate.der", "root.der")
        certificates = [self._optional(f"endorsements/{name}", MAX_CERTIFICATE_BYTES) for name in names]
        present = tuple(certificate for certificate in certificates if certificate is not None)
        if present and len(present) != len(names):
            raise Refusal("enclave-failed", f"The endorsements of the enclave host are {', '.join(names)}, or none.")
        return Endorsements(present, self._optional("endorsements/collateral.json", MAX_COLLATERAL_BYTES))

    def create_sealing_key(self, round_id: bytes) -> bytes:
        """Return the round's sealing key, made when the round has none yet."""
        self._write_once(_key_name(round_id), os.urandom(SEALING_KEY_BYTES))
        return self.sealing_key(round_id)

    def sealing_key(self, round_id: bytes) -> bytes:
        """Return the round's sealing key.

        Raises `Refusal`: "decryption-failed" where it is gone, as for wrapped keys that never open again,
        "enclave-failed" where it is not readable or damaged.
        """
        if not self._exists(_key_name(round_id)):
            raise Refusal("decryption-failed", "The round's sealing key is gone from this enclave host.")
        return self._read(_key_name(round_id), SEALING_KEY_BYTES)

    def federation_key(self, federation_id: bytes) -> bytes:
        """Return the key of the rows that a federation carries, made when it has none yet."""
        name = f"{FEDERATIONS}/{federation_id.hex()}.key"
        if not self._exists(name):
            self._write_once(name, os.urandom(SEALING_KEY_BYTES))
        return self._read(name, SEALING_KEY_BYTES)

    def open_decision(self, round_id: bytes, range_index: int | None = None) -> int:
        """Return a descriptor of the decision record of a round, or of a range, which outlives the process's sealing.

        It is locked until it is closed, and this waits for the lock: of two processes for one round
        the second sees what the first has recorded.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(_decision_name(round_id, range_index), flags, 0o600, dir_fd=self._descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._sync(ROUNDS)
        return descriptor

    def destroy_round_key(self, round_id: bytes) -> None:
        """Overwrite and remove the round's secrets; afterwards its wrapped keys open for nobody.

        The key goes first, durably: a key without its record could be asked for a second decision.
        The overwriting is best effort: a journal or a flash drive may keep old blocks.
        """
        ranges = [_decision_name(round_id, index) for index in range(MAX_RANGES)]
        for name in (_key_name(round_id), _decision_name(round_id), *filter(self._exists, ranges)):
            self._erase(name)
            self._sync(ROUNDS)

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

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

    def _optional(self, name: str, maximum: int) -> bytes | None:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refusal("enclave-failed", f"The enclave host cannot read {name}: {error.strerror}.") from error
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(maximum + 1)
        if len(content) > maximum:
            raise Refusal("enclave-failed", f"{name} on the enclave host is longer than {maximum} bytes.")
        return content

    def _write_once(self, name: str, content: bytes, mode: int = 0o600) -> None:
        """Create the file, whole and durable, when it does not exist yet."""
        temporary = f"{name}.{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, mode, dir_fd=self._descriptor), "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask
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
            file.write(os.urandom(RECORD_BYTES))
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
    """What a round's aggregation rests on and what it decided: two digests of 64 bytes, each written once.

    The inputs' stands before the first update is read, the decision's before anything that follows
    from an update's content leaves, be it the model, the verdicts or a refusal. A successor may only
    have the same inputs and come to the same decision. Without this, whoever feeds the enclave could
    ask about a device's update again and again, each time beside others of his own choice.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def commit_inputs(self, inputs: bytes) -> None:
        """Write the digest of the inputs, or return when the same stands there.

        Raises `Refusal`: "conflict" for another, "enclave-failed" where it cannot be written whole.
        """
        self._commit(inputs, 0, "This round was already begun with other updates and is not aggregated again.")

    def commit_decision(self, decision: bytes) -> None:
        """Write the digest of the decision, or return when the same stands there.

        Raises `Refusal` as `commit_inputs` does.
        """
        self._commit(decision, DIGEST_BYTES, "The round's updates no longer lead to the decision that was recorded.")

    def _commit(self, value: bytes, offset: int, conflict: str) -> None:
        recorded = os.pread(self._descriptor, DIGEST_BYTES, offset)
        if len(recorded) == DIGEST_BYTES:
            if recorded != value:
                raise Refusal("conflict", conflict)
            return
        # Empty, or torn by a crash before anything that it guards was read or left.
        if os.pwrite(self._descriptor, value, offset) != DIGEST_BYTES:
            raise Refusal("enclave-failed", "The enclave host cannot write the round's decision record.")
        os.fsync(self._descriptor)


def initialise_host_directory(path: Path, uid: int, gid: int) -> None:
    """Make the directory (0700) and its attestation key where they do not exist; as root, owned by that uid and gid.

    Calling it again is cheap and reads no secret. The first call makes the attestation key in the
    calling process, which is the enclave worker: it could read the directory anyway.
    """
    for directory in (path, path / ROUNDS, path / FEDERATIONS):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    with HostDirectory(path) as host:
        host.create_attestation_key()
    if os.geteuid() == 0:
        for owned in (path, path / ROUNDS, path / FEDERATIONS, path / "attestation.key", path / "attestation.pub"):
            if owned.exists():  # a lost key is reported where it is needed
                os.chown(owned, uid, gid, follow_symlinks=False)


def attestation_public_key(path: Path) -> bytes:
    """Return the host's ML-DSA-44 attestation public key, whose fingerprint devices pin."""
    with HostDirectory(path) as host:
        return host.attestation_public_key()


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


def _decision_name(round_id: bytes, range_index: int | None = None) -> str:
    of_range = "" if range_index is None else f"-{range_index}"
    return f"{ROUNDS}/{round_id.hex()}{of_range}.decision"
