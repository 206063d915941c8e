"""The KEK in a token: it never leaves it, it is found again, and a forked child can use it (against SoftHSM2)."""

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from django.core.management import CommandError, call_command

from keyring import data_keys, kek_pkcs11
from keyring.checks import check_kek_provider
from keyring.columns import Scope
from keyring.kek import Kek, KekDoesNotOpen, KekError
from keyring.kek_pkcs11 import Pkcs11Provider
from keyring.models import DataKey
from tests.keyring.softhsm import KEY, MODULE, PIN, TOKEN, needs_softhsm, softhsm_token, stored_key

AAD = b"a row"


@pytest.fixture
def token(tmp_path: Path, settings: Any) -> Iterator[None]:
    with softhsm_token(tmp_path, settings):
        yield


@pytest.fixture
def kek(token: None) -> Kek:
    return Pkcs11Provider().create()


def refusal_of(use: Callable[[], object]) -> str:
    """Return a refusal as a log would show it: sentence, causes, and the source lines of the traceback."""
    with pytest.raises(KekError) as refusal:
        use()
    return "".join(traceback.format_exception(refusal.value))


@needs_softhsm
def test_a_token_without_a_kek_says_so(token: None) -> None:
    assert Pkcs11Provider().keks() == []


@needs_softhsm
def test_a_kek_is_made_inside_the_token_and_found_again(kek: Kek) -> None:
    assert Pkcs11Provider().keks() == [kek]
    assert len(kek.id) == 16
    assert kek.place == f"{KEY} in token {TOKEN}"
    assert stored_key() == {
        "SENSITIVE": True,
        "EXTRACTABLE": False,
        "ALWAYS_SENSITIVE": True,
        "NEVER_EXTRACTABLE": True,
        "LOCAL": True,
        "PRIVATE": True,
        "MODIFIABLE": False,
    }


@needs_softhsm
def test_the_token_refuses_to_tell_the_key(kek: Kek) -> None:
    with kek_pkcs11._session() as session:
        key = session.get_key(label=KEY)
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]
        with pytest.raises(pkcs11.PKCS11Error):
            key[pkcs11.Attribute.EXTRACTABLE] = True


@needs_softhsm
def test_what_the_token_wrapped_it_unwraps(kek: Kek) -> None:
    wrapped = kek.wrap(b"k" * 32, AAD)
    assert len(wrapped) == 60
    assert b"kkk" not in wrapped
    assert Pkcs11Provider().keks()[0].unwrap(wrapped, AAD) == b"k" * 32
    assert kek.wrap(b"k" * 32, AAD) != wrapped


@needs_softhsm
@pytest.mark.parametrize("position", [0, 12, 43, 44, 59])
def test_a_changed_byte_of_a_wrapped_data_key_is_refused(kek: Kek, position: int) -> None:
    changed = bytearray(kek.wrap(b"k" * 32, AAD))
    changed[position] ^= 1
    with pytest.raises(KekDoesNotOpen):
        kek.unwrap(bytes(changed), AAD)


@needs_softhsm
def test_a_wrapped_data_key_of_another_row_or_length_is_refused(kek: Kek) -> None:
    wrapped = kek.wrap(b"k" * 32, AAD)
    with pytest.raises(KekDoesNotOpen, match="another row"):
        kek.unwrap(wrapped, b"another row")
    with pytest.raises(KekDoesNotOpen, match="has 60 bytes, not 59"):
        kek.unwrap(wrapped[:-1], AAD)


@needs_softhsm
def test_a_kek_and_its_successor_do_not_open_each_other_s(kek: Kek) -> None:
    successor = Pkcs11Provider().create()
    assert Pkcs11Provider().keks() == [kek, successor]
    assert successor.place.startswith(f"{KEY}.2 ")
    with pytest.raises(KekDoesNotOpen):
        successor.unwrap(kek.wrap(b"k" * 32, AAD), AAD)


