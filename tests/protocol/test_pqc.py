"""Keys, ciphertexts and signatures are checked before any engine sees them; engines are tested before they serve."""

from dataclasses import replace

import pytest

from qflare_protocol import pqc
from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import registry, self_test, status
from qflare_protocol.pqc.interface import KemEngine, KeyPair, SignatureEngine

KEMS = registry.KEM_NAMES
SIGNATURES = registry.SIGNATURE_NAMES


class UntouchableKem(KemEngine):
    """Fails the test when any input reaches the engine."""

    engine = "untouchable"

    def generate(self) -> KeyPair:
        raise AssertionError("the engine was reached")

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        raise AssertionError("the engine was reached")

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        raise AssertionError("the engine was reached")


class CarelessSignature(SignatureEngine):
    """Accepts every signature."""

    engine = "careless"

    def __init__(self, real: SignatureEngine) -> None:
        self._real = real

    def generate(self) -> KeyPair:
        return self._real.generate()

    def public_key(self, private: bytes) -> bytes:
        return self._real.public_key(private)

    def sign(self, private: bytes, message: bytes) -> bytes:
        return self._real.sign(private, message)

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        return True


class RandomKem(UntouchableKem):
    """Gives a random secret on each side, as a fallback to random bytes would."""

    engine = "random"

    def __init__(self, real: KemEngine) -> None:
        self._real = real

    def generate(self) -> KeyPair:
        return self._real.generate()

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        return self._real.encapsulate(public)

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        return bytes(len(self._real.decapsulate(private, ciphertext)))


