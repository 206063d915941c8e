"""Quantum key distribution on a device: its settings, from flags or the environment, and its way to the KME."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qflare_protocol.errors import Refusal
from qflare_protocol.qkd import KmeClient, QkdUnavailable, QkdUse
from qflare_protocol.qkd.etsi014 import check_sae_id
from qflare_protocol.qkd.kme_client import kme_address

DEVICE_TIMEOUT_SECONDS = 10.0
# flag without dashes: (environment variable, what it is)
_OPTIONS = {
    "qkd_kme": ("QFLARE_EDGE_QKD_KME", "address of this device's KME, such as https://kme.example:8443"),
    "qkd_sae": ("QFLARE_EDGE_QKD_SAE", "id under which the KME knows this device"),
    "qkd_certificate": ("QFLARE_EDGE_QKD_CERTIFICATE", "PEM file of this device's certificate for the KME"),
    "qkd_private_key": ("QFLARE_EDGE_QKD_PRIVATE_KEY", "PEM file of its private key, mode 0600"),
    "qkd_ca": ("QFLARE_EDGE_QKD_CA", "PEM file of the only authority believed to name the KME"),
}
_FILES = ("qkd_certificate", "qkd_private_key", "qkd_ca")
_USE_VARIABLE = "QFLARE_EDGE_QKD"


@dataclass(frozen=True)
class QkdSettings:
    """Whether this device wants a QKD key in its sessions, and where it gets one. `use` is off without a KME."""

    use: QkdUse
    kme_url: str = ""
    sae_id: str = ""
    certificate: Path = Path()
    private_key: Path = Path()
    ca: Path = Path()


OFF = QkdSettings(QkdUse.OFF)


def add_qkd_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `qkd_settings`; each can stand in the environment instead."""
    group = parser.add_argument_group("quantum key distribution", "a key of ETSI GS QKD 014 in each session's root")
    group.add_argument(
        "--qkd",
        choices=[use.value for use in QkdUse],
        help=f"whether a session has a QKD key; preferred where a KME is named, else off ({_USE_VARIABLE})",
    )
    for name, (variable, what) in _OPTIONS.items():
        group.add_argument(f"--{name.replace('_', '-')}", help=f"{what} ({variable})")


def qkd_settings(options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> QkdSettings:
    """Return the settings of the flags or, where a flag is absent, of the environment.

    Raises `Refusal`: "malformed-message" for settings that are incomplete or mistaken, "invalid-key"
    for a private key that others can read.
    """
    values = {name: getattr(options, name, None) or environment.get(row[0], "") for name, row in _OPTIONS.items()}
    use = _use(getattr(options, "qkd", None) or environment.get(_USE_VARIABLE, ""), named=any(values.values()))
    if use is QkdUse.OFF:
        return OFF
    absent = [f"--{name.replace('_', '-')}" for name, value in values.items() if not value]
    if absent:
        raise Refusal("malformed-message", f"For QKD name also {', '.join(absent)}, or turn it off (--qkd off).")
    settings = QkdSettings(use, values["qkd_kme"], values["qkd_sae"], *(Path(values[name]) for name in _FILES))
    _check(settings)
    return settings


def device_kme_client(settings: QkdSettings) -> KmeClient | None:
    """Return the client of the device's KME, or None where QKD is off. Raises `QkdUnavailable`."""
    if settings.use is QkdUse.OFF:
        return None
    return KmeClient(
        settings.kme_url, settings.certificate, settings.private_key, settings.ca, timeout=DEVICE_TIMEOUT_SECONDS
    )


def _use(text: str, *, named: bool) -> QkdUse:
    if not text:
        return QkdUse.PREFERRED if named else QkdUse.OFF
    try:
        return QkdUse(text)
    except ValueError as error:
        raise Refusal("malformed-message", f"{_USE_VARIABLE} is one of {', '.join(QkdUse)}.") from error


def _check(settings: QkdSettings) -> None:
    """Refuse what no retry mends; whether the KME answers is seen at the first session."""
    try:
        kme_address(settings.kme_url)
        check_sae_id(settings.sae_id)
    except QkdUnavailable as mistake:
        raise Refusal("malformed-message", str(mistake)) from mistake
    for file in (settings.certificate, settings.private_key, settings.ca):
        if not file.is_file():
            raise Refusal("malformed-message", f"There is no file {file}, which QKD needs.")
    if settings.private_key.stat().st_mode & 0o077:
        raise Refusal("invalid-key", f"Others can read {settings.private_key}; set its mode to 0600.")
