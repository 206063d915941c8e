"""KEK provider `pkcs11`: an AES-256 key that never leaves a token (an HSM, or SoftHSM2 in tests).

The settings `QFLARE_PKCS11_MODULE`, `_TOKEN` and `_PIN` name the vendor's library, the token's label and the
user PIN, `QFLARE_PKCS11_KEY` the first KEK's label; its successors are `<label>.2`, `<label>.3` and so on.
A KEK's id is its CKA_ID.

The mechanism is CKM_AES_GCM (PKCS#11 v2.40, section 2.12.4) with the row as AAD, a nonce of 96 random
bits that this program makes, and a tag of 128. It is the one standard mechanism that authenticates and binds
AAD; CKM_AES_KEY_WRAP_PAD, the other one that authenticates, cannot bind a row. A token that wants to
make the nonce itself is not supported.

Data keys are kept opened, so a session with the token is opened for one operation and closed: nothing
is left to break when a token restarts, and only the library itself has to be begun anew after a fork.
"""

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from keyring.kek import KEK_BYTES, KEK_ID_BYTES, NONCE_BYTES, TAG_BYTES, Kek, KekDoesNotOpen, KekError, check_wrapped

try:
    import pkcs11
except ImportError:  # the extra qflare[pkcs11] is not installed; every use says so
    pkcs11 = None

REQUIRED = ("QFLARE_PKCS11_MODULE", "QFLARE_PKCS11_TOKEN", "QFLARE_PKCS11_KEY", "QFLARE_PKCS11_PIN")


@dataclass(frozen=True)
class TokenKek:
    """A KEK by its label in the token; the key itself stays there."""

    id: bytes
    label: str

    @property
    def place(self) -> str:
        """The key's label and its token's."""
        return f"{self.label} in token {settings.QFLARE_PKCS11_TOKEN}"

    def wrap(self, data: bytes, aad: bytes) -> bytes:
        """Encrypt inside the token."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._in_token(lambda key, gcm: key.encrypt(data, **gcm), nonce, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Decrypt inside the token. Raises `KekDoesNotOpen`.

        Tokens disagree about the error of a wrong tag; SoftHSM2 says CKR_GENERAL_ERROR.
        """
        wrapped = check_wrapped(wrapped)
        nonce, ciphertext = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]

        def decrypt(key: Any, gcm: dict[str, Any]) -> bytes:
            try:
                return bytes(key.decrypt(ciphertext, **gcm))
            except (
                pkcs11.EncryptedDataInvalid,
                pkcs11.EncryptedDataLenRange,
                pkcs11.FunctionFailed,
                pkcs11.GeneralError,
            ) as error:
                raise KekDoesNotOpen("The token does not open the data key: damaged, or another row's.") from error

        data = self._in_token(decrypt, nonce, aad)
        if len(data) != KEK_BYTES:
            raise KekDoesNotOpen(f"The token gave {len(data)} bytes for a data key of {KEK_BYTES}.")
        return data

    def _in_token(self, operation: Callable[[Any, dict[str, Any]], bytes], nonce: bytes, aad: bytes) -> bytes:
        parameters = pkcs11.GCMParams(nonce, aad, TAG_BYTES * 8)
        gcm = {"mechanism": pkcs11.Mechanism.AES_GCM, "mechanism_param": parameters}
        with _session() as session:
            return bytes(operation(session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, id=self.id), gcm))


class Pkcs11Provider:
    """The KEKs in the token that bear the configured label, alone or with a number."""

    def __init__(self) -> None:
        self._label = str(settings.QFLARE_PKCS11_KEY)

    def keks(self) -> list[Kek]:
        """List the KEKs in the token, oldest first."""
        with _session() as session:
            return [TokenKek(_checked_id(key), key.label) for _, key in self._versions(session)]

    def create(self) -> Kek:
        """Let the token make a new KEK that is sensitive and cannot be extracted."""
        with _session(writable=True) as session:
            versions = self._versions(session)
            version = versions[-1][0] + 1 if versions else 1
            label, kek_id = self._label_of(version), secrets.token_bytes(KEK_ID_BYTES)
            session.generate_key(
                pkcs11.KeyType.AES,
                KEK_BYTES * 8,
                id=kek_id,
                label=label,
                store=True,
                capabilities=pkcs11.MechanismFlag.ENCRYPT | pkcs11.MechanismFlag.DECRYPT,
                template={
                    pkcs11.Attribute.PRIVATE: True,
                    pkcs11.Attribute.SENSITIVE: True,
                    pkcs11.Attribute.EXTRACTABLE: False,
                    pkcs11.Attribute.MODIFIABLE: False,
                },
            )
        return TokenKek(kek_id, label)

    def destroy(self, kek_id: bytes) -> None:
        """Let the token destroy a KEK."""
        with _session(writable=True) as session:
            for _, key in self._versions(session):
                if key.id == kek_id:
                    key.destroy()

    def _versions(self, session: Any) -> list[tuple[int, Any]]:
        """Return (version, key) of the KEKs, oldest first."""
        numbered = re.compile(re.escape(self._label) + r"(?:\.([1-9][0-9]{0,8}))?")
        secret_keys = {
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
            pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.AES,
        }
        found = [(numbered.fullmatch(key.label), key) for key in session.get_objects(secret_keys)]
        versions = [(int(match[1] or 1), key) for match, key in found if match]
        if len({version for version, _ in versions}) != len(versions):
            raise KekError(f"Several keys in the token bear one label of {self._label}; remove what is not the KEK.")
        return sorted(versions, key=lambda version: version[0])

    def _label_of(self, version: int) -> str:
        return self._label if version == 1 else f"{self._label}.{version}"