@needs_softhsm
def test_a_destroyed_kek_is_gone(kek: Kek) -> None:
    successor, wrapped = Pkcs11Provider().create(), kek.wrap(b"k" * 32, AAD)
    Pkcs11Provider().destroy(kek.id)
    Pkcs11Provider().destroy(kek.id)
    assert Pkcs11Provider().keks() == [successor]
    assert "NoSuchKey" in refusal_of(lambda: kek.unwrap(wrapped, AAD))


@needs_softhsm
@pytest.mark.parametrize("pin", ["99999999", "1", "x" * 300])
def test_a_wrong_pin_is_a_clear_error_that_repeats_no_pin(kek: Kek, settings: Any, pin: str) -> None:
    settings.QFLARE_PKCS11_PIN = pin
    shown = refusal_of(Pkcs11Provider().keks)
    assert "The token refuses QFLARE_PKCS11_PIN: Pin" in shown
    assert PIN not in shown
    assert len(pin) < 3 or pin not in shown


@needs_softhsm
def test_a_refused_pin_is_tried_once(kek: Kek, settings: Any) -> None:
    right, settings.QFLARE_PKCS11_PIN = settings.QFLARE_PKCS11_PIN, "99999999"
    for _ in range(20):  # a token locks after far fewer
        assert "PinIncorrect" in refusal_of(Pkcs11Provider().keks)
    settings.QFLARE_PKCS11_PIN = right
    assert Pkcs11Provider().keks() == [kek]


@needs_softhsm
@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("QFLARE_PKCS11_TOKEN", "another", "cannot be used: NoSuchToken"),
        ("QFLARE_PKCS11_MODULE", "/nonexistent/module.so", "cannot be used"),
        ("QFLARE_PKCS11_MODULE", "", "needs QFLARE_PKCS11_MODULE"),
        ("QFLARE_PKCS11_PIN", "", "needs QFLARE_PKCS11_PIN"),
    ],
)
def test_what_is_wrong_with_the_settings_is_named(
    kek: Kek, settings: Any, setting: str, value: str, sentence: str
) -> None:
    setattr(settings, setting, value)
    shown = refusal_of(Pkcs11Provider().keks)
    assert sentence in shown
    assert PIN not in shown


@needs_softhsm
def test_a_key_that_can_be_read_out_is_no_kek(token: None) -> None:
    with kek_pkcs11._session(writable=True) as session:
        template = {pkcs11.Attribute.EXTRACTABLE: True, pkcs11.Attribute.SENSITIVE: False}
        session.generate_key(pkcs11.KeyType.AES, 256, id=bytes(16), label=KEY, store=True, template=template)
    assert "could be read out of its token" in refusal_of(Pkcs11Provider().keks)


@needs_softhsm
def test_two_keys_of_one_label_are_refused(kek: Kek) -> None:
    with kek_pkcs11._session(writable=True) as session:
        session.generate_key(pkcs11.KeyType.AES, 256, id=bytes(16), label=KEY, store=True)
    assert "Several keys in the token bear one label" in refusal_of(Pkcs11Provider().keks)


@needs_softhsm
def test_keys_of_others_in_the_token_are_left_alone(kek: Kek) -> None:
    with kek_pkcs11._session(writable=True) as session:
        for label in ("other", f"{KEY}.02", f"{KEY}-2", f"{KEY}.2.old"):
            session.generate_key(pkcs11.KeyType.AES, 256, id=bytes(16), label=label, store=True)
    assert Pkcs11Provider().keks() == [kek]


