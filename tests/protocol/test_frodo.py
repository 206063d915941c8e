"""FrodoKEM-640-AES agrees with the official known answers and never lets a bad ciphertext show."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qflare_protocol import pqc
from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import frodo

VECTORS = Path(os.environ.get("QFLARE_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
SALTED = VECTORS / "frodo" / "FrodoKEM-640-AES.salted-ISO2023.PQCkemKAT_19888.first5.rsp"
EPHEMERAL = VECTORS / "frodo" / "eFrodoKEM-640-AES.ephemeral-NISTr3.PQCkemKAT_19888.first5.rsp"


class NistDrbg:
    """The AES-256-CTR DRBG without derivation function that seeds the official answers (SP 800-90A)."""

    def __init__(self, entropy: bytes) -> None:
        self._key, self._counter = bytes(32), 0
        self._update(entropy)

    def _keystream(self, size: int) -> bytes:
        encryptor = Cipher(algorithms.AES256(self._key), modes.ECB()).encryptor()  # noqa: S305 - as SP 800-90A says
        blocks = []
        for _ in range(-(-size // 16)):
            self._counter = (self._counter + 1) % (1 << 128)
            blocks.append(encryptor.update(self._counter.to_bytes(16, "big")))
        return b"".join(blocks)[:size]

    def _update(self, provided: bytes) -> None:
        mixed = bytes(a ^ b for a, b in zip(self._keystream(48), provided, strict=True))
        self._key, self._counter = mixed[:32], int.from_bytes(mixed[32:], "big")

    def random(self, size: int) -> bytes:
        output = self._keystream(size)
        self._update(bytes(48))
        return output


def records(path: Path) -> Iterator[dict[str, bytes]]:
    if not path.exists():
        pytest.skip(f"known answers are not at {path}")
    for chunk in path.read_text().split("count = ")[1:]:
        fields = dict(line.split(" = ") for line in chunk.splitlines()[1:] if " = " in line)
        yield {name: bytes.fromhex(value) for name, value in fields.items()}


def test_the_official_known_answers_are_met_byte_for_byte() -> None:
    count = 0
    for record in records(SALTED):
        drbg = NistDrbg(record["seed"])
        pair = frodo.generate_from(drbg.random(frodo.KEY_RANDOMNESS_BYTES))
        assert pair.public == record["pk"]
        assert pair.private == record["sk"]
        secret, ciphertext = frodo.encapsulate_from(pair.public, drbg.random(frodo.ENCAPSULATION_RANDOMNESS_BYTES))
        assert ciphertext == record["ct"]
        assert secret == record["ss"] == frodo.decapsulate(pair.private, ciphertext)
        count += 1
    assert count == 5


def test_the_unsalted_variant_of_the_same_name_is_refused_by_its_length() -> None:
    algorithm = pqc.kem("FrodoKEM-640-AES")
    for record in records(EPHEMERAL):
        with pytest.raises(Refusal) as refused:
            algorithm.decapsulate(record["sk"], record["ct"])
        assert refused.value.code == "malformed-message"


def test_sizes_are_those_of_the_salted_standard() -> None:
    algorithm = pqc.kem("FrodoKEM-640-AES")
    sizes = (algorithm.public_key_bytes, algorithm.private_key_bytes, algorithm.ciphertext_bytes)
    assert (*sizes, algorithm.shared_secret_bytes) == (9616, 19888, 9752, 16)
    pair = algorithm.generate()
    secret, ciphertext = algorithm.encapsulate(pair.public)
    assert (len(pair.public), len(pair.private), len(ciphertext), len(secret)) == (9616, 19888, 9752, 16)


@pytest.mark.parametrize("position", [0, 5000, 9599, 9600, 9719, 9720, 9751])
def test_a_changed_ciphertext_gives_another_secret_and_no_error(position: int) -> None:
    pair = frodo.generate_from(bytes(range(64)))
    secret, ciphertext = frodo.encapsulate_from(pair.public, bytes(range(48)))
    changed = bytearray(ciphertext)
    changed[position] ^= 1
    other = frodo.decapsulate(pair.private, bytes(changed))
    assert other != secret
    assert other == hashlib.shake_128(bytes(changed) + pair.private[:16]).digest(16)


def test_another_key_gives_another_secret() -> None:
    secret, ciphertext = frodo.encapsulate_from(frodo.generate_from(bytes(64)).public, bytes(48))
    assert frodo.decapsulate(frodo.generate_from(bytes([1]) * 64).private, ciphertext) != secret


def test_each_encapsulation_is_fresh() -> None:
    algorithm = pqc.kem("FrodoKEM-640-AES")
    public = algorithm.generate().public
    assert algorithm.encapsulate(public)[1] != algorithm.encapsulate(public)[1]


def test_a_public_key_with_an_all_zero_matrix_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        frodo.encapsulate_from(bytes(range(16)) + bytes(9600), bytes(48))
    assert refused.value.code == "invalid-key"


@pytest.mark.parametrize("rows", [8, 640])
def test_packing_is_inverted_by_unpacking(rows: int) -> None:
    columns = 640 // rows * 8 if rows == 640 else 8
    matrix = np.random.default_rng(7).integers(0, 1 << 15, (rows, columns)).astype(np.float64)
    assert np.array_equal(frodo._unpack(frodo._pack(matrix), rows), matrix)


def test_decoding_tolerates_noise_up_to_half_a_step() -> None:
    u = bytes(range(100, 116))
    encoded = frodo._encode(u)
    assert frodo._decode(encoded + 4095) == u == frodo._decode(encoded - 4096)
    assert frodo._decode(encoded + 4096) != u


def test_noise_stays_within_twelve_and_is_centred() -> None:
    noise = frodo._noise(0x5F, bytes(32), 100_000)
    assert np.abs(noise).max() <= 12
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 2.8) < 0.05


def test_the_float_product_is_exact() -> None:
    a = frodo._matrix_a(bytes(16))
    s = np.full((640, 8), 12.0)
    exact = a.astype(np.int64) @ s.astype(np.int64)
    assert np.array_equal((a @ s).astype(np.int64), exact)


def test_selection_returns_the_first_only_when_the_condition_holds() -> None:
    assert frodo._select(True, b"\x01\xff", b"\x02\x00") == b"\x01\xff"
    assert frodo._select(False, b"\x01\xff", b"\x02\x00") == b"\x02\x00"


def test_randomness_of_the_wrong_length_is_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match="expected 64 bytes"):
        frodo.generate_from(bytes(63))
