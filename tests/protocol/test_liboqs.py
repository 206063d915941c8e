"""liboqs serves an algorithm only where it is really there and really has that algorithm."""

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import frodo, liboqs_engine, registry, self_test
from qflare_protocol.pqc.algorithms import KEMS
from qflare_protocol.pqc.cryptography_engine import MLKem
from qflare_protocol.pqc.interface import EngineUnavailable

FRODO640 = frodo.serve_kem("FrodoKEM-640-AES")
# Imports the wrapper where its native library is missing, in a process of its own: what must not happen.
PROBE = """
import importlib, sys
sys.modules["oqs"] = None
from qflare_protocol.pqc import liboqs_engine
liboqs_engine.importlib.util.find_spec = lambda name: object()
liboqs_engine._candidates = lambda: ["/nonexistent/liboqs.so"]
print(liboqs_engine.load_oqs())
"""

native = pytest.mark.skipif(liboqs_engine.load_oqs() is None, reason="no native liboqs here")


class FakeMechanism:
    """`oqs.KeyEncapsulation` with its calling conventions: FrodoKEM by the NumPy code, ML-KEM by cryptography."""

    ciphertext_bytes = 9752
    seed_bytes = 64

    def __init__(self, name: str, secret_key: bytes | None = None) -> None:
        kem, is_mlkem = KEMS[name], name.startswith("ML-KEM")
        self.details = {
            "length_public_key": kem.public_key_bytes,
            "length_secret_key": 3168 if is_mlkem else kem.private_key_bytes,
            "length_ciphertext": kem.ciphertext_bytes if is_mlkem else self.ciphertext_bytes,
            "length_shared_secret": kem.shared_secret_bytes,
            "length_keypair_seed": self.seed_bytes if is_mlkem else 0,
        }
        self._engine = MLKem(name) if is_mlkem else FRODO640
        self._secret_key = secret_key

    def generate_keypair(self) -> bytes:
        pair = self._engine.generate()
        self._secret_key = pair.private
        return pair.public

    def generate_keypair_seed(self, seed: bytes) -> bytes:
        assert len(seed) == 64
        self._secret_key = seed
        return self._engine._private.from_seed_bytes(seed).public_key().public_bytes_raw()

    def export_secret_key(self) -> bytes | None:
        return self._secret_key

    def encap_secret(self, public_key: bytes) -> tuple[bytes, bytes]:
        try:
            secret, ciphertext = self._engine.encapsulate(public_key)
        except Refusal as refusal:
            raise RuntimeError("Can not encapsulate secret") from refusal
        return ciphertext, secret

    def decap_secret(self, ciphertext: bytes) -> bytes:
        assert self._secret_key is not None
        if ciphertext.startswith(b"bad"):
            raise RuntimeError("Can not decapsulate secret")
        return self._engine.decapsulate(self._secret_key, ciphertext)

    def __enter__(self) -> "FakeMechanism":
        return self

    def __exit__(self, *_: object) -> None:
        return None


class FakeSignature:
    """`oqs.Signature` of a mechanism with expanded private keys."""

    def __init__(self, name: str) -> None:
        self.details = {"length_public_key": 1312, "length_secret_key": 2560, "length_signature": 2420}

    def __enter__(self) -> "FakeSignature":
        return self

    def __exit__(self, *_: object) -> None:
        return None


def liboqs_offering(names: tuple[str, ...], **attributes: int) -> Any:
    mechanism = type("Mechanism", (FakeMechanism,), attributes)
    return SimpleNamespace(
        get_enabled_kem_mechanisms=lambda: names,
        get_enabled_sig_mechanisms=lambda: names,
        KeyEncapsulation=mechanism,
        Signature=FakeSignature,
        oqs_version=lambda: "0.16.0",
    )


@pytest.fixture(autouse=True)
def fresh_probe() -> Iterator[None]:
    liboqs_engine.load_oqs.cache_clear()
    probe = liboqs_engine.load_oqs
    yield
    probe.cache_clear()
    registry.forget_tests()