def in_child(work: Callable[[], bool]) -> bool:
    """Say whether something comes out true in a forked child."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


@needs_softhsm
def test_a_forked_child_uses_the_token_and_so_does_its_parent_after_it(kek: Kek) -> None:
    wrapped = kek.wrap(b"k" * 32, AAD)

    def opens() -> bool:
        return kek.unwrap(wrapped, AAD) == b"k" * 32

    assert in_child(opens)
    assert opens()
    with kek_pkcs11._session():  # logged in at the moment of the fork, and the lock is held
        assert in_child(opens)
    assert in_child(lambda: in_child(opens))
    assert opens()


@needs_softhsm
def test_threads_share_the_token(kek: Kek) -> None:
    wrapped = kek.wrap(b"k" * 32, AAD)
    start = threading.Barrier(4)

    def opens(_: int) -> bytes:
        start.wait(timeout=20)
        return kek.unwrap(wrapped, AAD)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(opens, range(4))) == {b"k" * 32}


@needs_softhsm
def test_create_kek_makes_one_and_refuses_a_second(token: None) -> None:
    out = StringIO()
    call_command("create_kek", stdout=out)
    (kek,) = Pkcs11Provider().keks()
    assert out.getvalue() == f"Made the KEK {kek.id.hex()} (pkcs11): {KEY} in token {TOKEN}\n"
    with pytest.raises(CommandError, match="There is a KEK already: .* manage.py rotate_kek"):
        call_command("create_kek")
    assert Pkcs11Provider().keks() == [kek]


@needs_softhsm
@pytest.mark.django_db
def test_data_keys_stand_under_the_token_and_need_one_made_first(token: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_keys, "_OPEN_KEYS", data_keys._OpenKeys())
    with pytest.raises(KekError, match="The token holds no KEK; make one with: manage.py create_kek"):
        data_keys.current_data_key(Scope.SESSIONS)
    made = Pkcs11Provider().create()
    opened = data_keys.current_data_key(Scope.SESSIONS)
    row = DataKey.objects.get()
    assert (row.kek_provider, bytes(row.kek_id)) == ("pkcs11", made.id)
    assert data_keys.open_data_key(row) == opened.key


@needs_softhsm
@pytest.mark.django_db
def test_the_token_is_asked_once_for_each_data_key(kek: Kek, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_keys, "_OPEN_KEYS", data_keys._OpenKeys())
    opened = data_keys.current_data_key(Scope.SESSIONS)
    settings.QFLARE_PKCS11_PIN = "wrong"
    assert data_keys.current_data_key(Scope.SESSIONS) == opened


def test_the_checks_name_what_a_token_lacks(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.QFLARE_KEK_PROVIDER, settings.QFLARE_PKCS11_KEY = "pkcs11", KEY
    settings.QFLARE_PKCS11_MODULE, settings.QFLARE_PKCS11_TOKEN, settings.QFLARE_PKCS11_PIN = "", "t", ""
    (message,) = check_kek_provider(None)
    assert message.id == "qflare.keyring.E009"
    assert message.hint == "Set QFLARE_PKCS11_MODULE, QFLARE_PKCS11_PIN; the PIN best as QFLARE_PKCS11_PIN_FILE."
    settings.QFLARE_PKCS11_MODULE, settings.QFLARE_PKCS11_PIN = str(tmp_path / "absent.so"), PIN
    (message,) = check_kek_provider(None)
    assert message.id == "qflare.keyring.E010"
    assert PIN not in f"{message.msg} {message.hint}"
    (tmp_path / "absent.so").write_bytes(b"")
    assert check_kek_provider(None) == []
    monkeypatch.setattr(kek_pkcs11, "pkcs11", None)
    (message,) = check_kek_provider(None)
    assert message.id == "qflare.keyring.E008"


def test_without_the_package_every_use_says_what_to_install(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.QFLARE_PKCS11_MODULE = MODULE
    monkeypatch.setattr(kek_pkcs11, "pkcs11", None)
    with pytest.raises(KekError, match=r"install qflare\[pkcs11\]"):
        Pkcs11Provider().keks()
    with pytest.raises(KekError, match=r"install qflare\[pkcs11\]"):
        Pkcs11Provider().create()