def missing_settings() -> list[str]:
    """Return the names of the settings that a token needs and that are empty."""
    return [name for name in REQUIRED if not getattr(settings, name, "")]


def _checked_id(key: Any) -> bytes:
    """Return a KEK's CKA_ID, after checking that it can be told apart and has never been outside of its token."""
    kek_id = bytes(key.id)
    if len(kek_id) != KEK_ID_BYTES:
        raise KekError(f"The key {key.label} has a CKA_ID of {len(kek_id)} bytes; a KEK needs {KEK_ID_BYTES}.")
    if not (key[pkcs11.Attribute.ALWAYS_SENSITIVE] and key[pkcs11.Attribute.NEVER_EXTRACTABLE]):
        raise KekError(f"The key {key.label} can be or could be read out of its token; make one with create_kek.")
    return kek_id


class _Library:
    """The vendor's library in this process: PKCS#11 v2.40 section 6.7.1 wants it begun anew in a forked child."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inherited = False
        self._refused_pin: str | None = None
        self._reason = ""

    def check_pin(self) -> None:
        """Raise `KekError` for a PIN that the token has refused already: a few more attempts would lock it."""
        if self._refused_pin == settings.QFLARE_PKCS11_PIN:
            raise KekError(f"The token refuses QFLARE_PKCS11_PIN: {self._reason}. Restart this process with another.")

    def refuse_pin(self, reason: str) -> KekError:
        """Remember that the token refuses the PIN in the settings; return the error that says so."""
        self._refused_pin, self._reason = settings.QFLARE_PKCS11_PIN, reason
        return KekError(f"The token refuses QFLARE_PKCS11_PIN: {reason}.")

    def load(self) -> Any:
        library = pkcs11.lib(settings.QFLARE_PKCS11_MODULE)
        if self.inherited:
            with contextlib.suppress(pkcs11.PKCS11Error):  # a child may not be allowed to end what it never began
                library.finalize()
            library.initialize()
            self.inherited = False
        return library

    def after_fork(self) -> None:
        """Forget a lock that another thread of the parent may hold for ever."""
        self.lock, self.inherited = threading.Lock(), True


_LIBRARY = _Library()
os.register_at_fork(after_in_child=_LIBRARY.after_fork)


@contextlib.contextmanager
def _session(*, writable: bool = False) -> Iterator[Any]:
    """Open a session with the token, one at a time: a login belongs to the whole process.

    Every failure becomes a `KekError` that names the kind of failure and never the PIN.
    """
    if pkcs11 is None:
        raise KekError("The pkcs11 provider needs the package python-pkcs11: install qflare[pkcs11].")
    if missing := missing_settings():
        raise KekError(f"The pkcs11 provider needs {', '.join(missing)}.")
    with _LIBRARY.lock:
        _LIBRARY.check_pin()
        try:
            token = _LIBRARY.load().get_token(token_label=settings.QFLARE_PKCS11_TOKEN)
            with token.open(rw=writable, user_pin=settings.QFLARE_PKCS11_PIN) as session:
                yield session
        except pkcs11.PinLocked:
            raise KekError(
                "The token refuses QFLARE_PKCS11_PIN: PinLocked. Its security officer can unlock it."
            ) from None
        except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange) as error:
            raise _LIBRARY.refuse_pin(type(error).__name__) from None
        except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
            raise KekError(f"The PKCS#11 token cannot be used: {type(error).__name__}.") from error
