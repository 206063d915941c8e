"""Rows that a federation carries from round to round under the enclave's seal.

    history/<device id in hex>   the device's exponential average
    centre                       the last aggregate
    momentum, second-moment      the server optimiser's state
    radius                       the clipping radius, one number

Each is a chunked stream of raw little-endian float32 under a key derived from the federation's key,
which never leaves the enclave host, with measurement, policy, name and the key id of the enclave
that made it: other code or another policy opens none of it. Which rows a round was given and which
it left stands in its signed result, so that whoever feeds the enclave an older set, or none, is
seen doing it.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

import blake3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from enclave.core.streams import Blob, Float32, HashedBlob, OpenedStream, RawRow
from qflare_protocol.carried_rows import CarriedRow
from qflare_protocol.chunked import HEADER_BYTES, KEY_BYTES, PREFIX_BYTES, ChunkCipher, ChunkWriter
from qflare_protocol.encoding import frame, label
from qflare_protocol.errors import Refusal

CENTRE, RADIUS = "centre", "radius"


def history_name(device_id: bytes) -> str:
    """Return the name of a device's exponential average."""
    return f"history/{device_id.hex()}"


@dataclass(frozen=True)
class CarriedSeal:
    """What the carried rows of one federation are sealed under: its key (32 bytes), code, policy and federation."""

    federation_key: bytes = field(repr=False)
    measurement: bytes
    policy_digest: bytes
    federation_id: bytes

    def cipher(self, name: str, enclave_key_id: bytes) -> ChunkCipher:
        """Return the cipher of a row that an enclave makes.

        The nonce prefix is fixed: a key belongs to one enclave, whose inputs are committed, so that
        what is sealed again under it is the same row.
        """
        place = (self.measurement, self.policy_digest, self.federation_id, enclave_key_id, name.encode())
        info = frame(label("carried row"), *place)
        key = HKDF(hashes.SHA3_512(), KEY_BYTES, salt=None, info=info).derive(self.federation_key)
        return ChunkCipher(key, bytes(PREFIX_BYTES), b"")

    def open(self, row: CarriedRow, blob: Blob, size: int, scratch: memoryview) -> "CarriedContent":
        """Return a carried row of that many numbers. Raises `Refusal("carried-rows-lost")` under another key."""
        sealed = HashedBlob(blob, row.digest)
        try:
            cipher = self.cipher(row.name, row.enclave_key_id)
            if not hmac.compare_digest(cipher.header, sealed.read(HEADER_BYTES)):
                raise Refusal("decryption-failed", "it was made by other code, under another policy or elsewhere.")
            return CarriedContent(row.name, RawRow(OpenedStream(sealed, cipher, scratch), size))
        except Refusal as refusal:
            raise _lost(row.name, refusal) from None

    def writer(self, name: str, enclave_key_id: bytes, send: Callable[[bytes], None]) -> "CarriedWriter":
        """Return a writer of the row that the enclave leaves."""
        return CarriedWriter(name, enclave_key_id, self.cipher(name, enclave_key_id), send)


class CarriedContent:
    """An open carried row. Whatever is wrong with its bytes is `Refusal("carried-rows-lost")`."""

    def __init__(self, name: str, row: RawRow) -> None:
        self._name, self._row = name, row

    def read_into(self, row: Float32) -> None:
        """Fill the contiguous array with the next elements. Raises `Refusal`."""
        try:
            self._row.read_into(row)
        except Refusal as refusal:
            raise _lost(self._name, refusal) from None

    def finish(self) -> None:
        """Return when the row has ended as it should. Raises `Refusal`."""
        try:
            self._row.finish()
        except Refusal as refusal:
            raise _lost(self._name, refusal) from None


def _lost(name: str, refusal: Refusal) -> Refusal:
    return Refusal("carried-rows-lost", f"The carried row {name} does not open: {refusal.detail}")


class CarriedWriter:
    """Seals a row as it is made, range by range, and gives it out."""

    def __init__(self, name: str, enclave_key_id: bytes, cipher: ChunkCipher, send: Callable[[bytes], None]) -> None:
        self._name, self._enclave_key_id = name, enclave_key_id
        self._send_on = send
        self._hasher = blake3.blake3()
        self._stream = ChunkWriter(cipher, self._send)

    def write(self, values: Float32) -> None:
        """Take the next range of the row."""
        self._stream.write(values.astype("<f4", copy=False).tobytes())

    def finish(self) -> CarriedRow:
        """Seal what is left and return the row's description."""
        self._stream.finish()
        return CarriedRow(self._name, self._enclave_key_id, self._hasher.digest())

    def _send(self, piece: bytes) -> None:
        self._hasher.update(piece)
        self._send_on(piece)
