"""pqcrypto serves what it has in the release that has it, and nothing where it is absent, old or different."""

from types import SimpleNamespace
from typing import Any

import pytest

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import pqcrypto_engine
from qflare_protocol.pqc.interface import EngineUnavailable
from qflare_protocol.pqc.pqcrypto_engine import PqcryptoKem

MCELIECE, SLH_DSA = "Classic-McEliece-6960119", "SLH-DSA-SHA2-128f"
installed = pytest.mark.skipif(pqcrypto_engine.version() is None, reason="pqcrypto is not installed")


def reason_for(serve: Any, name: str) -> str:
    with pytest.raises(EngineUnavailable) as reason:
        serve(name)
    return str(reason.value)


def test_an_absent_package_serves_nothing_and_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pqcrypto_engine.importlib.util, "find_spec", lambda name: None)
    assert pqcrypto_engine.version() is None
    assert reason_for(pqcrypto_engine.serve_kem, MCELIECE) == "pqcrypto is not installed here"
    assert reason_for(pqcrypto_engine.serve_signature, SLH_DSA) == "pqcrypto is not installed here"


@pytest.mark.parametrize(
    "module", [SimpleNamespace(), SimpleNamespace(mceliece_6960119=SimpleNamespace(encrypt=print))]
)
def test_a_release_of_another_interface_is_too_old(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setattr(pqcrypto_engine, "_present", lambda: True)
    monkeypatch.setattr(pqcrypto_engine.importlib, "import_module", lambda name: module)
    monkeypatch.setattr(pqcrypto_engine.metadata, "version", lambda name: "0.3.4")
    assert reason_for(pqcrypto_engine.serve_kem, MCELIECE) == f"pqcrypto 0.3.4 is too old for {MCELIECE}; it needs 1.0"


def test_other_sizes_are_another_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    # The third round's ciphertext carried a plaintext confirmation of 32 bytes.
    sizes = {"SECRET_KEY_SIZE": 13948, "PUBLIC_KEY_SIZE": 1047319, "CIPHERTEXT_SIZE": 226, "SHARED_SECRET_SIZE": 32}
    monkeypatch.setattr(pqcrypto_engine, "_module", lambda *_: SimpleNamespace(**sizes))
    assert "another variant" in reason_for(pqcrypto_engine.serve_kem, MCELIECE)
    keys = {"SECRET_KEY_SIZE": 64, "PUBLIC_KEY_SIZE": 32, "SIGNATURE_SIZE": 7856}
    monkeypatch.setattr(pqcrypto_engine, "_module", lambda *_: SimpleNamespace(**keys))
    assert "another variant" in reason_for(pqcrypto_engine.serve_signature, SLH_DSA)


@pytest.mark.parametrize(("family", "name"), [("kem", "ML-KEM-1024"), ("signature", "ML-DSA-44")])
def test_expanded_private_keys_are_not_used(family: str, name: str) -> None:
    serve = pqcrypto_engine.serve_kem if family == "kem" else pqcrypto_engine.serve_signature
    assert "seeds" in reason_for(serve, name)


def test_what_the_library_refuses_is_a_refusal() -> None:
    def refuse(*_: bytes) -> bytes:
        raise ValueError("no")

    engine = PqcryptoKem(SimpleNamespace(encaps=refuse, decaps=refuse), MCELIECE)
    with pytest.raises(Refusal) as refused:
        engine.encapsulate(bytes(1047319))
    assert refused.value.code == "invalid-key"
    with pytest.raises(Refusal) as refused:
        engine.decapsulate(bytes(13948), bytes(194))
    assert refused.value.code == "malformed-message"


@installed
def test_a_bad_signature_is_no_exception() -> None:
    engine = pqcrypto_engine.serve_signature(SLH_DSA)
    pair = engine.generate()
    assert engine.verify(pair.public, b"m", engine.sign(pair.private, b"m"))
    assert not engine.verify(pair.public, b"m", bytes(17088))
    assert not engine.verify(pair.public, b"m", b"short")


@installed
def test_the_release_is_the_pinned_one() -> None:
    assert pqcrypto_engine.version() == "1.0.0"
