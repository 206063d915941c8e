"""`python -m bench.sealing`: sealed requests and chunked streams beside the bare primitives they are made of."""

import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.measuring import interleaved_medians
from bench.report import Figure, parse_options, show
from qflare_protocol.chunked import CHUNK_BYTES, open_chunks, seal_chunks
from qflare_protocol.sealed_request import MessageNumber, RequestOpener, Target, new_salt, seal_request

REPETITIONS = 200
REQUEST_BYTES = 64 * 1024
STREAM_CHUNKS = 1600
STREAM_REPETITIONS = 15

LEAST_REQUEST_SHARE, LEAST_STREAM_SHARE = 0.6, 0.5
"""Of the bare primitives' throughput."""

Cases = dict[str, Callable[[], object]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse_options(__doc__, arguments, repetitions=REPETITIONS)
    figures = [*measure_requests(options.repetitions), *measure_streams(min(options.repetitions, STREAM_REPETITIONS))]
    notes = [
        f"A request may take 1/{LEAST_REQUEST_SHARE} of the reference's time, a stream 1/{LEAST_STREAM_SHARE}.",
        "Own primitives: HKDF-Expand, AES-256-GCM, and for opening SHA3-512 of the authenticated data (256 bytes).",
        "AES-256-GCM with hash: AES-256-GCM and SHA3-512, both over the whole body, which QF/1 has no need to hash.",
    ]
    show("Sealing", figures, as_json=options.json, notes=notes)


def measure_requests(repetitions: int) -> list[Figure]:
    """Return figures for sealing and opening a request of 64 KiB."""
    traffic_key, body = secrets.token_bytes(32), secrets.token_bytes(REQUEST_BYTES)
    target = Target("POST", "/api/submit_model", "application/cbor", len(body))

    def seal() -> tuple[object, bytes]:
        number = MessageNumber(bytes(16), generation=0, epoch=5_900_000, sequence=1, salt=new_salt())
        return seal_request(traffic_key, number, target, body)

    authorization, sealed = seal()

    def open_() -> bytes:
        opener = RequestOpener(traffic_key, authorization, target)
        plaintext = opener.update(sealed)
        opener.finish()
        return plaintext

    seconds = interleaved_medians(
        {"seal": seal, "open": open_, **_bare_request(traffic_key, body)}, repetitions=repetitions
    )
    limit = 1 / LEAST_REQUEST_SHARE
    return [
        Figure(f"{verb} a request of 64 KiB", seconds[verb], reference, seconds[reference], limit)
        for verb in ("seal", "open")
        for reference in (f"own primitives, {verb}", "AES-256-GCM with hash")
    ]


def _bare_request(key: bytes, body: bytes) -> Cases:
    """Return the primitives alone, on inputs of the sizes that the protocol's own have."""
    info = aad = bytes(256)
    nonce = bytes(12)
    sealed = AESGCM(key).encrypt(nonce, body, aad)

    def expand() -> bytes:
        return hmac.digest(key, info, hashlib.sha3_512)[:44]

    def seal() -> bytes:
        return AESGCM(expand()[:32]).encrypt(nonce, body, aad)

    def open_() -> bytes:
        expand()
        hashlib.sha3_512(aad).digest()
        return AESGCM(key).decrypt(nonce, sealed, aad)

    def seal_and_hash() -> tuple[bytes, bytes]:
        return AESGCM(key).encrypt(nonce, body, aad), hashlib.sha3_512(body).digest()

    return {"own primitives, seal": seal, "own primitives, open": open_, "AES-256-GCM with hash": seal_and_hash}


def measure_streams(repetitions: int, chunks: int = STREAM_CHUNKS) -> list[Figure]:
    """Return figures for sealing and opening a stream of so many chunks of 64 KiB."""
    key, data = secrets.token_bytes(32), memoryview(secrets.token_bytes(chunks * CHUNK_BYTES))
    pieces = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    aead, nonce, header = AESGCM(key), bytes(12), bytes(43)
    sealed_stream = list(seal_chunks(key, pieces))
    sealed_pieces = [aead.encrypt(nonce, piece, header) for piece in pieces]
    cases: Cases = {
        "seal": lambda: _drain(seal_chunks(key, pieces)),
        "AES-256-GCM encrypt": lambda: _drain(aead.encrypt(nonce, piece, header) for piece in pieces),
        "open": lambda: _drain(open_chunks(key, sealed_stream)),
        "AES-256-GCM decrypt": lambda: _drain(aead.decrypt(nonce, piece, header) for piece in sealed_pieces),
        "BLAKE3": lambda: blake3(data).digest(),
    }
    seconds = interleaved_medians(cases, repetitions=repetitions, seconds_each=10.0)
    size, limit = f"{chunks * CHUNK_BYTES >> 20} MiB", 1 / LEAST_STREAM_SHARE
    encrypt, decrypt = "AES-256-GCM encrypt", "AES-256-GCM decrypt"
    return [
        Figure(f"seal a stream of {size}", seconds["seal"], encrypt, seconds[encrypt], limit),
        Figure(f"open a stream of {size}", seconds["open"], decrypt, seconds[decrypt], limit),
        Figure(f"BLAKE3 of {size}", seconds["BLAKE3"], encrypt, seconds[encrypt]),
    ]


def _drain(pieces: Iterable[bytes]) -> None:
    """Take each piece and let it go, as a file or a socket would."""
    deque(pieces, maxlen=0)


if __name__ == "__main__":
    main()
