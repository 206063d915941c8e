"""The suite table: whole rows, available or not with a reason, and the size of E1 that follows from them."""

import pytest

from qflare_protocol.device_keys import RegisteredKeys, generate_device_keypair
from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import liboqs_engine, pqcrypto_engine, registry, self_test
from qflare_protocol.pqc.algorithms import KEMS, SIGNATURES
from qflare_protocol.suites import (
    DEFAULT_SUITE,
    DEFAULT_SUITES,
    SUITES,
    available_suites,
    largest_begin_bytes,
    suite_by_name,
    unavailable_suites,
)


@pytest.fixture
def without_optional_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.forget_tests()
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: None)
    monkeypatch.setattr(pqcrypto_engine, "_present", lambda: False)


def test_the_table_is_that_of_the_design() -> None:
    rows = {name: (suite.registered_kem, suite.ephemeral_kem, suite.signature) for name, suite in SUITES.items()}
    assert rows == {
        "QF1-F640": ("FrodoKEM-640-AES", "ML-KEM-1024", "ML-DSA-44"),
        "QF1-K1024": ("ML-KEM-1024", "ML-KEM-1024", "ML-DSA-44"),
        "QF1-F976": ("FrodoKEM-976-AES", "ML-KEM-1024", "ML-DSA-65"),
        "QF1-F1344": ("FrodoKEM-1344-AES", "ML-KEM-1024", "ML-DSA-87"),
        "QF1-H1024": ("MLKEM1024-P384", "X-Wing", "ML-DSA-65"),
        "QF1-M": ("Classic-McEliece-6960119", "ML-KEM-1024", "ML-DSA-87"),
        "QF1-S": ("FrodoKEM-640-AES", "ML-KEM-1024", "SLH-DSA-SHA2-128f"),
    }
    assert DEFAULT_SUITE in DEFAULT_SUITES


def test_every_suite_is_made_of_algorithms_with_sizes() -> None:
    for suite in SUITES.values():
        assert {suite.registered_kem, suite.ephemeral_kem} <= set(KEMS)
        assert suite.signature in SIGNATURES
        assert len(suite.algorithms) == len(set(suite.algorithms))


def test_the_default_suites_need_nothing_optional(without_optional_engines: None) -> None:
    assert available_suites() == list(DEFAULT_SUITES)


def test_a_suite_that_nobody_here_serves_says_why(without_optional_engines: None) -> None:
    faults = unavailable_suites()
    assert list(faults) == ["QF1-M", "QF1-S"]
    assert "pqcrypto is not installed here" in faults["QF1-M"]
    assert "SLH-DSA-SHA2-128f" in faults["QF1-S"]


def test_a_suite_with_a_failing_engine_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.forget_tests()
    monkeypatch.setitem(self_test._KNOWN_ANSWERS, "X-Wing", "0" * 64)
    assert unavailable_suites(["QF1-H1024", "QF1-K1024"]) == {
        "QF1-H1024": "The engine cryptography failed its self-test for X-Wing; repair or replace it."
    }


def test_an_unknown_suite_is_unavailable() -> None:
    assert "There is no suite QF1-X" in unavailable_suites(["QF1-X"])["QF1-X"]
    with pytest.raises(Refusal) as refused:
        suite_by_name("QF1-X")
    assert refused.value.code == "suite-refused"


def test_e1_stays_small_unless_a_suite_in_use_needs_more() -> None:
    assert largest_begin_bytes(DEFAULT_SUITES) == 64 * 1024
    assert largest_begin_bytes([]) == largest_begin_bytes(["QF1-X"]) == 64 * 1024
    assert largest_begin_bytes(["QF1-F640", "QF1-M"]) == 1047319 + 2592 + 4627 + 8192


@pytest.mark.parametrize("name", [name for name in available_suites() if name != "QF1-M"])
def test_device_keys_of_every_suite_are_registered_and_of_no_other(name: str) -> None:
    keys = generate_device_keypair(name)
    assert RegisteredKeys(name, keys.kem.public, keys.signer.public).verifier.algorithm == SUITES[name].signature
    other = next(suite for suite in SUITES.values() if suite.registered_kem != SUITES[name].registered_kem)
    with pytest.raises(Refusal) as refused:
        RegisteredKeys(other.name, keys.kem.public, keys.signer.public)
    assert refused.value.code == "invalid-key"
