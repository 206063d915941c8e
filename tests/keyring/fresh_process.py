"""A process that has just started: its KEK file lies in the test's own folder, and it has opened no key yet."""

from pathlib import Path
from typing import Any

import pytest

from keyring import data_keys, services


@pytest.fixture(autouse=True)
def kek_file(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings.QFLARE_KEK_FILE = tmp_path / "keys" / "kek"
    restart(monkeypatch)
    return tmp_path / "keys" / "kek"


def restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a process remembers of data keys and signers."""
    monkeypatch.setattr(data_keys, "_OPEN_KEYS", data_keys._OpenKeys())
    monkeypatch.setattr(services, "_SIGNERS", {})
