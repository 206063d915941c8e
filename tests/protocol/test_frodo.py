"""All three FrodoKEM agree with the official known answers and never let a bad ciphertext show."""

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
from qflare_protocol.pqc.algorithms import KEMS
from qflare_protocol.pqc.interface import EngineUnavailable
from tests.protocol.engines import kem_by, kem_engines

VECTORS = Path(os.environ.get("QFLARE_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
SALTED = VECTORS / "frodo" / "FrodoKEM-640-AES.salted-ISO2023.PQCkemKAT_19888.first5.rsp"
NAMES = tuple(frodo.PARAMETERS)
# SHA-256 of the first record (the seed of the official file, pk, sk, ct, ss) as liboqs 0.16 lists it in
# tests/KATs/kem/kats.json; it is the first record of microsoft/PQCrypto-LWEKE's salted KAT files.
FIRST_RECORDS = {
    "FrodoKEM-640-AES": "8ce8c56597888db8bebc27854a48444c504bdecf80599e11d03372f582adb900",
    "FrodoKEM-976-AES": "b0a421f4a94706bb1b124cc7d8acaffe194731f6c3d76a378c078749626fe47d",
    "FrodoKEM-1344-AES": "181fd24bb8f6b0ceb753f377e84ef8c6c376ac195ea0e6de432f20a89048527a",
}
FRODO640 = frodo.serve_kem("FrodoKEM-640-AES")
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


def generated(engine: frodo.Frodo, drbg: NistDrbg) -> dict[str, bytes]:
    parameters = engine.parameters
    pair = engine.generate_from(drbg.random(parameters.key_randomness_bytes))
    secret, ciphertext = engine.encapsulate_from(pair.public, drbg.random(parameters.encapsulation_randomness_bytes))
    return {"pk": pair.public, "sk": pair.private, "ct": ciphertext, "ss": secret}


@pytest.mark.parametrize("name", NAMES)
def test_the_first_official_known_answer_is_met_byte_for_byte(name: str) -> None:
    seed = NistDrbg(bytes(range(48))).random(48)
    record = {"seed": seed} | generated(frodo.serve_kem(name), NistDrbg(seed))
    lines = ["count = 0"] + [f"{field} = {value.hex().upper()}" for field, value in record.items()]
    assert hashlib.sha256("\n".join([*lines, ""]).encode()).hexdigest() == FIRST_RECORDS[name]


def test_the_official_known_answers_are_met_byte_for_byte() -> None:
    count = 0
    for record in records(SALTED):
        assert generated(FRODO640, NistDrbg(record["seed"])) == {
            name: record[name] for name in ("pk", "sk", "ct", "ss")
        }
        count += 1
    assert count == 5


@pytest.mark.parametrize(("engine", "name"), kem_engines(["FrodoKEM-640-AES"]))
def test_every_engine_opens_the_official_ciphertexts(engine: str, name: str) -> None:
    for record in records(SALTED):
        assert kem_by(engine, name).decapsulate(record["sk"], record["ct"]) == record["ss"]


@pytest.mark.parametrize(("engine", "name"), kem_engines(NAMES))
def test_every_engine_opens_what_the_official_randomness_gives(engine: str, name: str) -> None:
    record = generated(frodo.serve_kem(name), NistDrbg(bytes(range(48))))
    assert kem_by(engine, name).decapsulate(record["sk"], record["ct"]) == record["ss"]


def test_the_unsalted_variant_of_the_same_name_is_refused_by_its_length() -> None:
    algorithm = pqc.kem("FrodoKEM-640-AES")
    for record in records(EPHEMERAL):
        with pytest.raises(Refusal) as refused:
            algorithm.decapsulate(record["sk"], record["ct"])
        assert refused.value.code == "malformed-message"


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("FrodoKEM-640-AES", (9616, 19888, 9752, 16)),
        ("FrodoKEM-976-AES", (15632, 31296, 15792, 24)),
        ("FrodoKEM-1344-AES", (21520, 43088, 21696, 32)),
    ],
)
def test_sizes_are_those_of_the_salted_standard(name: str, sizes: tuple[int, ...]) -> None:
    table, parameters = KEMS[name], frodo.PARAMETERS[name]
    stated = (table.public_key_bytes, table.private_key_bytes, table.ciphertext_bytes, table.shared_secret_bytes)
    derived = (parameters.public_key_bytes, parameters.private_key_bytes, parameters.ciphertext_bytes)
    assert stated == (*derived, parameters.security_bytes) == sizes
    engine = frodo.serve_kem(name)
    pair = engine.generate()
    secret, ciphertext = engine.encapsulate(pair.public)
    assert (len(pair.public), len(pair.private), len(ciphertext), len(secret)) == sizes


