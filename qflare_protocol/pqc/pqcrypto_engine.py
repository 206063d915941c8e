"""Classic McEliece and SLH-DSA as the optional package pqcrypto provides them (`pip install qflare[pqcrypto]`).

Release 1.0 is the first with SLH-DSA of FIPS 205; the releases before it had SPHINCS+ of the third NIST
round and another interface, and are not used. Its ML-KEM and ML-DSA know no seeds and are not used either.
"""

import importlib
import importlib.util
from importlib import metadata
from typing import Any

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc.algorithms import KEMS, SIGNATURES
from qflare_protocol.pqc.interface import EngineUnavailable, KemEngine, KeyPair, SignatureEngine
from qflare_protocol.pqc.mceliece import check_ciphertext_padding, check_public_key_padding
from qflare_protocol.pqc.slh_dsa import public_half

ENGINE = "pqcrypto"

_KEM_MODULES = {"Classic-McEliece-6960119": "mceliece_6960119"}
_SIGNATURE_MODULES = {"SLH-DSA-SHA2-128f": "slh_dsa_sha2_128f"}


def serve_kem(name: str) -> "PqcryptoKem":
    """Return the engine for the KEM of that name. Raises `EngineUnavailable`."""
    native, kem = _module("kem", _KEM_MODULES.get(name), name), KEMS[name]
    sizes = (native.SECRET_KEY_SIZE, native.PUBLIC_KEY_SIZE, native.CIPHERTEXT_SIZE, native.SHARED_SECRET_SIZE)
    if sizes != (kem.private_key_bytes, kem.public_key_bytes, kem.ciphertext_bytes, kem.shared_secret_bytes):
        raise EngineUnavailable(f"pqcrypto has another variant under the name {name}")
    return PqcryptoKem(native, name)


def serve_signature(name: str) -> "PqcryptoSignature":
    """Return the engine for the signature scheme of that name. Raises `EngineUnavailable`."""
    native, signature = _module("sign", _SIGNATURE_MODULES.get(name), name), SIGNATURES[name]
    sizes = (native.SECRET_KEY_SIZE, native.PUBLIC_KEY_SIZE, native.SIGNATURE_SIZE)
    if sizes != (signature.private_key_bytes, signature.public_key_bytes, signature.signature_bytes):
        raise EngineUnavailable(f"pqcrypto has another variant under the name {name}")
    return PqcryptoSignature(native)


class PqcryptoKem(KemEngine):
    """Classic McEliece of pqcrypto, with the checks of the padding that pqcrypto leaves out."""

    engine = ENGINE

    def __init__(self, native: Any, name: str) -> None:
        self._native, self._name = native, name

    def generate(self) -> KeyPair:
        public, private = self._native.keygen()
        return KeyPair(private=private, public=public)

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        check_public_key_padding(public)
        try:
            ciphertext, secret = self._native.encaps(public)
        except ValueError as error:
            raise Refusal("invalid-key", f"pqcrypto refuses the {self._name} public key.") from error
        return secret, ciphertext

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        check_ciphertext_padding(ciphertext)
        try:
            secret: bytes = self._native.decaps(private, ciphertext)
        except ValueError as error:
            raise Refusal("malformed-message", f"pqcrypto refuses the {self._name} ciphertext.") from error
        return secret


class PqcryptoSignature(SignatureEngine):
    """SLH-DSA of pqcrypto, pure mode with an empty context, hedged signing."""

    engine = ENGINE

    def __init__(self, native: Any) -> None:
        self._native = native

    def generate(self) -> KeyPair:
        public, private = self._native.keygen()
        return KeyPair(private=private, public=public)

    def public_key(self, private: bytes) -> bytes:
        return public_half(private)

    def sign(self, private: bytes, message: bytes) -> bytes:
        signature: bytes = self._native.sign(private, message)
        return signature

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        invalid_signature = importlib.import_module("pqcrypto").InvalidSignatureError
        try:
            self._native.verify(public, message, signature)
        except (invalid_signature, ValueError):
            return False
        return True


def version() -> str | None:
    """Return the version of the package, or None where it is absent."""
    return metadata.version("pqcrypto") if _present() else None


def _module(family: str, module: str | None, name: str) -> Any:
    if module is None:
        raise EngineUnavailable(f"pqcrypto does not have {name} with seeds for private keys")
    if not _present():
        raise EngineUnavailable("pqcrypto is not installed here")
    found = getattr(importlib.import_module(f"pqcrypto.{family}"), module, None)
    if found is None or not hasattr(found, "keygen"):
        raise EngineUnavailable(f"pqcrypto {metadata.version('pqcrypto')} is too old for {name}; it needs 1.0")
    return found


def _present() -> bool:
    return importlib.util.find_spec("pqcrypto") is not None
