"""There is one current data key for each scope, made on first use, opened once per process and dropped when retired."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db import IntegrityError, connection, models, transaction
from django.utils import timezone

from keyring import columns, data_keys
from keyring.columns import Scope, register_wrapped_column, wrapped_columns, wrapped_elsewhere
from keyring.envelope import EnvelopeError, unwrap, wrap
from keyring.kek import KekDoesNotOpen
from keyring.kek_file import FileKek
from keyring.models import DataKey, EscrowSplit, ServerKey
from sessions.models import Session

pytestmark = pytest.mark.django_db

ROW = {"table": "device_sessions_session", "primary_key": 7, "column": "wrapped_secret"}


@pytest.fixture(autouse=True)
def fresh_process(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.QFLARE_KEK_FILE = tmp_path / "kek"
    restart(monkeypatch)


def restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a process remembers."""
    monkeypatch.setattr(data_keys, "_OPEN_KEYS", data_keys._OpenKeys())


@pytest.fixture
def unwrapped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The data keys that the KEK was asked for."""
    asked: list[bytes] = []
    really_unwrap = FileKek.unwrap

    def unwrap_and_count(kek: FileKek, wrapped: bytes, aad: bytes) -> bytes:
        asked.append(wrapped)
        return really_unwrap(kek, wrapped, aad)

    monkeypatch.setattr(FileKek, "unwrap", unwrap_and_count)
    yield asked


def test_a_data_key_is_made_on_first_use_and_stays(tmp_path: Path) -> None:
    first = data_keys.current_data_key(Scope.SESSIONS)
    assert data_keys.current_data_key(Scope.SESSIONS) == first
    row = DataKey.objects.get()
    assert (row.scope, row.kek_provider, row.retired_at) == ("sessions", "file", None)
    assert str(row) == f"data key {str(row.id)[:8]} for sessions"
    assert first.key not in bytes(row.wrapped_key)
    assert len((tmp_path / "kek").read_bytes()) == 32


def test_each_scope_has_a_data_key_of_its_own() -> None:
    assert len({data_keys.current_data_key(scope).key for scope in Scope}) == 3


def test_the_kek_is_asked_once_for_each_data_key_and_process(
    unwrapped: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [wrap(b"secret", **ROW) for _ in range(5)]
    assert [unwrap(value, **ROW) for value in values] == [b"secret"] * 5
    assert len(unwrapped) == 1
    restart(monkeypatch)
    unwrap(values[0], **ROW)
    assert len(unwrapped) == 2


def test_a_key_that_was_retired_is_not_used_for_new_values() -> None:
    old = wrap(b"secret", **ROW)
    DataKey.objects.update(retired_at=timezone.now())
    new = wrap(b"secret", **ROW)
    assert new[1:17] != old[1:17]
    assert unwrap(old, **ROW) == unwrap(new, **ROW) == b"secret"


def test_a_retired_key_is_dropped_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    value = wrap(b"secret", **ROW)
    DataKey.objects.update(retired_at=timezone.now())
    assert len(data_keys._OPEN_KEYS._keys) == 1
    data_keys._OPEN_KEYS._reviewed_at -= data_keys.REVIEW_SECONDS + 1
    DataKey.objects.all().delete()
    with pytest.raises(EnvelopeError, match="unknown data key"):
        unwrap(value, **ROW)
    assert data_keys._OPEN_KEYS._keys == {}


def test_a_current_key_survives_the_review() -> None:
    opened = data_keys.current_data_key(Scope.SESSIONS)
    data_keys.forget_retired_keys()
    assert data_keys._OPEN_KEYS._keys == {opened.id: opened}


def test_an_opened_key_does_not_show() -> None:
    opened = data_keys.current_data_key(Scope.SESSIONS)
    shown = f"{opened!r} {data_keys._OPEN_KEYS!r} {DataKey.objects.get()!r}"
    assert opened.key.hex() not in shown
    assert repr(opened.key) not in shown
    assert "key=" not in shown


@pytest.mark.parametrize("change", [{"scope": "models"}, {"kek_id": bytes(16)}, {"wrapped_key": bytes(60)}])
def test_a_data_key_whose_row_was_tampered_with_opens_nothing(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = wrap(b"secret", **ROW)
    DataKey.objects.update(**change)
    restart(monkeypatch)
    with pytest.raises(EnvelopeError, match="data key that does not open"):
        unwrap(value, **ROW)


def test_a_data_key_copied_into_another_row_does_not_open() -> None:
    data_keys.current_data_key(Scope.SESSIONS)
    data_keys.current_data_key(Scope.MODELS)
    stolen = DataKey.objects.get(scope=Scope.SESSIONS).wrapped_key
    victim = DataKey.objects.get(scope=Scope.MODELS)
    victim.wrapped_key = stolen
    with pytest.raises(KekDoesNotOpen):
        data_keys.open_data_key(victim)


def test_the_database_holds_one_current_data_key_for_a_scope() -> None:
    data_keys.current_data_key(Scope.SESSIONS)
    row = DataKey.objects.get()
    row.pk = None
    row._state.adding = True
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save(force_insert=True)


@pytest.mark.parametrize("scope", [Scope.SESSIONS, Scope.MODELS])
def test_the_database_holds_an_escrow_of_server_keys_only(scope: Scope) -> None:
    data_keys.current_data_key(scope)
    escrow = EscrowSplit.objects.create(threshold=2, custodians=[], backup_kek_id=bytes(16), created_at=timezone.now())
    with pytest.raises(IntegrityError), transaction.atomic():
        DataKey.objects.update(escrow=escrow, wrapped_for_escrow=b"x")
    with pytest.raises(IntegrityError), transaction.atomic():
        DataKey.objects.update(wrapped_for_escrow=b"x")


def test_every_wrapped_column_is_registered() -> None:
    known = {(column.table, column.column) for column in wrapped_columns()} | set(wrapped_elsewhere())
    named = {
        (model._meta.db_table, field.column)
        for model in apps.get_models()
        for field in model._meta.get_fields()
        if isinstance(field, models.BinaryField) and field.name.startswith("wrapped_")
    }
    assert named == known
    assert len(named) >= 6


def test_a_column_has_one_scope_and_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_COLUMNS", dict(columns._COLUMNS))
    register_wrapped_column(ServerKey, "wrapped_private", scope=Scope.SERVER_KEYS)
    with pytest.raises(ValueError, match="keyring_serverkey.wrapped_private is registered with the scope server-keys"):
        register_wrapped_column(ServerKey, "wrapped_private", scope=Scope.SESSIONS)
    with pytest.raises(FieldDoesNotExist):
        register_wrapped_column(Session, "wrapped_nothing", scope=Scope.SESSIONS)


@pytest.mark.parametrize(
    ("table", "scope"),
    [
        ("keyring_serverkey", Scope.SERVER_KEYS),
        ("device_sessions_session", Scope.SESSIONS),
        ("enrollment_enrolmentattempt", Scope.SESSIONS),
        ("training_modelversion", Scope.MODELS),
    ],
)
def test_the_scope_follows_from_the_table(table: str, scope: Scope) -> None:
    assert {column.scope for column in wrapped_columns() if column.table == table} == {scope}


@pytest.mark.django_db(transaction=True)
def test_processes_that_race_agree_on_one_data_key(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Barrier(4)
    really_create: Any = data_keys._create_first_key

    def create_together(*arguments: Any) -> DataKey | None:
        start.wait(timeout=20)
        made: DataKey | None = really_create(*arguments)
        return made

    def key(_: int) -> bytes:
        try:
            return data_keys.current_data_key(Scope.SESSIONS).key
        finally:
            connection.close()

    monkeypatch.setattr(data_keys, "_create_first_key", create_together)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(key, range(4)))) == 1
    assert DataKey.objects.count() == 1