def test_numpy_has_no_other_kem() -> None:
    with pytest.raises(EngineUnavailable):
        frodo.serve_kem("ML-KEM-1024")


@pytest.mark.parametrize("position", [0, 5000, 9599, 9600, 9719, 9720, 9751])
def test_a_changed_ciphertext_gives_another_secret_and_no_error(position: int) -> None:
    pair = FRODO640.generate_from(bytes(range(64)))
    secret, ciphertext = FRODO640.encapsulate_from(pair.public, bytes(range(48)))
    changed = bytearray(ciphertext)
    changed[position] ^= 1
    other = FRODO640.decapsulate(pair.private, bytes(changed))
    assert other != secret
    assert other == hashlib.shake_128(bytes(changed) + pair.private[:16]).digest(16)


def test_another_key_gives_another_secret() -> None:
    secret, ciphertext = FRODO640.encapsulate_from(FRODO640.generate_from(bytes(64)).public, bytes(48))
    assert FRODO640.decapsulate(FRODO640.generate_from(bytes([1]) * 64).private, ciphertext) != secret


def test_each_encapsulation_is_fresh() -> None:
    algorithm = pqc.kem("FrodoKEM-640-AES")
    public = algorithm.generate().public
    assert algorithm.encapsulate(public)[1] != algorithm.encapsulate(public)[1]


def test_a_public_key_with_an_all_zero_matrix_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        FRODO640.encapsulate_from(bytes(range(16)) + bytes(9600), bytes(48))
    assert refused.value.code == "invalid-key"


@pytest.mark.parametrize("name", NAMES)
def test_packing_is_inverted_by_unpacking(name: str) -> None:
    engine = frodo.serve_kem(name)
    n, q = engine.parameters.n, 1 << engine.parameters.log_q
    for shape in ((8, 8), (n, 8), (8, n)):
        matrix = np.random.default_rng(7).integers(0, q, shape).astype(np.float64)
        assert np.array_equal(engine._unpack(engine._pack(matrix), shape[0]), matrix)


@pytest.mark.parametrize("name", NAMES)
def test_decoding_tolerates_noise_up_to_half_a_step(name: str) -> None:
    engine = frodo.serve_kem(name)
    half = 1 << (engine.parameters.log_q - engine.parameters.extracted_bits - 1)
    u = bytes(range(100, 100 + engine.parameters.security_bytes))
    encoded = engine._encode(u)
    assert engine._decode(encoded + half - 1) == u == engine._decode(encoded - half)
    assert engine._decode(encoded + half) != u


@pytest.mark.parametrize(
    ("name", "largest", "deviation"), [(NAMES[0], 12, 2.8), (NAMES[1], 10, 2.3), (NAMES[2], 6, 1.4)]
)
def test_noise_stays_within_its_bound_and_is_centred(name: str, largest: int, deviation: float) -> None:
    engine = frodo.serve_kem(name)
    noise = engine._noise(0x5F, bytes(engine.parameters.seed_se_bytes), 100_000)
    assert np.abs(noise).max() <= largest == len(engine.parameters.cdf)
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - deviation) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_the_float_product_is_exact_at_its_largest(name: str) -> None:
    engine = frodo.serve_kem(name)
    n, largest = engine.parameters.n, len(engine.parameters.cdf)
    assert n * 65535 * largest < 1 << 53
    a = np.full((n, n), 65535.0)
    a[0] = engine._matrix_a(bytes(16))[0]
    s = np.full((n, 8), float(largest))
    s[:, 1] = -largest
    exact = a.astype(np.int64) @ s.astype(np.int64)
    assert np.array_equal((a @ s).astype(np.int64), exact)


def test_selection_returns_the_first_only_when_the_condition_holds() -> None:
    assert frodo._select(True, b"\x01\xff", b"\x02\x00") == b"\x01\xff"
    assert frodo._select(False, b"\x01\xff", b"\x02\x00") == b"\x02\x00"


def test_randomness_of_the_wrong_length_is_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match="expected 64 bytes"):
        FRODO640.generate_from(bytes(63))
