"""System checks of the keyring: which provider keeps the KEK, and whether it can.

A token is not opened here: every failed login brings its PIN nearer to being locked. `manage.py
kek_status` opens it.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

from keyring import kek_pkcs11
from keyring.kek import KEK_BYTES, KekError, ProviderName
from keyring.kek_file import kek_files


@register(Tags.security)
def check_kek_provider(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report a provider that there is not, or that lacks what it needs."""
    if settings.QFLARE_KEK_PROVIDER == ProviderName.FILE:
        return _check_acknowledgement() + check_kek_file(app_configs)
    if settings.QFLARE_KEK_PROVIDER == ProviderName.PKCS11:
        return _check_token_settings()
    sentence = f"QFLARE_KEK_PROVIDER is {settings.QFLARE_KEK_PROVIDER!r}."
    return [Error(sentence, hint=f"Use one of {', '.join(ProviderName.values)}.", id="qflare.keyring.E006")]


def check_kek_file(app_configs: Sequence[AppConfig] | None) -> list[CheckMessage]:
    """Report a KEK file or folder that is missing its setting, unusable, or open to others."""
    setting = getattr(settings, "QFLARE_KEK_FILE", None)
    if not setting:
        hint = "Name the file that shall hold the KEK."
        return [Error("QFLARE_KEK_FILE is not set.", hint=hint, id="qflare.keyring.E001")]
    path = Path(setting)
    try:
        files = kek_files(path)
    except KekError as error:
        return [Error(str(error), hint="Give this process's user the folder.", id="qflare.keyring.E005")]
    found = [message for _, file in files for message in _check_file(file)]
    return found + _check_folder(path.parent)


def _check_acknowledgement() -> list[CheckMessage]:
    if settings.DEBUG or settings.QFLARE_ACKNOWLEDGE_FILE_KEK:
        return []
    hint = (
        "Keep it in a token (QFLARE_KEK_PROVIDER=pkcs11), or set QFLARE_ACKNOWLEDGE_FILE_KEK=1: then whoever reads "
        "that file and the database reads every secret at rest."
    )
    return [Error("The KEK is a file on this host.", hint=hint, id="qflare.keyring.E007")]


def _check_token_settings() -> list[CheckMessage]:
    if kek_pkcs11.pkcs11 is None:
        hint = "Run: pip install 'qflare[pkcs11]'"
        return [Error("The package python-pkcs11 is not installed.", hint=hint, id="qflare.keyring.E008")]
    if missing := kek_pkcs11.missing_settings():
        hint = f"Set {', '.join(missing)}; the PIN best as QFLARE_PKCS11_PIN_FILE."
        return [Error("The KEK provider pkcs11 lacks settings.", hint=hint, id="qflare.keyring.E009")]
    if not Path(settings.QFLARE_PKCS11_MODULE).is_file():
        sentence = f"QFLARE_PKCS11_MODULE names {settings.QFLARE_PKCS11_MODULE}, which is no file."
        return [Error(sentence, hint="Name the token vendor's PKCS#11 library.", id="qflare.keyring.E010")]
    return []


def _check_file(path: Path) -> list[CheckMessage]:
    status = path.stat()
    if status.st_mode & 0o077:
        sentence = f"The KEK file {path} can be read by others: {_ownership(status)}."
        return [Error(sentence, hint=f"Run: chmod 600 {path}", id="qflare.keyring.E002")]
    if status.st_size != KEK_BYTES:
        sentence = f"The KEK file {path} has {status.st_size} bytes instead of {KEK_BYTES}."
        return [Error(sentence, hint="Restore it from its backup.", id="qflare.keyring.E003")]
    return []


def _check_folder(folder: Path) -> list[CheckMessage]:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    status = existing.stat()
    if existing == folder and status.st_mode & 0o022:
        sentence = f"The folder {folder} of the KEK can be written by others: {_ownership(status)}."
        return [Error(sentence, hint=f"Run: chmod 700 {folder}", id="qflare.keyring.E004")]
    if not os.access(existing, os.W_OK | os.X_OK):
        sentence = f"The folder {existing} for the KEK cannot be written by this process: {_ownership(status)}."
        return [Error(sentence, hint="Give this process's user the folder.", id="qflare.keyring.E005")]
    return []


def _ownership(status: os.stat_result) -> str:
    return f"owner uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
