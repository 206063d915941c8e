"""Every engine that has ML-KEM or ML-DSA agrees with the Wycheproof vectors, through the interface QF/1 uses."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc.interface import KemAlgorithm, SignatureAlgorithm
from tests.protocol.engines import kem_by, kem_engines, signature_by, signature_engines

VECTORS = Path(os.environ.get("QFLARE_VECTORS", Path(__file__).parents[3] / "shared" / "vectors")) / "wycheproof"
PUBLIC_KEYS: dict[str, Any] = {
    "ML-DSA-44": mldsa.MLDSA44PublicKey,
    "ML-DSA-65": mldsa.MLDSA65PublicKey,
    "ML-DSA-87": mldsa.MLDSA87PublicKey,
}

KEM_ENGINES = kem_engines(["ML-KEM-768", "ML-KEM-1024"])


def filename(algorithm: str, kind: str) -> str:
    return f"{algorithm.lower().replace('-', '', 1).replace('-', '_')}_{kind}.json"


def groups(name: str) -> list[dict[str, Any]]:
    path = VECTORS / name
    if not path.exists():
        pytest.skip(f"vectors are not at {path}")
    found: list[dict[str, Any]] = json.loads(path.read_text())["testGroups"]
    return found


def opens(algorithm: KemAlgorithm, test: dict[str, Any]) -> bytes | None:
    try:
        return algorithm.decapsulate(bytes.fromhex(test["seed"]), bytes.fromhex(test["c"]))
    except Refusal:
        return None


def verifies(algorithm: SignatureAlgorithm, public: bytes, test: dict[str, Any]) -> bool:
    """Say whether the signature holds; QF/1 signs with an empty context, others go to the engine itself."""
    message, signature = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
    context = bytes.fromhex(test.get("ctx", ""))
    try:
        if context:
            PUBLIC_KEYS[algorithm.name].from_public_bytes(public).verify(signature, message, context)
        else:
            algorithm.verify(public, message, signature)
    except (Refusal, InvalidSignature, ValueError):
        return False
    return True


@pytest.mark.parametrize(("engine", "name"), KEM_ENGINES)
def test_mlkem_decapsulates_the_valid_and_refuses_the_invalid(engine: str, name: str) -> None:
    algorithm = kem_by(engine, name)
    tests = [test for group in groups(filename(name, "test")) for test in group["tests"]]
    for test in tests:
        expected = bytes.fromhex(test["K"]) if test["result"] == "valid" else None
        assert opens(algorithm, test) == expected, test["tcId"]
    assert len(tests) == 193


@pytest.mark.parametrize(("engine", "name"), KEM_ENGINES)
def test_the_public_keys_of_valid_mlkem_vectors_can_be_encapsulated_to(engine: str, name: str) -> None:
    algorithm = kem_by(engine, name)
    for group in groups(filename(name, "test")):
        for test in group["tests"][:20]:
            if test["result"] == "valid":
                secret, ciphertext = algorithm.encapsulate(bytes.fromhex(test["ek"]))
                assert algorithm.decapsulate(bytes.fromhex(test["seed"]), ciphertext) == secret


@pytest.mark.parametrize(("engine", "name"), signature_engines(PUBLIC_KEYS))
def test_mldsa_accepts_the_valid_and_refuses_the_invalid(engine: str, name: str) -> None:
    algorithm = signature_by(engine, name)
    count = 0
    for group in groups(filename(name, "verify_test")):
        public = bytes.fromhex(group["publicKey"])
        for test in group["tests"]:
            assert verifies(algorithm, public, test) == (test["result"] == "valid"), (test["tcId"], test["flags"])
            count += 1
    assert count >= 180
