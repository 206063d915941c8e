"""The KEK file is made once, belongs to one owner, has to be acknowledged, and says plainly what is wrong with it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyring.checks import check_kek_provider
from keyring.kek import KekDoesNotOpen, KekError, KekMissing, find_kek, get_kek, provider_named
from keyring.kek_file import FileKek, FileProvider

AAD = b"a row"


@pytest.fixture
def kek_file(tmp_path: Path, settings: Any) -> Path:
    settings.QFLARE_KEK_FILE = tmp_path / "keys" / "kek"
    return tmp_path / "keys" / "kek"


def check_ids() -> list[str | None]:
    return [message.id for message in check_kek_provider(None)]


def test_a_kek_is_made_for_its_owner_alone(kek_file: Path) -> None:
    made = FileProvider().create()
    assert FileProvider().keks() == [made]
    assert len(kek_file.read_bytes()) == 32
    assert kek_file.stat().st_mode & 0o777 == 0o600
    assert kek_file.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in kek_file.parent.iterdir()] == ["kek"]


def test_listing_makes_nothing(kek_file: Path) -> None:
    assert FileProvider().keks() == []
    assert not kek_file.parent.exists()


def test_what_a_kek_wrapped_it_unwraps(kek_file: Path) -> None:
    kek = FileProvider().create()
    wrapped = kek.wrap(b"k" * 32, AAD)
    assert len(wrapped) == 60
    assert FileProvider().keks()[0].unwrap(wrapped, AAD) == b"k" * 32
    assert AESGCM(kek_file.read_bytes()).decrypt(wrapped[:12], wrapped[12:], AAD) == b"k" * 32


@pytest.mark.parametrize("position", [0, 11, 12, 43, 44, 59])
def test_a_changed_byte_of_a_wrapped_data_key_is_refused(kek_file: Path, position: int) -> None:
    kek = FileProvider().create()
    changed = bytearray(kek.wrap(b"k" * 32, AAD))
    changed[position] ^= 1
    with pytest.raises(KekDoesNotOpen, match="damaged or belongs to another row") as refusal:
        kek.unwrap(bytes(changed), AAD)
    assert isinstance(refusal.value.__cause__, InvalidTag)


@pytest.mark.parametrize("length", [0, 59, 61])
def test_a_wrapped_data_key_of_another_length_is_refused(kek_file: Path, length: int) -> None:
    with pytest.raises(KekDoesNotOpen, match=f"has 60 bytes, not {length}"):
        FileProvider().create().unwrap(bytes(length), AAD)


def test_a_wrapped_data_key_of_another_row_is_refused(kek_file: Path) -> None:
    kek = FileProvider().create()
    with pytest.raises(KekDoesNotOpen):
        kek.unwrap(kek.wrap(b"k" * 32, AAD), b"another row")


def test_a_new_kek_lies_beside_the_old_one_and_is_current(kek_file: Path) -> None:
    made = [FileProvider().create() for _ in range(11)]
    assert FileProvider().keks() == made
    assert len({kek.id for kek in made}) == 11
    assert made[-1].place == str(kek_file.with_name("kek.11"))


def test_other_files_beside_the_kek_are_none(kek_file: Path) -> None:
    made = FileProvider().create()
    for name in ("kek.bak", "kek.02", "kek.0", "kek.2.old", ".kek.3", "kekx2"):
        (kek_file.parent / name).write_bytes(b"x")
    assert FileProvider().keks() == [made]


def test_a_destroyed_kek_is_gone_and_to_destroy_it_again_is_no_error(kek_file: Path) -> None:
    first, second = FileProvider().create(), FileProvider().create()
    FileProvider().destroy(first.id)
    FileProvider().destroy(first.id)
    assert FileProvider().keks() == [second]
    assert not kek_file.exists()
    assert FileProvider().create().place.endswith("kek.3")


def test_a_kek_that_vanishes_while_it_is_listed_is_no_error(kek_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = FileProvider().create()
    listed = [(1, kek_file), (2, kek_file.with_name("kek.2"))]
    monkeypatch.setattr("keyring.kek_file.kek_files", lambda base: listed)
    assert FileProvider().keks() == [kept]


def test_processes_that_race_agree_on_one_kek(kek_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyring.kek_file.kek_files", lambda base: [])
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: FileProvider().create().id, range(16)))
    assert len(ids) == 1


def test_a_kek_that_others_can_read_is_refused(kek_file: Path) -> None:
    FileProvider().create()
    kek_file.chmod(0o640)
    with pytest.raises(KekError, match="mode 0640; run chmod 600"):
        FileProvider().keks()


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_kek_of_another_length_is_refused(kek_file: Path, size: int) -> None:
    FileProvider().create()
    kek_file.write_bytes(bytes(size))
    with pytest.raises(KekError, match="must hold 32 bytes"):
        FileProvider().keks()
    assert check_ids() == ["qflare.keyring.E003"]


def test_a_kek_that_cannot_be_made_is_reported_with_its_path(tmp_path: Path, settings: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    settings.QFLARE_KEK_FILE = tmp_path / "file" / "kek"
    with pytest.raises(KekError, match=str(tmp_path)):
        FileProvider().create()
    assert check_ids() == ["qflare.keyring.E005"]


def test_the_key_does_not_show(kek_file: Path) -> None:
    kek = FileProvider().create()
    assert isinstance(kek, FileKek)
    shown = f"{kek!r} {kek} {vars(FileProvider())}"
    assert "key=" not in shown
    assert kek_file.read_bytes().hex() not in shown
    assert repr(kek_file.read_bytes()) not in shown


def test_a_file_that_nobody_acknowledged_is_refused_at_every_use(kek_file: Path, settings: Any) -> None:
    kek = FileProvider().create()
    settings.QFLARE_ACKNOWLEDGE_FILE_KEK = False
    uses = [FileProvider().keks, FileProvider().create, lambda: FileProvider().destroy(kek.id)]
    for use in uses:
        with pytest.raises(KekError, match="QFLARE_ACKNOWLEDGE_FILE_KEK=1"):
            use()
    assert check_ids() == ["qflare.keyring.E007"]
    settings.DEBUG = True
    assert FileProvider().keks() == [kek]
    assert check_ids() == []


def test_a_kek_is_found_by_its_id(kek_file: Path) -> None:
    first, second = FileProvider().create(), FileProvider().create()
    assert find_kek("file", first.id) == first
    assert get_kek("file", second.id) == second
    assert find_kek("file", bytes(16)) is None
    with pytest.raises(KekMissing, match=f"no KEK {bytes(16).hex()}; restore it, or recover from escrow"):
        get_kek("file", bytes(16))


def test_an_unknown_provider_is_refused_and_reported(settings: Any) -> None:
    with pytest.raises(KekError, match="no KEK provider named 'cloud'; use one of file, pkcs11"):
        provider_named("cloud")
    settings.QFLARE_KEK_PROVIDER = "cloud"
    assert check_ids() == ["qflare.keyring.E006"]


def test_a_sound_kek_passes_the_checks_and_checking_makes_nothing(kek_file: Path) -> None:
    assert check_ids() == []
    assert not kek_file.parent.exists()
    FileProvider().create()
    assert check_ids() == []


def test_the_checks_name_what_is_open_to_others(kek_file: Path) -> None:
    FileProvider().create()
    kek_file.chmod(0o644)
    kek_file.parent.chmod(0o777)
    messages = check_kek_provider(None)
    assert [message.id for message in messages] == ["qflare.keyring.E002", "qflare.keyring.E004"]
    assert "mode 0644" in messages[0].msg
    assert messages[0].hint == f"Run: chmod 600 {kek_file}"


def test_a_successor_that_others_can_read_is_named_too(kek_file: Path) -> None:
    FileProvider().create()
    FileProvider().create()
    kek_file.with_name("kek.2").chmod(0o644)
    (message,) = check_kek_provider(None)
    assert message.hint == f"Run: chmod 600 {kek_file}.2"


def test_a_folder_this_process_cannot_write_is_reported(kek_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyring.checks.os.access", lambda path, mode: False)
    assert check_ids() == ["qflare.keyring.E005"]


def test_a_missing_setting_is_reported(settings: Any) -> None:
    settings.QFLARE_KEK_FILE = ""
    assert check_ids() == ["qflare.keyring.E001"]
