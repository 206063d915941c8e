"""What rounding took from a device's updates, kept for the next one: error feedback.

Whatever a form of few bits leaves out of an update is added to the next update before it is rounded, so that nothing
is lost for good (Seide, Fu, Droppo, Li, Yu: 1-Bit Stochastic Gradient Descent, Interspeech 2014; Karimireddy, Rebjock,
Stich, Jaggi: Error Feedback Fixes SignSGD, ICML 2019). One file for each federation, in the device's home folder, read
and written block by block. It belongs to one policy and one number of columns: under another it is begun anew.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from edge_client.storage import sync_folder
from qflare_protocol.tensors import Float32Array, Tensor, TensorLayout, encode_header
from qflare_protocol.update_codings import Coding


class RoundingRest:
    """The rest of one federation; between `with` and `commit` a new one is written beside the old.

    Begin one for each update that is made. `commit`, after the update is kept, keeps the new rest with it; only the
    update's receipt puts it in the old one's place (`rest_was_delivered`). What is sealed once more before its receipt
    takes the old rest along again. A receipt is final: where its round begins anew and the update is lost with the
    enclave's key, what it had taken from the rest is lost with it, and the next update takes the new rest along.
    """

    def __init__(self, home: Path, federation_id: bytes, policy_digest: bytes, columns: int) -> None:
        self._path = _rest_of(home, federation_id)
        self._draft, self._pending = self._path.with_name(f".{self._path.name}.draft"), _pending(self._path)
        layout = TensorLayout((Tensor(f"rest {policy_digest.hex()}", "F32", (columns,)),))
        self._header, self._size = encode_header(layout), layout.container_bytes

    def __enter__(self) -> "RoundingRest":
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._old = self._opened()
        descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._new = os.fdopen(descriptor, "wb")
        self._new.write(self._header)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._new.close()
        if self._old is not None:
            self._old.close()
        self._draft.unlink(missing_ok=True)

    def coded(self, values: Float32Array, coding: Coding) -> bytes:
        """Return the bytes of the next (w,) values and the rest before them; raises as `coding.encode` does."""
        wanted = values + self._rest(len(values))
        coded = coding.encode(wanted)
        written = np.empty_like(wanted)
        coding.decode(np.frombuffer(coded, dtype=np.uint8), written)
        self._new.write((wanted - written).astype("<f4").tobytes())
        return coded

    def commit(self) -> None:
        """Keep the new rest until the update's receipt has come, durably."""
        self._new.flush()
        os.fsync(self._new.fileno())
        self._draft.replace(self._pending)
        sync_folder(self._path.parent)

    def _opened(self) -> IO[bytes] | None:
        """Return the old rest after its header, or None where there is none for this policy and these columns."""
        if not self._path.exists() or self._path.stat().st_size != self._size:
            return None
        file = self._path.open("rb")
        if file.read(len(self._header)) == self._header:
            return file
        file.close()
        return None

    def _rest(self, width: int) -> Float32Array:
        """Return the rest of the next values; of what a damaged file holds, nothing that is no number."""
        if self._old is None:
            return np.zeros(width, dtype=np.float32)
        rest = np.frombuffer(self._old.read(4 * width), dtype="<f4").astype(np.float32)
        return rest if np.isfinite(rest).all() else np.zeros(width, dtype=np.float32)


def rest_was_delivered(home: Path, federation_id: bytes) -> None:
    """Put the rest of the update that was acknowledged in the place of the one before; harmless where there is none."""
    path = _rest_of(home, federation_id)
    if _pending(path).exists():
        _pending(path).replace(path)
        sync_folder(home)


def _rest_of(home: Path, federation_id: bytes) -> Path:
    return home / f"rounding-rest.{federation_id.hex()}"


def _pending(path: Path) -> Path:
    return path.with_name(f"{path.name}.pending")
