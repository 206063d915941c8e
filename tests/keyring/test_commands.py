"""What an operator is told about keys at rest, and the way from a file to a token and back."""

from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone

from keyring import rotation
from keyring.columns import Scope
from keyring.custodians import make_custodian_key, read_custodian
from keyring.escrow import split_escrow
from keyring.kek import KekError
from keyring.kek_file import FileProvider
from keyring.kek_pkcs11 import Pkcs11Provider
from keyring.models import DataKey
from keyring.services import server_signer
from tests.factories import make_user
from tests.keyring.fresh_process import kek_file, restart
from tests.keyring.softhsm import PIN, needs_softhsm, point_at, softhsm_token
from tests.keyring.wrapped_site import NOW, opened_values, populate_secrets

__all__ = ["kek_file"]  # a fixture

pytestmark = pytest.mark.django_db


def status() -> str:
    out = StringIO()
    call_command("kek_status", stdout=out, stderr=out)
    return out.getvalue()


def test_create_kek_makes_a_file_once(kek_file: Path) -> None:
    out = StringIO()
    call_command("create_kek", stdout=out)
    (kek,) = FileProvider().keks()
    assert out.getvalue() == f"Made the KEK {kek.id.hex()} (file): {kek_file}\n"
    with pytest.raises(
        CommandError, match=f"There is a KEK already: {kek_file}. Replace it with: manage.py rotate_kek"
    ):
        call_command("create_kek")


def test_create_kek_refuses_a_file_that_nobody_acknowledged(settings: Any) -> None:
    settings.QFLARE_ACKNOWLEDGE_FILE_KEK = False
    with pytest.raises(CommandError, match="acknowledge the file"):
        call_command("create_kek")


def test_the_status_of_a_new_site_says_that_there_is_nothing() -> None:
    assert status() == "Provider file; current KEK: none yet\n"


def test_the_status_names_provider_kek_and_each_data_key_with_age_and_values(kek_file: Path) -> None:
    populate_secrets()
    DataKey.objects.filter(scope=Scope.MODELS).update(created_at=timezone.now() - timedelta(days=40, hours=1))
    (kek,) = FileProvider().keks()
    lines = status().splitlines()
    assert lines[0] == f"Provider file; current KEK: {kek.id.hex()}, {kek_file}"
    by_scope = {row.get_scope_display(): row.id for row in DataKey.objects.all()}
    shown = f"KEK {kek.id.hex()[:16]} (file)"
    assert lines[1:4] == [
        f"models       {by_scope['models']}  current, 40 days, 1 values, {shown}",
        f"server keys  {by_scope['server keys']}  current, 0 days, 2 values, {shown}",
        f"sessions     {by_scope['sessions']}  current, 0 days, 2 values, {shown}",
    ]
    assert lines[4:] == ["Escrow of the server keys: none; run: manage.py escrow_split"]


def test_the_status_names_an_unfinished_rotation_and_retired_keys() -> None:
    populate_secrets()
    rotation.switch_data_keys(rotation.begin_rotation("file", now=NOW), now=NOW)
    said = status()
    assert "A rotation of 2026-03-01 12:00 is unfinished; run: manage.py rotate_kek --to file" in said
    assert said.count("  retired, ") == 3
    assert said.count("  current, ") == 3


def test_the_status_names_the_escrow() -> None:
    custodians = [read_custodian(name, make_custodian_key()[1]) for name in ("carol", "dave", "erin")]
    escrow, _ = split_escrow(custodians, 2, now=NOW)
    assert f"Escrow of the server keys: escrow {str(escrow.id)[:8]}: 2 of 3" in status()


def test_the_status_fails_where_the_kek_is_gone(kek_file: Path) -> None:
    server_signer("identity")
    kek_file.unlink()
    out = StringIO()
    with pytest.raises(CommandError, match="The KEK of 1 data keys cannot be had"):
        call_command("kek_status", stdout=out, stderr=out)
    assert "current, KEK out of reach" in out.getvalue()


def test_the_status_shows_values_of_no_known_data_key(monkeypatch: pytest.MonkeyPatch) -> None:
    populate_secrets()
    DataKey.objects.filter(scope=Scope.SESSIONS).delete()
    assert "2 values name no data key of this site and do not open." in status()


