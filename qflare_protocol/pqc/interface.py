"""The small interface that every engine implements, and the length checks that stand before it.

Engines differ in what they check themselves (liboqs-python pads a truncated public key with zeros
and encapsulates to it), so `KemAlgorithm` and `SignatureAlgorithm` check every length and refuse
all-zero keys before any engine sees the bytes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc.algorithms import KemParameters, SignatureParameters


class EngineUnavailable(Exception):  # noqa: N818 - it says what is the case
    """An engine is not here, or cannot serve an algorithm; the message is a clause that says why."""


@dataclass(frozen=True)
class KeyPair:
    """A private key (a seed where the algorithm has one) and its public key, both raw bytes."""

    private: bytes = field(repr=False)
    public: bytes


class KemEngine(ABC):
    """A key encapsulation mechanism as one library provides it; inputs arrive length-checked."""

    engine: str

    @abstractmethod
    def generate(self) -> KeyPair: ...

    @abstractmethod
    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return (shared secret, ciphertext)."""

    @abstractmethod
    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes: ...


class SignatureEngine(ABC):
    """A signature scheme as one library provides it; inputs arrive length-checked."""

    engine: str

    @abstractmethod
    def generate(self) -> KeyPair: ...

    @abstractmethod
    def public_key(self, private: bytes) -> bytes: ...

    @abstractmethod
    def sign(self, private: bytes, message: bytes) -> bytes: ...

    @abstractmethod
    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class KemAlgorithm(KemParameters):
    """A KEM with its exact sizes in bytes, in front of one engine."""

    implementation: KemEngine = field(repr=False)

    @property
    def engine(self) -> str:
        """The name of the library that serves this algorithm here."""
        return self.implementation.engine

    def generate(self) -> KeyPair:
        """Make a fresh key pair."""
        return self.implementation.generate()

    def check_public_key(self, public: object) -> bytes:
        """Return `public` as bytes.

        Raises `Refusal("invalid-key")` for a wrong length or a part of zeros only. Whether a key of the
        right form is a key at all (the modulus check of ML-KEM, a point on its curve) shows in use.
        """
        return _checked_key(public, self.public_key_bytes, f"{self.name} public key", self.public_key_parts)

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return (shared secret, ciphertext) for the public key. Raises `Refusal("invalid-key")`."""
        return self.implementation.encapsulate(self.check_public_key(public))

    def decapsulate(self, private: bytes, ciphertext: object) -> bytes:
        """Return the shared secret; a ciphertext for another key gives another secret, not an error.

        Raises `Refusal("malformed-message")` for a ciphertext of the wrong length, or one that no
        encapsulation makes (a point off the curve, padding that is set), and `Refusal("invalid-key")`
        for a private key of the wrong length or with a part of zeros only.
        """
        _checked_key(private, self.private_key_bytes, f"{self.name} private key", self.private_key_parts)
        if not isinstance(ciphertext, bytes) or len(ciphertext) != self.ciphertext_bytes:
            raise Refusal("malformed-message", f"A {self.name} ciphertext is {self.ciphertext_bytes} bytes.")
        return self.implementation.decapsulate(private, ciphertext)


@dataclass(frozen=True, kw_only=True)
class SignatureAlgorithm(SignatureParameters):
    """A signature scheme with its exact sizes in bytes, in front of one engine."""

    implementation: SignatureEngine = field(repr=False)

    @property
    def engine(self) -> str:
        """The name of the library that serves this algorithm here."""
        return self.implementation.engine

    def generate(self) -> KeyPair:
        """Make a fresh key pair; the private key is the seed where the algorithm has one (ML-DSA)."""
        return self.implementation.generate()

    def public_key(self, private: bytes) -> bytes:
        """Derive the public key from the private key."""
        return self.implementation.public_key(_checked_key(private, self.private_key_bytes, f"{self.name} private key"))

    def check_public_key(self, public: object) -> bytes:
        """Return `public` as bytes. Raises `Refusal("invalid-key")` for a wrong length or all zeros."""
        return _checked_key(public, self.public_key_bytes, f"{self.name} public key")

    def sign(self, private: bytes, message: bytes) -> bytes:
        """Sign with an empty FIPS 204 or 205 context: domains are separated inside the message."""
        _checked_key(private, self.private_key_bytes, f"{self.name} private key")
        return self.implementation.sign(private, message)

    def verify(self, public: object, message: bytes, signature: object) -> None:
        """Return when the signature holds. Raises `Refusal("invalid-signature")` otherwise."""
        key = self.check_public_key(public)
        if not isinstance(signature, bytes) or len(signature) != self.signature_bytes:
            raise Refusal("invalid-signature", f"The {self.name} signature does not have {self.signature_bytes} bytes.")
        if not self.implementation.verify(key, message, signature):
            raise Refusal("invalid-signature", f"The {self.name} signature does not verify.")


def _checked_key(key: object, expected_bytes: int, what: str, parts: tuple[int, ...] = ()) -> bytes:
    if not isinstance(key, bytes) or len(key) != expected_bytes:
        raise Refusal("invalid-key", f"The {what} must be {expected_bytes} bytes.")
    start = 0
    for part_bytes in parts or (expected_bytes,):
        if not any(key[start : start + part_bytes]):
            raise Refusal("invalid-key", f"The {what} {'has a part that is' if parts else 'is'} all zeros.")
        start += part_bytes
    return key
