"""The operator's choice of engines: read strictly, held to, and never quietly replaced."""

from collections.abc import Iterator

import pytest

from qflare_protocol import pqc
from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import liboqs_engine, registry, self_test
from qflare_protocol.pqc.registry import engine_faults, parse_engines, use_engines


@pytest.fixture(autouse=True)
def restored_choice() -> Iterator[None]:
    before = dict(registry._choice)
    yield
    use_engines(before)


def test_a_choice_is_read_with_or_without_spaces() -> None:
    expected = {"FrodoKEM-640-AES": "numpy", "ML-KEM-1024": "liboqs"}
    assert parse_engines("FrodoKEM-640-AES=numpy, ML-KEM-1024=liboqs") == expected
    assert parse_engines(" FrodoKEM-640-AES = numpy,ML-KEM-1024=liboqs, ") == expected
    assert parse_engines("") == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("numpy", "ALGORITHM=ENGINE"),
        ("FrodoKEM-640=numpy", "the algorithm FrodoKEM-640,"),
        ("Kyber1024=liboqs", "the algorithm Kyber1024,"),
        ("FrodoKEM-640-AES=openssl", "the engine openssl"),
        ("ML-DSA-44=numpy", "only cryptography or liboqs"),
        ("X-Wing=", "the engine "),
    ],
)
def test_an_unknown_algorithm_or_engine_is_named(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_engines(text)


def test_the_engine_named_serves() -> None:
    use_engines({"FrodoKEM-640-AES": "numpy"})
    assert pqc.kem("FrodoKEM-640-AES").engine == "numpy"
    assert engine_faults() == {}


def test_a_named_engine_that_is_not_here_is_a_fault_and_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: None)
    use_engines({"ML-KEM-1024": "liboqs"})
    assert engine_faults() == {"ML-KEM-1024": "No engine here serves ML-KEM-1024: liboqs is not installed here."}
    with pytest.raises(Refusal) as refused:
        pqc.kem("ML-KEM-1024")
    assert refused.value.code == "algorithm-unavailable"
    assert pqc.kem("ML-KEM-768").engine == "cryptography"


def test_an_engine_that_fails_its_self_test_is_not_replaced_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.forget_tests()
    monkeypatch.setitem(registry.CANDIDATES, "FrodoKEM-640-AES", ("numpy", "numpy"))
    monkeypatch.setitem(self_test._KNOWN_ANSWERS, "FrodoKEM-640-AES", "0" * 64)
    with pytest.raises(Refusal, match="failed its self-test"):
        pqc.kem("FrodoKEM-640-AES")


def test_a_failing_engine_named_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    use_engines({"ML-DSA-44": "cryptography"})
    monkeypatch.setitem(self_test._KNOWN_ANSWERS, "ML-DSA-44", "0" * 64)
    assert "failed its self-test" in engine_faults()["ML-DSA-44"]


def test_a_choice_that_is_none_changes_nothing() -> None:
    use_engines({"FrodoKEM-640-AES": "numpy"})
    with pytest.raises(ValueError, match="the engine"):
        use_engines({"FrodoKEM-640-AES": "cryptography"})
    assert pqc.kem("FrodoKEM-640-AES").engine == "numpy"


def test_a_new_choice_replaces_the_old_one_and_tests_anew() -> None:
    use_engines({"FrodoKEM-640-AES": "numpy"})
    first = pqc.kem("FrodoKEM-640-AES")
    assert pqc.kem("FrodoKEM-640-AES") is first
    use_engines({})
    assert pqc.kem("FrodoKEM-640-AES") is not first
    assert registry._choice == {}


def test_every_algorithm_has_candidates_and_each_candidate_is_an_engine() -> None:
    assert set(registry.CANDIDATES) == {*registry.KEM_NAMES, *registry.SIGNATURE_NAMES}
    for candidates in registry.CANDIDATES.values():
        assert candidates
        assert set(candidates) <= set(registry._LIBRARIES)