def refusal_of(call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(Refusal) as refused:
        call(*arguments)
    return refused.value.code


@pytest.mark.parametrize("name", KEMS)
def test_both_sides_of_a_kem_agree(name: str) -> None:
    algorithm = pqc.kem(name)
    pair = algorithm.generate()
    secret, ciphertext = algorithm.encapsulate(pair.public)
    assert algorithm.decapsulate(pair.private, ciphertext) == secret
    assert len(secret) == algorithm.shared_secret_bytes


@pytest.mark.parametrize("name", KEMS)
def test_an_empty_truncated_padded_or_zero_public_key_reaches_no_engine(name: str) -> None:
    guarded = replace(registry.untested_kem(name), implementation=UntouchableKem())
    size = guarded.public_key_bytes
    for public in (b"", b"\x01" * (size - 1), b"\x01" * (size + 1), bytes(size), "text", None, [1] * size):
        assert refusal_of(guarded.encapsulate, public) == "invalid-key"


@pytest.mark.parametrize("name", KEMS)
def test_a_ciphertext_of_another_length_reaches_no_engine(name: str) -> None:
    guarded = replace(registry.untested_kem(name), implementation=UntouchableKem())
    private = b"\x01" * guarded.private_key_bytes
    for ciphertext in (b"", bytes(guarded.ciphertext_bytes - 1), bytes(guarded.ciphertext_bytes + 1), None, "text"):
        assert refusal_of(guarded.decapsulate, private, ciphertext) == "malformed-message"


@pytest.mark.parametrize("name", KEMS)
def test_a_private_key_of_another_length_or_of_zeros_reaches_no_engine(name: str) -> None:
    guarded = replace(registry.untested_kem(name), implementation=UntouchableKem())
    for private in (b"", b"\x01" * (guarded.private_key_bytes - 1), bytes(guarded.private_key_bytes)):
        assert refusal_of(guarded.decapsulate, private, b"\x01" * guarded.ciphertext_bytes) == "invalid-key"


@pytest.mark.parametrize("name", ["ML-KEM-768", "ML-KEM-1024"])
def test_an_mlkem_key_that_fails_the_modulus_check_is_refused(name: str) -> None:
    algorithm = pqc.kem(name)
    assert refusal_of(algorithm.encapsulate, b"\xff" * algorithm.public_key_bytes) == "invalid-key"


@pytest.mark.parametrize("name", KEMS)
def test_a_kem_does_not_fail_but_gives_another_secret(name: str) -> None:
    algorithm = pqc.kem(name)
    secret, ciphertext = algorithm.encapsulate(algorithm.generate().public)
    other = algorithm.decapsulate(algorithm.generate().private, ciphertext)
    assert other != secret
    assert len(other) == len(secret)


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_holds_for_its_message_and_key_only(name: str) -> None:
    algorithm = pqc.signature(name)
    pair = algorithm.generate()
    signature = algorithm.sign(pair.private, b"message")
    algorithm.verify(pair.public, b"message", signature)
    assert refusal_of(algorithm.verify, pair.public, b"another", signature) == "invalid-signature"
    assert refusal_of(algorithm.verify, algorithm.generate().public, b"message", signature) == "invalid-signature"
    assert refusal_of(algorithm.verify, pair.public, b"message", signature[:-1]) == "invalid-signature"
    assert refusal_of(algorithm.verify, pair.public, b"message", None) == "invalid-signature"


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_key_of_another_length_or_of_zeros_is_refused(name: str) -> None:
    algorithm = pqc.signature(name)
    signature = bytes(algorithm.signature_bytes)
    for public in (b"", bytes(algorithm.public_key_bytes), b"\x01" * (algorithm.public_key_bytes - 1), None):
        assert refusal_of(algorithm.verify, public, b"message", signature) == "invalid-key"
    assert refusal_of(algorithm.sign, bytes(32), b"message") == "invalid-key"


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_public_key_follows_from_the_seed(name: str) -> None:
    algorithm = pqc.signature(name)
    pair = algorithm.generate()
    assert len(pair.private) == 32
    assert algorithm.public_key(pair.private) == pair.public


@pytest.mark.parametrize("name", ["Kyber1024", "FrodoKEM-640-SHAKE", "eFrodoKEM-640-AES", "RSA", ""])
def test_an_algorithm_no_engine_serves_is_refused_and_never_replaced(name: str) -> None:
    assert refusal_of(pqc.kem, name) == "algorithm-unavailable"
    assert refusal_of(pqc.signature, name) == "algorithm-unavailable"


def test_private_keys_do_not_show_in_repr() -> None:
    pair = pqc.signature("ML-DSA-44").generate()
    assert "private" not in repr(pair)


@pytest.mark.parametrize("name", KEMS)
def test_an_engine_that_gives_other_secrets_fails_the_self_test(name: str) -> None:
    algorithm = registry.untested_kem(name)
    broken = replace(algorithm, implementation=RandomKem(algorithm.implementation))
    assert refusal_of(self_test.check_kem, broken) == "algorithm-unavailable"


def test_an_engine_that_accepts_every_signature_fails_the_self_test() -> None:
    algorithm = registry.untested_signature("ML-DSA-44")
    broken = replace(algorithm, implementation=CarelessSignature(algorithm.implementation))
    assert refusal_of(self_test.check_signature, broken) == "algorithm-unavailable"


def test_an_algorithm_whose_engine_fails_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.kem.cache_clear()
    monkeypatch.setitem(self_test._KNOWN_ANSWERS, "ML-KEM-768", "0" * 64)
    assert refusal_of(pqc.kem, "ML-KEM-768") == "algorithm-unavailable"
    monkeypatch.undo()
    assert pqc.kem("ML-KEM-768").name == "ML-KEM-768"


def test_the_status_names_engine_version_and_sizes_of_every_algorithm() -> None:
    rows = {row.algorithm: row for row in status.engine_status()}
    assert set(rows) == {*KEMS, *SIGNATURES}
    assert all(row.self_test_passed and row.version for row in rows.values())
    assert rows["FrodoKEM-640-AES"].output_bytes == 9752
    assert rows["ML-DSA-44"].shared_secret_bytes is None


def test_the_status_shows_a_failed_self_test_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(self_test._KNOWN_ANSWERS, "ML-DSA-65", "0" * 64)
    row = next(row for row in status.engine_status() if row.algorithm == "ML-DSA-65")
    assert not row.self_test_passed
    assert row.failure is not None
    assert "failed its self-test" in row.failure
