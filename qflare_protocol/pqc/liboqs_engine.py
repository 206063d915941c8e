"""KEMs and signatures as liboqs provides them through the optional package liboqs-python.

Importing `oqs` where no native library is present clones, builds and raises `SystemExit`, so the
library is looked for first, in the places where `oqs` itself looks. liboqs-python checks no lengths:
every input of this engine has passed the checks of `KemAlgorithm` and `SignatureAlgorithm`.

Names prove nothing: liboqs up to 0.15 gives the name of the salted FrodoKEM to the unsalted one. A
mechanism is used only if all its sizes are those of the algorithm. A private key is a seed in QF/1 where
the algorithm has one; liboqs derives ML-KEM keys from seeds and ML-DSA keys not, so it serves the first
and not the second.
"""

import contextlib
import ctypes
import ctypes.util
import importlib
import importlib.util
import os
import secrets
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc.algorithms import KEMS, SIGNATURES
from qflare_protocol.pqc.interface import EngineUnavailable, KemEngine, KeyPair, SignatureEngine
from qflare_protocol.pqc.slh_dsa import public_half

ENGINE = "liboqs"

_SIGNATURE_MECHANISMS = {"SLH-DSA-SHA2-128f": "SLH_DSA_PURE_SHA2_128F"}


def serve_kem(name: str) -> "LiboqsKem":
    """Return the engine for the KEM of that name. Raises `EngineUnavailable`."""
    oqs, kem = _present_oqs(), KEMS[name]
    if name not in oqs.get_enabled_kem_mechanisms():
        raise EngineUnavailable(f"liboqs is built without {name} here")
    with oqs.KeyEncapsulation(name) as native:
        details = native.details
    sizes = tuple(details[f"length_{part}"] for part in ("public_key", "ciphertext", "shared_secret"))
    if sizes != (kem.public_key_bytes, kem.ciphertext_bytes, kem.shared_secret_bytes):
        raise EngineUnavailable(f"liboqs has another variant under the name {name} (ciphertext {sizes[1]} bytes)")
    if details["length_secret_key"] == kem.private_key_bytes:
        return LiboqsKem(oqs, name)
    if details.get("length_keypair_seed") == kem.private_key_bytes:
        return LiboqsSeedKem(oqs, name)
    raise EngineUnavailable(f"liboqs does not derive {name} keys from seeds")


def serve_signature(name: str) -> "LiboqsSignature":
    """Return the engine for the signature scheme of that name. Raises `EngineUnavailable`."""
    oqs, mechanism = _present_oqs(), _SIGNATURE_MECHANISMS.get(name, name)
    if mechanism not in oqs.get_enabled_sig_mechanisms():
        raise EngineUnavailable(f"liboqs is built without {mechanism} here")
    with oqs.Signature(mechanism) as native:
        details = native.details
    signature = SIGNATURES[name]
    if details["length_secret_key"] != signature.private_key_bytes:
        raise EngineUnavailable(f"liboqs does not derive {name} keys from seeds")
    sizes = (details["length_public_key"], details["length_signature"])
    if sizes != (signature.public_key_bytes, signature.signature_bytes):
        raise EngineUnavailable(f"liboqs has another variant under the name {mechanism}")
    return LiboqsSignature(oqs, mechanism)


class LiboqsKem(KemEngine):
    """One KEM mechanism of liboqs; a native object lives for one operation, so threads share nothing."""

    engine = ENGINE

    def __init__(self, oqs: Any, mechanism: str) -> None:
        self._oqs, self._mechanism = oqs, mechanism

    def generate(self) -> KeyPair:
        with self._oqs.KeyEncapsulation(self._mechanism) as native:
            public = native.generate_keypair()
            return KeyPair(private=native.export_secret_key(), public=public)

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        with self._oqs.KeyEncapsulation(self._mechanism) as native:
            try:
                ciphertext, secret = native.encap_secret(public)
            except RuntimeError as error:
                raise Refusal("invalid-key", f"liboqs refuses the {self._mechanism} public key.") from error
        return secret, ciphertext

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        with self._oqs.KeyEncapsulation(self._mechanism, private) as native:
            return self._decapsulated(native, ciphertext)

    def _decapsulated(self, native: Any, ciphertext: bytes) -> bytes:
        try:
            secret: bytes = native.decap_secret(ciphertext)
        except RuntimeError as error:
            raise Refusal("malformed-message", f"liboqs refuses the {self._mechanism} ciphertext.") from error
        return secret


class LiboqsSeedKem(LiboqsKem):
    """A KEM mechanism whose private key is kept as the seed and expanded for each decapsulation."""

    def generate(self) -> KeyPair:
        with self._oqs.KeyEncapsulation(self._mechanism) as native:
            seed = secrets.token_bytes(native.details["length_keypair_seed"])
            return KeyPair(private=seed, public=native.generate_keypair_seed(seed))

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        with self._oqs.KeyEncapsulation(self._mechanism) as native:
            native.generate_keypair_seed(private)
            return self._decapsulated(native, ciphertext)


class LiboqsSignature(SignatureEngine):
    """SLH-DSA of liboqs, pure mode with an empty context."""

    engine = ENGINE

    def __init__(self, oqs: Any, mechanism: str) -> None:
        self._oqs, self._mechanism = oqs, mechanism

    def generate(self) -> KeyPair:
        with self._oqs.Signature(self._mechanism) as native:
            public = native.generate_keypair()
            return KeyPair(private=native.export_secret_key(), public=public)

    def public_key(self, private: bytes) -> bytes:
        return public_half(private)

    def sign(self, private: bytes, message: bytes) -> bytes:
        with self._oqs.Signature(self._mechanism, private) as native:
            signature: bytes = native.sign(message)
        return signature

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        with self._oqs.Signature(self._mechanism) as native:
            return bool(native.verify(message, signature, public))


def version() -> str | None:
    """Return the version of the native library, or None where there is none."""
    oqs = load_oqs()
    return None if oqs is None else str(oqs.oqs_version())


def _present_oqs() -> Any:
    oqs = load_oqs()
    if oqs is None:
        raise EngineUnavailable("liboqs is not installed here")
    return oqs


@cache
def load_oqs() -> Any | None:
    """Return the module `oqs`, or None where the package or the native library is absent."""
    if importlib.util.find_spec("oqs") is None or not native_library_present():
        return None
    # The wrapper logs to standard output, which belongs to our commands' JSON.
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")  # a differing minor version of the wrapper only warns; self_test decides
        return importlib.import_module("oqs")


def native_library_present() -> bool:
    """Say whether a liboqs can be loaded from one of the places where `oqs` will look for it."""
    return any(_loads(candidate) for candidate in _candidates())


def _candidates() -> list[str]:
    found = [ctypes.util.find_library(name) for name in ("oqs", "liboqs")]
    prefix = Path(os.environ.get("OQS_INSTALL_PATH", Path.home() / "_oqs"))
    return [name for name in found if name] + [str(prefix / folder / "liboqs.so") for folder in ("lib", "lib64")]


def _loads(candidate: str) -> bool:
    try:
        ctypes.CDLL(candidate)
    except OSError:
        return False
    return True
