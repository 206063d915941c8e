"""Key encryption keys (KEKs), kept outside the database, and the providers that keep them.

A KEK wraps data keys and nothing else (`keyring.data_keys`). A provider keeps one KEK, and a second
one while the first is being replaced; the newest is current. Which provider wraps new data keys is
the setting `QFLARE_KEK_PROVIDER`; a data key names its own, so that two can serve side by side.
"""

from typing import Protocol

from django.conf import settings
from django.db import models

KEK_BYTES = 32
KEK_ID_BYTES = 16
NONCE_BYTES = 12
TAG_BYTES = 16


class KekError(Exception):
    """The KEK cannot be used: it is absent, not acknowledged, out of reach, or not the one that wrapped this."""


class KekDoesNotOpen(KekError):
    """A wrapped data key is damaged or belongs to another row."""


class KekMissing(KekError):
    """The provider works, and has no KEK of this id."""


class Kek(Protocol):
    """One key that wraps data keys."""

    @property
    def id(self) -> bytes:
        """The 16 bytes by which a data key names its KEK."""

    @property
    def place(self) -> str:
        """Where it is kept, for people."""

    def wrap(self, data: bytes, aad: bytes) -> bytes:
        """Encrypt and authenticate a data key: nonce (12) || ciphertext || tag (16). Raises `KekError`."""

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Decrypt what `wrap` made under the same `aad`. Raises `KekDoesNotOpen`, `KekError`."""


class KekProvider(Protocol):
    """A place where KEKs are kept. Every method raises `KekError` when the place cannot be used."""

    def keks(self) -> list[Kek]:
        """Return the KEKs that are kept, oldest first; the last one is current."""

    def create(self) -> Kek:
        """Make a new KEK beside those there are and return it: it is current from now on."""

    def destroy(self, kek_id: bytes) -> None:
        """Destroy a KEK for good; one that is not there is destroyed already."""


class ProviderName(models.TextChoices):
    """The providers there are, as settings and rows name them."""

    FILE = "file", "file"
    PKCS11 = "pkcs11", "PKCS#11 token"


def provider_named(name: str) -> KekProvider:
    """Return a provider. Raises `KekError` for a name that is none."""
    if name == ProviderName.FILE:
        from keyring.kek_file import FileProvider

        return FileProvider()
    if name == ProviderName.PKCS11:
        from keyring.kek_pkcs11 import Pkcs11Provider  # the package behind it is optional

        return Pkcs11Provider()
    raise KekError(f"There is no KEK provider named {name!r}; use one of {', '.join(ProviderName.values)}.")


def configured_provider() -> str:
    """Return the name of the provider that wraps new data keys."""
    return str(settings.QFLARE_KEK_PROVIDER)


def find_kek(provider: str, kek_id: bytes) -> Kek | None:
    """Return a KEK by its id, or None when its provider does not have it. Raises `KekError`."""
    return next((kek for kek in provider_named(provider).keks() if kek.id == kek_id), None)


def get_kek(provider: str, kek_id: bytes) -> Kek:
    """Return a KEK by its id. Raises `KekMissing`, `KekError`."""
    kek = find_kek(provider, kek_id)
    if kek is None:
        raise KekMissing(f"The {provider} provider has no KEK {kek_id.hex()}; restore it, or recover from escrow.")
    return kek


def check_wrapped(wrapped: bytes) -> bytes:
    """Return a wrapped data key of the right length. Raises `KekDoesNotOpen`."""
    expected = NONCE_BYTES + KEK_BYTES + TAG_BYTES
    if len(wrapped) != expected:
        raise KekDoesNotOpen(f"A wrapped data key has {expected} bytes, not {len(wrapped)}.")
    return wrapped
