"""System checks of the keyring: where the KEK lies and who can read it."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

from keyring.kek import KEK_BYTES


@register(Tags.security)
def check_kek_file(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report a KEK file or folder that is missing its setting, unusable, or open to others."""
    setting = getattr(settings, "QFLARE_KEK_FILE", None)
    if not setting:
        hint = "Name the file that shall hold the KEK."
        return [Error("QFLARE_KEK_FILE is not set.", hint=hint, id="qflare.keyring.E001")]
    path = Path(setting)
    return _check_file(path) + _check_folder(path.parent)


def _check_file(path: Path) -> list[CheckMessage]:
    if not path.exists():
        return []  # it is made on first use
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
