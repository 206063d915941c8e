"""System checks of quantum key distribution: all of its settings or none, and files that can be used."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

from qflare_protocol.qkd import QkdUnavailable
from sessions.qkd import server_kme_client

_NAMES = (
    "QFLARE_QKD_KME_URL", "QFLARE_QKD_SAE_ID", "QFLARE_QKD_CERTIFICATE", "QFLARE_QKD_PRIVATE_KEY", "QFLARE_QKD_CA",
)  # fmt: skip
_FILES = _NAMES[2:]


@register(Tags.security)
def check_qkd(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report QKD settings that are incomplete, files that are absent, and a private key open to others."""
    absent = [name for name in _NAMES if not getattr(settings, name)]
    if len(absent) == len(_NAMES):
        return []
    if absent:
        hint = "Set all five QFLARE_QKD_ variables, or none where this site has no KME."
        return [Error(f"QKD is configured without {', '.join(absent)}.", hint=hint, id="qflare.sessions.E001")]
    return _check_files() or _check_client()


def _check_files() -> list[CheckMessage]:
    findings: list[CheckMessage] = []
    for name in _FILES:
        path = Path(getattr(settings, name))
        if not path.is_file() or not os.access(path, os.R_OK):
            hint = "Give the path of a PEM file that the user running QFLARE can read."
            findings.append(Error(f"{name} names {path}, which cannot be read.", hint=hint, id="qflare.sessions.E002"))
        elif name == "QFLARE_QKD_PRIVATE_KEY" and path.stat().st_mode & 0o077:
            mode = f"{stat.S_IMODE(path.stat().st_mode):04o}"
            sentence = f"The QKD private key {path} can be read by others: mode {mode}."
            findings.append(Error(sentence, hint=f"Run: chmod 600 {path}", id="qflare.sessions.E003"))
    return findings


def _check_client() -> list[CheckMessage]:
    """Load the files as a handshake would; the KME itself is not asked."""
    try:
        server_kme_client()
    except QkdUnavailable as failure:
        hint = "The files are PEM, the key belongs to the certificate and has no passphrase."
        return [Error(str(failure), hint=hint, id="qflare.sessions.E004")]
    return []
