"""The file of a backup: a tar of members, sealed to the public keys of those who may restore it.

Magic "QF1B" || number of recipients (1 byte) || for each: fingerprint (32) || sealed content key (1713) ||
chunked stream (`qflare_protocol.chunked`) of the tar. Each content key is sealed by HPKE
(MLKEM1024-P384) to one recipient, so a host that makes backups can open none of them, nor can who
records them today and has a quantum computer later.
"""

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from keyring.custodians import Custodian
from qflare_protocol import hpke
from qflare_protocol.byte_reader import ByteReader
from qflare_protocol.chunked import KEY_BYTES, ChunkCipher, ChunkWriter, open_chunks
from qflare_protocol.cose import key_fingerprint
from qflare_protocol.encoding import digest, label
from qflare_protocol.errors import Refusal

MAGIC = b"QF1B"
FINGERPRINT_BYTES = 32
SEALED_KEY_BYTES = KEY_BYTES + hpke.OVERHEAD_BYTES
MAX_RECIPIENTS = 16
COPY_BYTES = 1 << 20
_INFO = label("backup content key")


class BackupError(Exception):
    """What stops a backup or a restoration, in a sentence for the operator."""


class ArchiveWriter:
    """Adds members to an archive, one after another."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def add(self, name: str, content: bytes) -> None:
        """Add a member."""
        self.add_file(name, io.BytesIO(content), len(content))

    def add_file(self, name: str, content: IO[bytes], size: int) -> None:
        """Add a member of exactly that many bytes. Raises `BackupError` where the file is shorter."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o600
        try:
            self._tar.addfile(member, content)
        except OSError as error:
            raise BackupError(f"{name} could not be read whole; take the backup again.") from error


@contextmanager
def written_archive(path: Path, recipients: Sequence[Custodian]) -> Iterator[ArchiveWriter]:
    """Write a new archive; it stands under its name only when it is complete and on disk.

    Raises `BackupError` for no recipient or too many, and where the file exists.
    """
    if not 1 <= len(recipients) <= MAX_RECIPIENTS:
        raise BackupError(f"A backup is sealed to 1 to {MAX_RECIPIENTS} public keys.")
    if path.exists():
        raise BackupError(f"{path} exists already; choose another name.")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            content_key = os.urandom(KEY_BYTES)
            header = _header(content_key, recipients)
            file.write(header)
            sealed = ChunkWriter(ChunkCipher.fresh(content_key, _context(header)), lambda piece: _put(file, piece))
            with tarfile.open(mode="w|", fileobj=sealed, bufsize=COPY_BYTES) as tar:  # type: ignore[call-overload]
                yield ArchiveWriter(tar)
            sealed.finish()
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)  # unlike a rename, it never replaces another file
    finally:
        draft.unlink(missing_ok=True)


def read_archive(path: Path, private_key: bytes) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield every member's name and content, to be read before the next is asked for.

    Only when it has ended it is known that nothing was cut off.

    Raises `BackupError` for a file that is no backup, is sealed to other keys, or is damaged.
    """
    try:
        with path.open("rb") as file:
            reader = ByteReader(iter(lambda: file.read(COPY_BYTES), b""), what="backup")
            content_key, context = _content_key(reader, private_key)
            plaintext = ByteReader(open_chunks(content_key, reader.pieces(), context=context), what="backup")
            with tarfile.open(mode="r|", fileobj=_TarSource(plaintext), bufsize=COPY_BYTES) as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    if content is None:
                        raise BackupError(f"{path} is damaged: {member.name} is no file.")
                    yield member.name, content
            for _ in plaintext.pieces():
                pass
    except Refusal as refusal:
        raise BackupError(f"{path} does not open: {refusal.detail}") from refusal
    except tarfile.TarError as error:
        raise BackupError(f"{path} is damaged.") from error
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}.") from error


class _TarSource:
    """What `tarfile` reads a stream from."""

    def __init__(self, reader: ByteReader) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        buffer = memoryview(bytearray(size))
        return bytes(buffer[: self._reader.read_up_to(buffer)])


def _put(file: IO[bytes], piece: bytes) -> None:
    file.write(piece)


def _context(header: bytes) -> bytes:
    return digest("backup header", header)


def _header(content_key: bytes, recipients: Sequence[Custodian]) -> bytes:
    sealed = [one.fingerprint + hpke.seal(one.public_key, content_key, info=_INFO) for one in recipients]
    return MAGIC + len(recipients).to_bytes(1, "big") + b"".join(sealed)


def _content_key(reader: ByteReader, private_key: bytes) -> tuple[bytes, bytes]:
    """Return the content key and the stream's context, which is the header."""
    start = reader.read(len(MAGIC) + 1)
    if not start.startswith(MAGIC):
        raise Refusal("malformed-message", "it is not a backup of QFLARE.")
    rest = reader.read(start[-1] * (FINGERPRINT_BYTES + SEALED_KEY_BYTES))
    wanted = key_fingerprint("MLKEM1024-P384", hpke.public_key(private_key))
    for place in range(0, len(rest), FINGERPRINT_BYTES + SEALED_KEY_BYTES):
        fingerprint = rest[place : place + FINGERPRINT_BYTES]
        if fingerprint == wanted:
            sealed = rest[place + FINGERPRINT_BYTES : place + FINGERPRINT_BYTES + SEALED_KEY_BYTES]
            return hpke.open_sealed(private_key, sealed, info=_INFO), _context(start + rest)
    raise Refusal("decryption-failed", "it is sealed to other keys than this one.")