def unavailable(serve: Any, name: str) -> str:
    with pytest.raises(EngineUnavailable) as reason:
        serve(name)
    return str(reason.value)


def test_oqs_is_not_imported_where_no_native_library_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(liboqs_engine, "_candidates", lambda: ["/nonexistent/liboqs.so"])
    monkeypatch.setattr(liboqs_engine.importlib, "import_module", lambda name: pytest.fail("oqs was imported"))
    assert liboqs_engine.load_oqs() is None
    assert liboqs_engine.version() is None


def test_a_process_with_the_wrapper_and_no_library_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "None"), done.stderr


def test_without_liboqs_numpy_serves_frodo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: None)
    assert registry.untested_kem("FrodoKEM-640-AES").engine == "numpy"


def test_the_unsalted_variant_under_the_same_name_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    old = liboqs_offering(("FrodoKEM-640-AES",), ciphertext_bytes=9720)
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: old)
    assert registry.untested_kem("FrodoKEM-640-AES").engine == "numpy"
    assert "ciphertext 9720 bytes" in unavailable(liboqs_engine.serve_kem, "FrodoKEM-640-AES")


def test_a_liboqs_built_without_frodo_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: liboqs_offering(("ML-KEM-1024",)))
    assert registry.untested_kem("FrodoKEM-640-AES").engine == "numpy"
    assert "built without" in unavailable(liboqs_engine.serve_kem, "FrodoKEM-640-AES")


def test_the_salted_variant_is_used_where_liboqs_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: liboqs_offering(("FrodoKEM-640-AES",)))
    algorithm = registry.untested_kem("FrodoKEM-640-AES")
    assert algorithm.engine == "liboqs"
    self_test.check_kem(algorithm)
    secret, ciphertext = algorithm.encapsulate(algorithm.generate().public)
    assert (len(secret), len(ciphertext)) == (16, 9752)


def test_mlkem_keys_of_liboqs_are_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: liboqs_offering(("ML-KEM-1024",)))
    algorithm = registry.kem_by("liboqs", "ML-KEM-1024")
    self_test.check_kem(algorithm)
    assert len(algorithm.generate().private) == 64


def test_a_liboqs_that_derives_no_keys_from_seeds_does_not_serve_mlkem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: liboqs_offering(("ML-KEM-1024",), seed_bytes=0))
    assert "from seeds" in unavailable(liboqs_engine.serve_kem, "ML-KEM-1024")


def test_liboqs_does_not_serve_mldsa_because_its_keys_are_no_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: liboqs_offering(("ML-DSA-44",)))
    assert "from seeds" in unavailable(liboqs_engine.serve_signature, "ML-DSA-44")
    assert "built without" in unavailable(liboqs_engine.serve_signature, "SLH-DSA-SHA2-128f")


def test_what_liboqs_refuses_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: liboqs_offering(("ML-KEM-1024",)))
    algorithm = registry.kem_by("liboqs", "ML-KEM-1024")
    with pytest.raises(Refusal) as refused:
        algorithm.encapsulate(b"\xff" * 1568)
    assert refused.value.code == "invalid-key"
    with pytest.raises(Refusal) as refused:
        algorithm.decapsulate(bytes([1]) * 64, b"bad" + bytes(1565))
    assert refused.value.code == "malformed-message"


def test_the_install_path_is_one_of_the_places_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OQS_INSTALL_PATH", "/opt/somewhere")
    assert "/opt/somewhere/lib/liboqs.so" in liboqs_engine._candidates()


@native
def test_liboqs_states_its_version_and_serves_by_preference() -> None:
    assert liboqs_engine.version()
    assert registry.untested_kem("FrodoKEM-640-AES").engine == "liboqs"
    assert registry.untested_kem("ML-KEM-1024").engine == "cryptography"


@native
def test_nothing_of_liboqs_is_written_to_standard_output() -> None:
    code = "from qflare_protocol.pqc import liboqs_engine; liboqs_engine.load_oqs()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
