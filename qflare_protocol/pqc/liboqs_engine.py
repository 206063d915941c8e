"""FrodoKEM-640-AES as liboqs provides it through the optional package liboqs-python.

Importing `oqs` where no native library is present clones, builds and raises `SystemExit`, so the
library is looked for first, in the places where `oqs` itself looks. liboqs-python checks no lengths:
every input of this engine has passed the checks of `KemAlgorithm`. The salted variant is recognised
by its ciphertext length alone, because liboqs up to 0.15 gives its name to the unsalted one.
"""

import ctypes
import ctypes.util
import importlib
import importlib.util
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from qflare_protocol.pqc import frodo
from qflare_protocol.pqc.interface import KemEngine, KeyPair

ENGINE = "liboqs"


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
            ciphertext, secret = native.encap_secret(public)
        return secret, ciphertext

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        with self._oqs.KeyEncapsulation(self._mechanism, private) as native:
            secret: bytes = native.decap_secret(ciphertext)
        return secret


def salted_frodo640() -> LiboqsKem | None:
    """Return the engine for the salted FrodoKEM-640-AES, or None where liboqs does not offer it."""
    oqs = load_oqs()
    if oqs is None or frodo.NAME not in oqs.get_enabled_kem_mechanisms():
        return None
    with oqs.KeyEncapsulation(frodo.NAME) as native:
        salted = native.details["length_ciphertext"] == frodo.CIPHERTEXT_BYTES
    return LiboqsKem(oqs, frodo.NAME) if salted else None


def version() -> str | None:
    """Return the version of the native library, or None where there is none."""
    oqs = load_oqs()
    return None if oqs is None else str(oqs.oqs_version())


@cache
def load_oqs() -> Any | None:
    """Return the module `oqs`, or None where the package or the native library is absent."""
    if importlib.util.find_spec("oqs") is None or not native_library_present():
        return None
    with warnings.catch_warnings():
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
