"""Keys, ciphertexts and signatures are checked before any engine sees them; engines are tested before they serve."""

import hashlib
import itertools
from dataclasses import replace
from functools import cache

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa

from qflare_protocol import pqc
from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import liboqs_engine, pqcrypto_engine, rates, registry, self_test, status
from qflare_protocol.pqc.algorithms import KEMS as KEM_PARAMETERS
from qflare_protocol.pqc.algorithms import SIGNATURES as SIGNATURE_PARAMETERS
from qflare_protocol.pqc.interface import (
    KemAlgorithm,
    KemEngine,
    KeyPair,
    SignatureAlgorithm,
    SignatureEngine,
)
from tests.protocol.engines import kem_by, kem_engines, signature_by, signature_engines

KEMS = registry.KEM_NAMES
SIGNATURES = registry.SIGNATURE_NAMES
KEM_ENGINES = kem_engines()
SIGNATURE_ENGINES = signature_engines()
HYBRIDS = ["X-Wing", "MLKEM1024-P384"]


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


class UntouchableSignature(SignatureEngine):
    """Fails the test when any input reaches the engine."""

    engine = "untouchable"

    def generate(self) -> KeyPair:
        raise AssertionError("the engine was reached")

    def public_key(self, private: bytes) -> bytes:
        raise AssertionError("the engine was reached")

    def sign(self, private: bytes, message: bytes) -> bytes:
        raise AssertionError("the engine was reached")

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        raise AssertionError("the engine was reached")


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


class KyberKem(UntouchableKem):
    """ML-KEM in everything but the answer to a ciphertext it did not make: there it is Kyber of the third round."""

    engine = "kyber"

    def __init__(self, real: KemEngine) -> None:
        self._real = real

    def generate(self) -> KeyPair:
        return self._real.generate()

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        secret, ciphertext = self._real.encapsulate(public)
        return self._kyber(secret, ciphertext), ciphertext

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        return self._kyber(self._real.decapsulate(private, ciphertext), ciphertext)

    def _kyber(self, secret: bytes, ciphertext: bytes) -> bytes:
        return hashlib.shake_256(secret + hashlib.sha3_256(ciphertext).digest()).digest(32)


class UncheckingKem(KyberKem):
    """Encapsulates to whatever it is given."""

    engine = "unchecking"

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        if public.count(0xFF) == len(public):
            return bytes(32), bytes(1568)
        return self._real.encapsulate(public)

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        return self._real.decapsulate(private, ciphertext)


class ZeroSignature(CarelessSignature):
    """Signs with a constant that it takes for a signature itself."""

    def sign(self, private: bytes, message: bytes) -> bytes:
        return bytes(len(self._real.sign(private, message)))

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        return message != b"another"


def guarded_kem(name: str) -> KemAlgorithm:
    return KemAlgorithm(**vars(KEM_PARAMETERS[name]), implementation=UntouchableKem())


@cache
def key_pair(engine: str, name: str) -> KeyPair:
    """Make one key pair an engine and algorithm: Classic McEliece takes seconds."""
    return kem_by(engine, name).generate()


