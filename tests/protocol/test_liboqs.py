"""liboqs serves FrodoKEM only where it is really there and really has the salted variant."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from qflare_protocol.pqc import frodo, liboqs_engine, registry, self_test

native = pytest.mark.skipif(liboqs_engine.salted_frodo640() is None, reason="no native liboqs with salted FrodoKEM")


class FakeMechanism:
    """`oqs.KeyEncapsulation` with its calling conventions, over the NumPy code."""

    ciphertext_bytes = 0

    def __init__(self, name: str, secret_key: bytes | None = None) -> None:
        self.details = {"name": name, "length_ciphertext": self.ciphertext_bytes}
        self._secret_key = secret_key

    def generate_keypair(self) -> bytes:
        pair = frodo.Frodo640().generate()
        self._secret_key = pair.private
        return pair.public

    def export_secret_key(self) -> bytes | None:
        return self._secret_key

    def encap_secret(self, public_key: bytes) -> tuple[bytes, bytes]:
        secret, ciphertext = frodo.Frodo640().encapsulate(public_key)
        return ciphertext, secret

    def decap_secret(self, ciphertext: bytes) -> bytes:
        assert self._secret_key is not None
        return frodo.decapsulate(self._secret_key, ciphertext)

    def __enter__(self) -> "FakeMechanism":
        return self

    def __exit__(self, *_: object) -> None:
        return None


def liboqs_offering(names: tuple[str, ...], ciphertext_bytes: int) -> Any:
    mechanism = type("Mechanism", (FakeMechanism,), {"ciphertext_bytes": ciphertext_bytes})
    return SimpleNamespace(get_enabled_kem_mechanisms=lambda: names, KeyEncapsulation=mechanism)


@pytest.fixture(autouse=True)
def fresh_probe() -> Iterator[None]:
    probe = liboqs_engine.load_oqs
    probe.cache_clear()
    yield
    probe.cache_clear()


def test_oqs_is_not_imported_where_no_native_library_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(liboqs_engine, "_candidates", lambda: ["/nonexistent/liboqs.so"])
    monkeypatch.setattr(liboqs_engine.importlib, "import_module", lambda name: pytest.fail("oqs was imported"))
    assert liboqs_engine.load_oqs() is None
    assert liboqs_engine.version() is None


def test_without_liboqs_numpy_serves_frodo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: None)
    assert registry.untested_kem("FrodoKEM-640-AES").engine == "numpy"


def test_the_unsalted_variant_under_the_same_name_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: liboqs_offering(("FrodoKEM-640-AES",), 9720))
    assert registry.untested_kem("FrodoKEM-640-AES").engine == "numpy"


def test_a_liboqs_built_without_frodo_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: liboqs_offering(("ML-KEM-1024",), 9752))
    assert registry.untested_kem("FrodoKEM-640-AES").engine == "numpy"


def test_the_salted_variant_is_used_where_liboqs_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: liboqs_offering(("FrodoKEM-640-AES",), 9752))
    assert registry.untested_kem("FrodoKEM-640-AES").engine == "liboqs"


def test_the_wrapper_turns_the_conventions_of_liboqs_into_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: liboqs_offering(("FrodoKEM-640-AES",), 9752))
    algorithm = registry.untested_kem("FrodoKEM-640-AES")
    self_test.check_kem(algorithm)
    secret, ciphertext = algorithm.encapsulate(algorithm.generate().public)
    assert (len(secret), len(ciphertext)) == (16, 9752)


def test_the_install_path_is_one_of_the_places_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OQS_INSTALL_PATH", "/opt/somewhere")
    assert "/opt/somewhere/lib/liboqs.so" in liboqs_engine._candidates()


@native
def test_liboqs_and_numpy_open_each_other() -> None:
    engine = liboqs_engine.salted_frodo640()
    assert engine is not None
    pair = engine.generate()
    secret, ciphertext = frodo.Frodo640().encapsulate(pair.public)
    assert engine.decapsulate(pair.private, ciphertext) == secret
    secret, ciphertext = engine.encapsulate(pair.public)
    assert frodo.decapsulate(pair.private, ciphertext) == secret


@native
def test_liboqs_passes_the_self_test_and_states_its_version() -> None:
    algorithm = registry.untested_kem("FrodoKEM-640-AES")
    self_test.check_kem(algorithm)
    assert algorithm.engine == "liboqs"
    assert liboqs_engine.version()
