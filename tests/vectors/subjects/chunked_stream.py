"""Chunked streams of several lengths, and streams that were tampered with.

Chunks are 1 MiB, so the longer streams stand here by their digests: byte i of a plaintext is i mod 251.
`pieces` names a tampered stream by ranges of bytes of the whole one.
"""

from typing import Any

from blake3 import blake3

from qflare_protocol.chunked import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, ChunkCipher, open_chunks
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

KEY, PREFIX, CONTEXT = bytes(range(32)), bytes(range(7)), b"model version"
LENGTHS = (0, 1, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 777)
SEALED_CHUNK = CHUNK_BYTES + TAG_BYTES
SHOWN_BYTES = 2000


def make() -> VectorFile:
    """Make the file."""
    cases = [_stream(length) for length in LENGTHS]
    purpose = "Streams with header, first and last chunk; streams above 2000 bytes by their BLAKE3 digest."
    return VectorFile(purpose, "11.1 Chunked stream", cases, _refusals(cases))


def _stream(length: int) -> Case:
    plaintext, info = plaintext_of(length), {"label": "chunked stream", "inputs": ["prefix", "context"]}
    values = {"key": KEY, "prefix": PREFIX, "context": CONTEXT, "plaintext_bytes": length, "magic": b"QF1S"}
    case = Case(f"{length} bytes", values | {"plaintext_blake3": blake3(plaintext).digest()})
    case.step("labelled frame", "info", **info)
    case.step("HKDF-SHA3-512", "material", key="key", info="info", length=64)
    case.step("slice", "aead_key", input="material", begin=0, end=32)
    case.step("slice", "commitment", input="material", begin=32, end=64)
    case.step("concatenate", "header", inputs=["magic", "prefix", "commitment"])
    if length <= SHOWN_BYTES:
        case.values |= {"plaintext": plaintext, "nonce_0": PREFIX + bytes(4) + b"\x01"}
        sealing = {"key": "aead_key", "nonce": "nonce_0", "plaintext": "plaintext", "aad": "header"}
        case.step("AES-256-GCM", "chunk_0", **sealing)
        case.step("concatenate", "stream", inputs=["header", "chunk_0"])
    stream = _whole(case.values)
    tags = [_tag(stream, end) for end in [*range(HEADER_BYTES + SEALED_CHUNK, len(stream), SEALED_CHUNK), len(stream)]]
    case.values |= {"stream_bytes": len(stream), "stream_blake3": blake3(stream).digest(), "tags": tags}
    return case


def _tag(stream: bytes, end: int) -> bytes:
    return stream[end - TAG_BYTES : end]


def plaintext_of(length: int) -> bytes:
    """Return the plaintext of that length."""
    pattern = bytes(range(251))
    return (pattern * (length // len(pattern) + 1))[:length]


def _whole(values: dict[str, Any]) -> bytes:
    """Return the whole stream, sealed anew: with its prefix given nothing about it is random."""
    plaintext = plaintext_of(values["plaintext_bytes"])
    cipher = ChunkCipher(values["key"], values["prefix"], values["context"])
    starts = range(0, max(1, len(plaintext)), CHUNK_BYTES)
    chunks = [plaintext[start : start + CHUNK_BYTES] for start in starts]
    sealed = [cipher.seal_chunk(index, chunk, last=index == len(chunks) - 1) for index, chunk in enumerate(chunks)]
    return cipher.header + b"".join(sealed)


def _refusals(cases: list[Case]) -> list[Refused]:
    small, two, three = cases[2], cases[5], cases[6]
    first, second = HEADER_BYTES + SEALED_CHUNK, HEADER_BYTES + 2 * SEALED_CHUNK
    end = three.values["stream_bytes"]
    head = f"0:{HEADER_BYTES}"
    cut = (
        ("cut within the header", small, f"0:{HEADER_BYTES - 1}"),
        ("without any chunk", small, head),
        ("cut within the only chunk", small, f"0:{small.values['stream_bytes'] - 1}"),
        ("one byte more", small, f"0:{small.values['stream_bytes']},0:1"),
        ("cut after the first of two chunks", two, f"0:{first}"),
        ("first and second chunk exchanged", three, f"{head},{first}:{second},{HEADER_BYTES}:{first},{second}:{end}"),
        ("the second of three chunks left out", three, f"0:{first},{second}:{end}"),
        ("the last of three chunks left out", three, f"0:{second}"),
        ("the last chunk twice", three, f"0:{end},{second}:{end}"),
    )
    refusals = [_refused(name, case, {"pieces": pieces}) for name, case, pieces in cut]
    stream = small.values["stream"]
    for name, position in (("magic", 0), ("prefix", 4), ("commitment", 11), ("ciphertext", 43), ("tag", -1)):
        changed = bytearray(stream)
        changed[position] ^= 1
        refusals.append(_refused(f"one bit of the {name} changed", small, {"stream": bytes(changed)}))
    refusals.append(_refused("another key", small, {"key": KEY[::-1]}))
    refusals.append(_refused("another context", small, {"context": b"model"}))
    refusals.append(Refused("a key of zeros", "reader", "invalid-key", {"key": bytes(32)}, of=small.name))
    return refusals


def _refused(name: str, case: Case, replaces: dict[str, Any]) -> Refused:
    return Refused(name, "reader", "decryption-failed", replaces, of=case.name)


def _write(values: dict[str, Any]) -> None:
    stream = _whole(values)
    assert (len(stream), blake3(stream).digest()) == (values["stream_bytes"], values["stream_blake3"])
    assert stream.startswith(values["header"])
    assert stream == values.get("stream", stream)
    ends = [*range(HEADER_BYTES + SEALED_CHUNK, len(stream), SEALED_CHUNK), len(stream)]
    assert [_tag(stream, end) for end in ends] == values["tags"]


def _read(values: dict[str, Any]) -> None:
    stream = values["stream"] if "stream" in values else _whole(values)
    ranges = [map(int, piece.split(":")) for piece in values.get("pieces", f"0:{len(stream)}").split(",")]
    pieces = [stream[begin:end] for begin, end in ranges]
    plaintext = b"".join(bytes(chunk) for chunk in open_chunks(values["key"], pieces, context=values["context"]))
    assert blake3(plaintext).digest() == values["plaintext_blake3"]
    assert plaintext == values.get("plaintext", plaintext) == plaintext_of(values["plaintext_bytes"])


RECEIVERS: dict[str, Receiver] = {"writer": _write, "reader": _read}