def refusal_of(call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(Refusal) as refused:
        call(*arguments)
    return refused.value.code


@pytest.mark.parametrize(("engine", "name"), KEM_ENGINES)
def test_both_sides_of_a_kem_agree(engine: str, name: str) -> None:
    algorithm, pair = kem_by(engine, name), key_pair(engine, name)
    secret, ciphertext = algorithm.encapsulate(pair.public)
    assert algorithm.decapsulate(pair.private, ciphertext) == secret
    assert len(secret) == algorithm.shared_secret_bytes


@pytest.mark.parametrize("name", KEMS)
def test_an_empty_truncated_padded_or_zero_public_key_reaches_no_engine(name: str) -> None:
    guarded = guarded_kem(name)
    size = guarded.public_key_bytes
    for public in (b"", b"\x01" * (size - 1), b"\x01" * (size + 1), bytes(size), "text", None, [1] * size):
        assert refusal_of(guarded.encapsulate, public) == "invalid-key"


@pytest.mark.parametrize("name", KEMS)
def test_a_ciphertext_of_another_length_reaches_no_engine(name: str) -> None:
    guarded = guarded_kem(name)
    private = b"\x01" * guarded.private_key_bytes
    for ciphertext in (b"", bytes(guarded.ciphertext_bytes - 1), bytes(guarded.ciphertext_bytes + 1), None, "text"):
        assert refusal_of(guarded.decapsulate, private, ciphertext) == "malformed-message"


@pytest.mark.parametrize("name", KEMS)
def test_a_private_key_of_another_length_or_of_zeros_reaches_no_engine(name: str) -> None:
    guarded = guarded_kem(name)
    for private in (b"", b"\x01" * (guarded.private_key_bytes - 1), bytes(guarded.private_key_bytes)):
        assert refusal_of(guarded.decapsulate, private, b"\x01" * guarded.ciphertext_bytes) == "invalid-key"


@pytest.mark.parametrize("name", [name for name, kem in KEM_PARAMETERS.items() if kem.public_key_parts])
def test_a_public_key_with_a_part_of_zeros_reaches_no_engine(name: str) -> None:
    first, second = KEM_PARAMETERS[name].public_key_parts
    for public in (bytes(first) + b"\x01" * second, b"\x01" * first + bytes(second)):
        assert refusal_of(guarded_kem(name).encapsulate, public) == "invalid-key"


def test_a_private_key_with_a_part_of_zeros_reaches_no_engine() -> None:
    guarded = guarded_kem("MLKEM1024-P384")
    for private in (bytes(64) + b"\x01" * 48, b"\x01" * 64 + bytes(48)):
        assert refusal_of(guarded.decapsulate, private, b"\x01" * guarded.ciphertext_bytes) == "invalid-key"


def test_the_parts_of_a_key_are_the_whole_key() -> None:
    for kem in KEM_PARAMETERS.values():
        assert sum(kem.public_key_parts) in (0, kem.public_key_bytes)
        assert sum(kem.private_key_parts) in (0, kem.private_key_bytes)


@pytest.mark.parametrize(("engine", "name"), kem_engines(["ML-KEM-768", "ML-KEM-1024", *HYBRIDS]))
def test_a_key_that_fails_the_modulus_check_is_refused(engine: str, name: str) -> None:
    algorithm = kem_by(engine, name)
    assert refusal_of(algorithm.encapsulate, b"\xff" * algorithm.public_key_bytes) == "invalid-key"


@pytest.mark.parametrize(("engine", "name"), KEM_ENGINES)
def test_a_kem_does_not_fail_but_gives_another_secret(engine: str, name: str) -> None:
    algorithm, pair = kem_by(engine, name), key_pair(engine, name)
    secret, ciphertext = algorithm.encapsulate(pair.public)
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    other = algorithm.decapsulate(pair.private, changed)
    assert other == algorithm.decapsulate(pair.private, changed)
    assert other != secret
    assert len(other) == len(secret)


@pytest.mark.parametrize(("engine", "name"), SIGNATURE_ENGINES)
def test_a_signature_holds_for_its_message_and_key_only(engine: str, name: str) -> None:
    algorithm = signature_by(engine, name)
    pair = algorithm.generate()
    signature = algorithm.sign(pair.private, b"message")
    algorithm.verify(pair.public, b"message", signature)
    assert refusal_of(algorithm.verify, pair.public, b"another", signature) == "invalid-signature"
    assert refusal_of(algorithm.verify, algorithm.generate().public, b"message", signature) == "invalid-signature"
    assert refusal_of(algorithm.verify, pair.public, b"message", signature[:-1]) == "invalid-signature"
    assert refusal_of(algorithm.verify, pair.public, b"message", None) == "invalid-signature"


@pytest.mark.parametrize("name", [name for name in SIGNATURES if name.startswith("ML-DSA")])
def test_mldsa_is_the_pure_variant_with_an_empty_context(name):
    """FIPS 204 section 5.2; neither a context nor a hash before the message makes the same signature."""
    scheme = pqc.signature(name)
    pair = scheme.generate()
    signed = scheme.sign(pair.private, b"message")
    public = getattr(mldsa, f"{name.replace('-', '')}PublicKey").from_public_bytes(pair.public)
    public.verify(signed, b"message", b"")
    for message, context in ((b"message", b"QFLARE/1"), (hashlib.sha512(b"message").digest(), b"")):
        with pytest.raises(InvalidSignature):
            public.verify(signed, message, context)


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_key_of_another_length_or_of_zeros_is_refused(name: str) -> None:
    parameters = SIGNATURE_PARAMETERS[name]
    algorithm = SignatureAlgorithm(**vars(parameters), implementation=UntouchableSignature())
    signature = bytes(algorithm.signature_bytes)
    for public in (b"", bytes(algorithm.public_key_bytes), b"\x01" * (algorithm.public_key_bytes - 1), None):
        assert refusal_of(algorithm.verify, public, b"message", signature) == "invalid-key"
    for private in (b"", bytes(algorithm.private_key_bytes), b"\x01" * (algorithm.private_key_bytes + 1)):
        assert refusal_of(algorithm.sign, private, b"message") == "invalid-key"
        assert refusal_of(algorithm.public_key, private) == "invalid-key"


@pytest.mark.parametrize(("engine", "name"), SIGNATURE_ENGINES)
def test_the_public_key_follows_from_the_private_key(engine: str, name: str) -> None:
    algorithm = signature_by(engine, name)
    pair = algorithm.generate()
    assert len(pair.private) == SIGNATURE_PARAMETERS[name].private_key_bytes
    assert algorithm.public_key(pair.private) == pair.public


@pytest.mark.parametrize(("engine", "name"), [*KEM_ENGINES, *SIGNATURE_ENGINES])
def test_every_engine_passes_the_self_test_of_what_it_has(engine: str, name: str) -> None:
    if name in KEMS:
        self_test.check_kem(kem_by(engine, name))
    else:
        self_test.check_signature(signature_by(engine, name))


def pairs(served: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Return (algorithm, engine, another engine) for what two engines here serve; none makes the test a skip."""
    return [
        (name, first, second)
        for (first, name), (second, other) in itertools.combinations(served, 2)
        if name == other and first != second
    ]


@pytest.mark.parametrize(("name", "first", "second"), pairs([*KEM_ENGINES]))
def test_two_engines_open_what_the_other_one_made(name: str, first: str, second: str) -> None:
    secret, ciphertext = kem_by(first, name).encapsulate(key_pair(second, name).public)
    assert kem_by(second, name).decapsulate(key_pair(second, name).private, ciphertext) == secret
    assert kem_by(first, name).decapsulate(key_pair(second, name).private, ciphertext) == secret


@pytest.mark.parametrize(("name", "first", "second"), pairs([*SIGNATURE_ENGINES]))
def test_two_engines_verify_what_the_other_one_signed(name: str, first: str, second: str) -> None:
    pair = signature_by(first, name).generate()
    signature_by(second, name).verify(pair.public, b"m", signature_by(first, name).sign(pair.private, b"m"))
    signature_by(first, name).verify(pair.public, b"m", signature_by(second, name).sign(pair.private, b"m"))


@pytest.mark.parametrize("name", ["Kyber1024", "FrodoKEM-640-SHAKE", "eFrodoKEM-640-AES", "RSA", ""])
def test_an_algorithm_no_engine_serves_is_refused_and_never_replaced(name: str) -> None:
    assert refusal_of(pqc.kem, name) == "algorithm-unavailable"
    assert refusal_of(pqc.signature, name) == "algorithm-unavailable"


def test_private_keys_do_not_show_in_repr() -> None:
    pair = pqc.signature("ML-DSA-44").generate()
    assert "private" not in repr(pair)


@pytest.mark.parametrize(("engine", "name"), KEM_ENGINES)
def test_an_engine_that_gives_other_secrets_fails_the_self_test(engine: str, name: str) -> None:
    algorithm = kem_by(engine, name)
    broken = replace(algorithm, implementation=RandomKem(algorithm.implementation))
    assert refusal_of(self_test.check_kem, broken) == "algorithm-unavailable"


def test_kyber_of_the_third_round_is_not_taken_for_mlkem() -> None:
    algorithm = registry.untested_kem("ML-KEM-1024")
    kyber = replace(algorithm, implementation=KyberKem(algorithm.implementation))
    pair = kyber.generate()
    secret, ciphertext = kyber.encapsulate(pair.public)
    assert kyber.decapsulate(pair.private, ciphertext) == secret  # all sizes and a round trip agree
    assert refusal_of(self_test.check_kem, kyber) == "algorithm-unavailable"


def test_an_mlkem_that_checks_no_public_key_fails_the_self_test() -> None:
    algorithm = registry.untested_kem("ML-KEM-1024")
    broken = replace(algorithm, implementation=UncheckingKem(algorithm.implementation))
    assert refusal_of(self_test.check_kem, broken) == "algorithm-unavailable"


@pytest.mark.parametrize(("engine", "name"), SIGNATURE_ENGINES)
def test_an_engine_that_accepts_every_signature_fails_the_self_test(engine: str, name: str) -> None:
    algorithm = signature_by(engine, name)
    broken = replace(algorithm, implementation=CarelessSignature(algorithm.implementation))
    assert refusal_of(self_test.check_signature, broken) == "algorithm-unavailable"


@pytest.mark.parametrize(("engine", "name"), signature_engines(["SLH-DSA-SHA2-128f"]))
def test_an_engine_that_believes_its_own_wrong_signatures_fails_the_self_test(engine: str, name: str) -> None:
    algorithm = signature_by(engine, name)
    broken = replace(algorithm, implementation=ZeroSignature(algorithm.implementation))
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
    for row in rows.values():
        assert bool(row.engine) == bool(row.version)
        assert row.self_test_passed == bool(row.engine), row.failure
        assert [candidate.engine for candidate in row.candidates] == list(registry.CANDIDATES[row.algorithm])
    assert rows["FrodoKEM-640-AES"].output_bytes == 9752
    assert rows["ML-DSA-44"].shared_secret_bytes is None
    assert rows["X-Wing"].engine == "cryptography"


def test_the_status_shows_a_failed_self_test_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.forget_tests()
    monkeypatch.setitem(self_test._KNOWN_ANSWERS, "ML-DSA-65", "0" * 64)
    (row,) = status.engine_status(["ML-DSA-65"])
    assert not row.self_test_passed
    assert row.failure is not None
    assert "failed its self-test" in row.failure


def test_the_status_of_an_algorithm_that_nobody_here_has_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.forget_tests()
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: None)
    monkeypatch.setattr(pqcrypto_engine, "_present", lambda: False)
    (row,) = status.engine_status(["Classic-McEliece-6960119"])
    assert (row.engine, row.version, row.public_key_bytes) == ("", "", 1047319)
    assert row.failure == (
        "No engine here serves Classic-McEliece-6960119: liboqs is not installed here; pqcrypto is not installed here."
    )


@pytest.mark.parametrize("name", ["ML-KEM-1024", "ML-DSA-44"])
def test_rates_are_measured_for_each_operation(name: str) -> None:
    measured = rates.measure_rates(name, seconds=0)
    assert list(measured)[0] == "keygen"
    assert len(measured) == 3
    assert all(rate > 0 for rate in measured.values())


def test_a_key_that_was_refused_is_refused_again_and_another_one_is_not_taken_for_it() -> None:
    """Parsed public keys are kept; what does not parse is not, and nothing but the very bytes finds one."""
    kem, signature = pqc.kem("ML-KEM-1024"), pqc.signature("ML-DSA-44")
    beyond_the_modulus = b"\xff" * 1536 + bytes(32)
    for _ in range(2):
        assert refusal_of(kem.encapsulate, beyond_the_modulus) == "invalid-key"
    first, second = signature.generate(), signature.generate()
    signed = signature.sign(first.private, b"m")
    for _ in range(2):
        signature.verify(first.public, b"m", signed)
        assert refusal_of(signature.verify, second.public, b"m", signed) == "invalid-signature"
