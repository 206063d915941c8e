import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare_protocol.byte_reader import ByteReader
from qflare_protocol.chunked import (
    CHUNK_BYTES,
    HEADER_BYTES,
    MAX_CHUNKS,
    TAG_BYTES,
    ChunkCipher,
    open_chunks,
    seal_chunks,
    sealed_size,
)
from qflare_protocol.errors import Refusal

KEY = bytes(range(32))
SEALED_CHUNK = CHUNK_BYTES + TAG_BYTES
THREE_CHUNKS = os.urandom(2 * CHUNK_BYTES + 777)


def seal(plaintext, key=KEY, context=b""):
    return b"".join(seal_chunks(key, [plaintext], context=context))


def opened(sealed, key=KEY, context=b""):
    return b"".join(open_chunks(key, [sealed], context=context))


def assert_does_not_open(sealed, **options):
    with pytest.raises(Refusal) as caught:
        opened(sealed, **options)
    assert caught.value.code == "decryption-failed"


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_a_stream_opens_to_what_was_sealed_and_has_the_announced_size(size):
    plaintext = os.urandom(size)
    sealed = seal(plaintext)
    assert len(sealed) == sealed_size(size)
    assert opened(sealed) == plaintext


@given(st.lists(st.integers(1, 700_000), min_size=1, max_size=6), st.lists(st.integers(1, 700_000), min_size=1))
@settings(max_examples=15, deadline=None)
def test_the_sizes_of_the_pieces_do_not_matter(sealing_pieces, opening_pieces):
    plaintext = os.urandom(sum(sealing_pieces))
    source = iter(pieces_of(plaintext, sealing_pieces))
    sealed = b"".join(seal_chunks(KEY, source))
    assert b"".join(open_chunks(KEY, pieces_of(sealed, opening_pieces))) == plaintext


def pieces_of(data, sizes):
    position, pieces = 0, []
    while position < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[position : position + size])
        position += size
    return pieces


def test_no_plaintext_is_released_from_an_altered_chunk():
    sealed = bytearray(seal(THREE_CHUNKS))
    sealed[HEADER_BYTES + SEALED_CHUNK + 5] ^= 1
    released = []
    with pytest.raises(Refusal):
        for chunk in open_chunks(KEY, [bytes(sealed)]):
            released.append(chunk)
    assert b"".join(released) == THREE_CHUNKS[:CHUNK_BYTES]


def test_another_key_or_context_does_not_open():
    sealed = seal(b"update", context=b"round 1")
    assert opened(sealed, context=b"round 1") == b"update"
    assert_does_not_open(sealed, key=bytes(31) + b"\x01", context=b"round 1")
    assert_does_not_open(sealed, context=b"round 2")
    assert_does_not_open(sealed)


@pytest.mark.parametrize("position", [0, 4, 11, HEADER_BYTES - 1, HEADER_BYTES, -1])
def test_a_changed_byte_anywhere_does_not_open(position):
    sealed = bytearray(seal(b"some bytes"))
    sealed[position] ^= 0x80
    assert_does_not_open(bytes(sealed))


def chunks_of(sealed):
    body = sealed[HEADER_BYTES:]
    return sealed[:HEADER_BYTES], [body[i : i + SEALED_CHUNK] for i in range(0, len(body), SEALED_CHUNK)]


@pytest.mark.parametrize(
    "rearranged",
    [
        lambda one, two, three: [two, one, three],
        lambda one, two, three: [one, three],
        lambda one, two, three: [one, two],
        lambda one, two, three: [one],
        lambda one, two, three: [],
        lambda one, two, three: [one, one, two, three],
        lambda one, two, three: [one, two, three, three],
        lambda one, two, three: [one, two, three, b"x"],
        lambda one, two, three: [one, two, three[:-1]],
    ],
)
def test_reordered_dropped_repeated_and_truncated_chunks_do_not_open(rearranged):
    header, chunks = chunks_of(seal(THREE_CHUNKS))
    assert_does_not_open(header + b"".join(rearranged(*chunks)))


def test_a_stream_cut_at_a_chunk_boundary_does_not_open_although_every_chunk_is_whole():
    assert_does_not_open(seal(bytes(2 * CHUNK_BYTES))[: HEADER_BYTES + SEALED_CHUNK])


def test_chunks_of_two_streams_of_one_key_do_not_mix():
    header, _ = chunks_of(seal(b"first"))
    _, chunks = chunks_of(seal(b"second"))
    assert_does_not_open(header + chunks[0])


def test_the_commitment_ties_a_header_to_one_key():
    """Two keys that both open one ciphertext would need one header with two commitments."""
    header = ChunkCipher.fresh(KEY).header
    with pytest.raises(Refusal):
        ChunkCipher.from_header(os.urandom(32), header)


def test_each_chunk_opens_alone_by_its_number():
    header, chunks = chunks_of(seal(THREE_CHUNKS))
    cipher = ChunkCipher.from_header(KEY, header)
    assert cipher.open_chunk(2, chunks[2], last=True) == THREE_CHUNKS[2 * CHUNK_BYTES :]
    assert cipher.open_chunk(1, chunks[1], last=False) == THREE_CHUNKS[CHUNK_BYTES : 2 * CHUNK_BYTES]
    with pytest.raises(Refusal):
        cipher.open_chunk(1, chunks[1], last=True)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), bytes(32)])
def test_a_key_of_another_length_or_of_zeros_is_refused(key):
    with pytest.raises(Refusal) as caught:
        ChunkCipher.fresh(key)
    assert caught.value.code == "invalid-key"


@pytest.mark.parametrize("index", [-1, MAX_CHUNKS])
def test_a_chunk_number_out_of_range_is_refused(index):
    with pytest.raises(Refusal) as caught:
        ChunkCipher.fresh(KEY).seal_chunk(index, b"", last=False)
    assert caught.value.code == "message-too-large"


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(data):
    assert_does_not_open(data)


def test_sealing_reads_its_source_lazily_and_holds_about_one_chunk():
    pulled = []

    def source():
        for index in range(5):
            pulled.append(index)
            yield bytes(CHUNK_BYTES)

    stream = seal_chunks(KEY, source())
    next(stream), next(stream)
    assert len(pulled) <= 2


def test_a_reader_hands_on_what_is_left():
    reader = ByteReader([b"abc", b"", b"def"], what="test")
    assert reader.read(2) == b"ab"
    assert list(reader.pieces()) == [b"c", b"def"]
    assert reader.at_end()
    with pytest.raises(Refusal) as caught:
        reader.read(1)
    assert caught.value.code == "malformed-message"
