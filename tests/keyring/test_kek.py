"""The KEK file is made once, belongs to one owner, and says plainly what is wrong with it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from keyring import kek
from keyring.checks import check_kek_file


@pytest.fixture
def kek_file(tmp_path: Path, settings: Any) -> Iterator[Path]:
    settings.QFLARE_KEK_FILE = tmp_path / "keys" / "kek"
    kek._kek_at.cache_clear()
    yield settings.QFLARE_KEK_FILE
    kek._kek_at.cache_clear()


def check_ids() -> list[str | None]:
    return [message.id for message in check_kek_file(None)]


def test_the_kek_is_made_on_first_use_for_its_owner_alone(kek_file: Path) -> None:
    made = kek.current_kek()
    assert kek_file.read_bytes() == made.key
    assert len(made.key) == 32
    assert kek_file.stat().st_mode & 0o777 == 0o600
    assert kek_file.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in kek_file.parent.iterdir()] == ["kek"]


def test_the_kek_is_the_same_after_a_restart_and_is_read_once(kek_file: Path) -> None:
    first = kek.current_kek()
    kek._kek_at.cache_clear()
    assert kek.current_kek() == first
    kek_file.unlink()
    assert kek.current_kek() == first


def test_processes_that_race_agree_on_one_kek(kek_file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: kek._kek_at.__wrapped__(kek_file).key, range(16)))
    assert keys == {kek_file.read_bytes()}


def test_a_kek_that_others_can_read_is_refused(kek_file: Path) -> None:
    kek.current_kek()
    kek._kek_at.cache_clear()
    kek_file.chmod(0o640)
    with pytest.raises(ImproperlyConfigured, match="mode 0640; run chmod 600"):
        kek.current_kek()


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_kek_of_another_length_is_refused(kek_file: Path, size: int) -> None:
    kek.current_kek()
    kek._kek_at.cache_clear()
    kek_file.write_bytes(bytes(size))
    with pytest.raises(ImproperlyConfigured, match="must hold 32 bytes"):
        kek.current_kek()
    assert check_ids() == ["qflare.keyring.E003"]


def test_a_kek_that_cannot_be_made_is_reported_with_its_path(tmp_path: Path, settings: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    settings.QFLARE_KEK_FILE = tmp_path / "file" / "kek"
    with pytest.raises(ImproperlyConfigured, match=str(tmp_path)):
        kek.current_kek()


def test_the_key_does_not_show_in_repr(kek_file: Path) -> None:
    assert "key=" not in repr(kek.current_kek())


def test_a_sound_kek_passes_the_checks_and_checking_makes_nothing(kek_file: Path) -> None:
    assert check_ids() == []
    assert not kek_file.parent.exists()
    kek.current_kek()
    assert check_ids() == []


def test_the_checks_name_what_is_open_to_others(kek_file: Path) -> None:
    kek.current_kek()
    kek_file.chmod(0o644)
    kek_file.parent.chmod(0o777)
    messages = check_kek_file(None)
    assert [message.id for message in messages] == ["qflare.keyring.E002", "qflare.keyring.E004"]
    assert "mode 0644" in messages[0].msg
    assert messages[0].hint == f"Run: chmod 600 {kek_file}"


def test_a_folder_this_process_cannot_write_is_reported(kek_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyring.checks.os.access", lambda path, mode: False)
    assert check_ids() == ["qflare.keyring.E005"]


def test_a_missing_setting_is_reported(settings: Any) -> None:
    settings.QFLARE_KEK_FILE = ""
    assert check_ids() == ["qflare.keyring.E001"]
