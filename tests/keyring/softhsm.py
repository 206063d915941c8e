"""A token of SoftHSM2 for tests; they are skipped where Debian's package softhsm2 is not installed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pkcs11
import pytest

from keyring import kek_pkcs11

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
TOKEN, PIN, KEY = "qflare-test", "31415926", "qflare-kek"

needs_softhsm = pytest.mark.skipif(
    not (Path(MODULE).exists() and shutil.which("softhsm2-util")), reason="SoftHSM2 is not installed (apt: softhsm2)"
)


@contextmanager
def softhsm_token(folder: Path, settings: Any) -> Iterator[None]:
    """Make an empty token in a folder and point the settings at it; the library forgets it at the end."""
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    earlier = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    command = ["softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--pin", PIN, "--so-pin", "27182818"]
    subprocess.run(command, check=True, capture_output=True)
    point_at(settings)
    pkcs11.lib(MODULE).reinitialize()
    try:
        yield
    finally:
        os.environ.pop("SOFTHSM2_CONF")
        if earlier is not None:
            os.environ["SOFTHSM2_CONF"] = earlier
        pkcs11.lib(MODULE).finalize()


def point_at(settings: Any) -> None:
    """Set what a site sets for this token."""
    settings.QFLARE_KEK_PROVIDER = "pkcs11"
    settings.QFLARE_PKCS11_MODULE, settings.QFLARE_PKCS11_TOKEN = MODULE, TOKEN
    settings.QFLARE_PKCS11_KEY, settings.QFLARE_PKCS11_PIN = KEY, PIN


def stored_key(label: str = KEY) -> dict[Any, Any]:
    """Return what the token tells about a key."""
    with kek_pkcs11._session() as session:
        key = session.get_key(label=label)
        names = ("SENSITIVE", "EXTRACTABLE", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL", "PRIVATE", "MODIFIABLE")
        return {name: key[pkcs11.Attribute[name]] for name in names}