@needs_softhsm
def test_the_status_shows_no_pin_also_where_it_is_wrong(tmp_path: Path, settings: Any) -> None:
    with softhsm_token(tmp_path, settings):
        call_command("create_kek", stdout=StringIO())
        assert "Provider pkcs11; current KEK: " in status()
        settings.QFLARE_PKCS11_PIN = "wrong-pin"
        said = status()
    assert "refuses QFLARE_PKCS11_PIN: PinIncorrect" in said
    assert PIN not in said
    assert "wrong-pin" not in said


@needs_softhsm
def test_a_rotation_takes_a_site_from_a_file_into_a_token_and_on_and_back(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate_secrets()
    secrets = opened_values()
    with softhsm_token(tmp_path, settings):
        settings.QFLARE_KEK_PROVIDER = "file"
        _rotate("pkcs11")
        assert "Data keys stand under pkcs11: set QFLARE_KEK_PROVIDER, or rotate." in status()
        restart(monkeypatch)
        settings.QFLARE_KEK_PROVIDER, settings.QFLARE_ACKNOWLEDGE_FILE_KEK = "pkcs11", False
        assert opened_values() == secrets
        _rotate(None)
        restart(monkeypatch)
        assert opened_values() == secrets
        assert [kek.place.split()[0] for kek in Pkcs11Provider().keks()] == ["qflare-kek.2"]
        settings.QFLARE_ACKNOWLEDGE_FILE_KEK = True
        assert FileProvider().keks() == []
        _rotate("file")
        restart(monkeypatch)
        assert opened_values() == secrets
        assert Pkcs11Provider().keks() == []


@needs_softhsm
def test_a_rotation_takes_the_kek_that_create_kek_made(tmp_path: Path, settings: Any) -> None:
    server_signer("identity")
    with softhsm_token(tmp_path, settings):
        call_command("create_kek", stdout=StringIO())
        (made,) = Pkcs11Provider().keks()
        settings.QFLARE_KEK_PROVIDER = "file"
        _rotate("pkcs11")
        assert Pkcs11Provider().keks() == [made]
        assert {bytes(row.kek_id) for row in DataKey.objects.all()} == {made.id}


def _rotate(to: str | None) -> None:
    options = {} if to is None else {"to": to}
    call_command("rotate_kek", grace_seconds=0, stdout=StringIO(), **options)


def test_a_token_out_of_reach_stops_a_rotation_before_anything_is_changed(settings: Any) -> None:
    populate_secrets()
    before = list(DataKey.objects.values())
    settings.QFLARE_PKCS11_MODULE = ""
    with pytest.raises(CommandError, match="The pkcs11 provider needs QFLARE_PKCS11_MODULE"):
        _rotate("pkcs11")
    assert list(DataKey.objects.values()) == before
    assert rotation.unfinished_rotation() is None


@needs_softhsm
def test_a_token_that_fails_while_values_are_moved_leaves_them_open(tmp_path: Path, settings: Any) -> None:
    populate_secrets()
    secrets = opened_values()
    with softhsm_token(tmp_path, settings):
        begun = rotation.begin_rotation("pkcs11", now=NOW)
        settings.QFLARE_PKCS11_PIN = "wrong-pin"
        with pytest.raises(KekError, match="PinIncorrect"):
            rotation.switch_data_keys(begun, now=NOW)
        settings.QFLARE_KEK_PROVIDER = "file"
        assert opened_values() == secrets
        point_at(settings)
        _rotate("pkcs11")
        assert opened_values() == secrets


def test_the_admin_shows_a_data_key_without_its_wrapping(client: Any) -> None:
    server_signer("identity")
    row = DataKey.objects.get()
    client.force_login(make_user("olga", "view_datakey"))
    for page in (reverse("admin:keyring_datakey_changelist"), reverse("admin:keyring_datakey_change", args=[row.pk])):
        answer = client.get(page)
        assert answer.status_code == 200
        shown = answer.content.decode()
        assert str(row.id) in shown
        assert "server keys" in shown
        assert bytes(row.kek_id).hex()[:16] in shown
        assert bytes(row.wrapped_key).hex()[:32] not in shown
        assert repr(bytes(row.wrapped_key))[2:20] not in shown
