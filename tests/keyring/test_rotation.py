"""A rotation leaves everything open and nothing under the old KEK, while the site runs, and goes on after any kill."""

import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction

from audit.models import Event
from keyring import data_keys, rotation
from keyring.columns import Scope
from keyring.envelope import unwrap, wrap
from keyring.kek_file import FileProvider, kek_files
from keyring.models import DataKey, KekRotation
from sessions.models import Session
from tests.keyring.fresh_process import kek_file, restart
from tests.keyring.wrapped_site import NOW, opened_values, populate_secrets, raw_values

__all__ = ["kek_file"]  # a fixture

pytestmark = pytest.mark.django_db


def rotate(**options: Any) -> str:
    out = StringIO()
    call_command("rotate_kek", grace_seconds=0, stdout=out, stderr=out, **options)
    return out.getvalue()


def test_everything_opens_after_a_rotation_and_nothing_names_the_old_keys(
    kek_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate_secrets()
    secrets, old_keys, (old_kek,) = opened_values(), set(DataKey.objects.values_list("id")), FileProvider().keks()
    said = rotate()
    restart(monkeypatch)
    assert opened_values() == secrets
    assert len(secrets) == 5
    assert "3 new data keys" in said
    assert "5 values wrapped again" in said
    (new_kek,) = FileProvider().keks()
    assert new_kek.id != old_kek.id
    assert not kek_file.exists()
    assert not old_keys & set(DataKey.objects.values_list("id"))
    assert {bytes(row.kek_id) for row in DataKey.objects.all()} == {new_kek.id}
    live = {row.id.bytes for row in DataKey.objects.all()}
    assert {value[1:17] for value in raw_values()} <= live


def test_a_rotation_is_recorded_with_the_keks_it_replaced() -> None:
    populate_secrets()
    (old,) = FileProvider().keks()
    rotate()
    (new,) = FileProvider().keks()
    event = Event.objects.get(kind="kek.rotated")
    assert event.payload == {"provider": "file", "kek_id": new.id.hex(), "replaced": f"{old.id.hex()} (file)"}
    assert event.actor.startswith("operator:")
    assert event.description == f"KEK {new.id.hex()} (file) has replaced {old.id.hex()} (file), which is destroyed"
    assert KekRotation.objects.get().finished_at is not None


def test_a_rotation_of_an_empty_site_and_a_second_one_work() -> None:
    rotate()
    rotate()
    assert DataKey.objects.count() == len(Scope)
    assert Event.objects.filter(kind="kek.rotated").count() == 2


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("_switch_data_key", 0),
        ("_switch_data_key", 2),
        ("_rewrap_value", 0),
        ("_rewrap_value", 3),
        ("_destroy_unless_named", 0),
        ("_destroy_unless_named", 2),
    ],
)
def test_a_rotation_that_was_killed_is_continued(
    name: str, step: int, kek_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate_secrets()
    secrets, old_kek = opened_values(), FileProvider().keks()[0]
    with monkeypatch.context() as killing:
        die_at(killing, name, step)
        killed = _run_until_killed()
    restart(monkeypatch)
    assert opened_values() == secrets
    assert killed
    assert ("0 new data keys" in rotate()) == (name != "_switch_data_key")
    assert Event.objects.filter(kind="kek.rotated").count() == 1
    restart(monkeypatch)
    assert opened_values() == secrets
    assert old_kek.id not in {kek.id for kek in FileProvider().keks()}
    assert len(FileProvider().keks()) == 1
    assert not DataKey.objects.exclude(retired_at=None).exists()


class Killed(BaseException):
    """Stands for a process that ends here; no code of ours catches it."""


def die_at(monkeypatch: pytest.MonkeyPatch, name: str, step: int) -> None:
    """Let the rotation die before its `step`-th call of a function."""
    really, calls = getattr(rotation, name), iter(range(100))

    def die(*arguments: Any) -> Any:
        if next(calls) == step:
            raise Killed
        return really(*arguments)

    monkeypatch.setattr(rotation, name, die)


def _run_until_killed() -> bool:
    try:
        rotate()
    except Killed:
        return True
    return False


@pytest.mark.parametrize(
    "name", ["KekRotation.objects.create", "destroy_replaced_keks", "finish_rotation", "destroy_retired_keys"]
)
def test_a_rotation_killed_between_its_steps_is_continued(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    populate_secrets()
    secrets = opened_values()

    def die(*arguments: Any, **keywords: Any) -> None:
        raise Killed

    with monkeypatch.context() as killing:
        killing.setattr(f"keyring.rotation.{name}", die)
        assert _run_until_killed()
    rotate()
    restart(monkeypatch)
    assert opened_values() == secrets
    assert len(FileProvider().keks()) == 1
    assert KekRotation.objects.get().finished_at is not None


def test_a_process_that_runs_through_a_rotation_needs_no_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    populate_secrets()
    secrets = opened_values()
    mine = data_keys._OPEN_KEYS
    restart(monkeypatch)  # the rotation is another process
    begun = rotation.begin_rotation("file", now=NOW)
    rotation.switch_data_keys(begun, now=NOW)
    monkeypatch.setattr(data_keys, "_OPEN_KEYS", mine)
    session = Session.objects.first()
    assert session is not None
    value = wrap(b"written meanwhile", **session.envelope())
    assert value[1:17] == DataKey.objects.get(scope=Scope.SESSIONS, retired_at=None).id.bytes
    assert opened_values() == secrets
    restart(monkeypatch)
    rotate()
    monkeypatch.setattr(data_keys, "_OPEN_KEYS", mine)
    assert opened_values() == secrets
    assert unwrap(value, **session.envelope()) == b"written meanwhile"


def test_a_value_written_late_under_the_old_key_is_met_by_the_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    populate_secrets()
    session = Session.objects.first()
    assert session is not None
    late = wrap(b"on its way", **session.envelope())

    def arrive(seconds: float) -> None:
        if DataKey.objects.filter(id=_key_of(late)).exists() and bytes(_secret(session)) != late:
            Session.objects.filter(id=session.id).update(wrapped_secret=late)
            monkeypatch.setattr("qflare_site.management.commands.rotate_kek.time.sleep", lambda seconds: None)

    monkeypatch.setattr("qflare_site.management.commands.rotate_kek.time.sleep", arrive)
    assert "6 values wrapped again" in rotate()
    assert unwrap(_secret(session), **session.envelope()) == b"on its way"


def _key_of(value: bytes) -> str:
    return value[1:17].hex()


def _secret(session: Session) -> bytes:
    return bytes(Session.objects.get(id=session.id).wrapped_secret)


def test_the_grace_period_is_waited_for_after_the_last_value(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("qflare_site.management.commands.rotate_kek.time.sleep", waited.append)
    populate_secrets()
    call_command("rotate_kek", stdout=StringIO())
    assert waited == [60]


def test_a_value_that_does_not_open_keeps_the_old_keys_and_is_named(kek_file: Path) -> None:
    populate_secrets()
    session = Session.objects.first()
    assert session is not None
    damaged = _secret(session)[:-1] + bytes([_secret(session)[-1] ^ 1])
    Session.objects.filter(id=session.id).update(wrapped_secret=damaged)
    out = StringIO()
    with pytest.raises(CommandError, match="so these and their KEK are kept"):
        call_command("rotate_kek", grace_seconds=0, stdout=out, stderr=out)
    assert f"wrapped_secret of {session.id} is damaged" in out.getvalue()
    assert kek_file.exists()
    assert not Event.objects.filter(kind="kek.rotated").exists()
    session.delete()
    rotate()
    assert not kek_file.exists()


def test_a_value_under_no_known_data_key_is_named_and_hinders_nothing(kek_file: Path) -> None:
    populate_secrets()
    Session.objects.update(wrapped_secret=b"\x02" + bytes(100))
    assert "is wrapped under an unknown data key" in rotate()
    assert not kek_file.exists()


def test_a_lost_kek_is_not_rotated_away(kek_file: Path, tmp_path: Path) -> None:
    populate_secrets()
    kek_file.rename(tmp_path / "lost")
    with pytest.raises(CommandError, match="is lost; restore it, or recover from escrow"):
        rotate()
    assert not DataKey.objects.exclude(retired_at=None).exists()
    assert kek_files(kek_file) == []


def test_an_unfinished_rotation_is_not_turned_aside() -> None:
    populate_secrets()
    begun = rotation.begin_rotation("file", now=NOW)
    assert rotation.begin_rotation("file", now=NOW) == begun
    with pytest.raises(CommandError, match="A rotation to file is unfinished; run it to its end first"):
        call_command("rotate_kek", to="pkcs11", grace_seconds=0)


def test_the_database_holds_one_unfinished_rotation() -> None:
    rotation.begin_rotation("file", now=NOW)
    with pytest.raises(IntegrityError), transaction.atomic():
        KekRotation.objects.create(provider="file", kek_id=bytes(16), replaced=[], started_at=NOW)


def test_a_data_key_with_values_is_never_destroyed() -> None:
    populate_secrets()
    begun = rotation.begin_rotation("file", now=NOW)
    rotation.switch_data_keys(begun, now=NOW)
    kept = rotation.destroy_retired_keys(begun)
    assert {row.scope for row in kept} == set(Scope)
    with pytest.raises(rotation.RotationError, match="Data keys still stand under the KEK"):
        rotation.destroy_replaced_keks(begun)
    assert len(FileProvider().keks()) == 2


def test_a_row_that_goes_while_it_is_rewrapped_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    populate_secrets()
    rotation.switch_data_keys(rotation.begin_rotation("file", now=NOW), now=NOW)
    really: Callable[..., bool] = rotation._rewrap_value

    def rewrap_after_the_row_went(column: Any, primary_key: Any) -> bool:
        if column.model is Session:
            Session.objects.all().delete()
        return really(column, primary_key)

    monkeypatch.setattr(rotation, "_rewrap_value", rewrap_after_the_row_went)
    done = rotation.rewrap_values()
    assert (done.values, done.unreadable) == (3, [])


@pytest.mark.django_db(transaction=True)
def test_a_value_that_changes_at_the_same_time_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    populate_secrets(sessions=1)
    rotation.switch_data_keys(rotation.begin_rotation("file", now=NOW), now=NOW)
    session = Session.objects.get()
    really, writer = rotation.unwrap, threading.Thread(target=_write, args=(session,))

    def unwrap_while_another_writes(value: bytes, **place: Any) -> bytes:
        if place["table"] == Session._meta.db_table:
            writer.start()  # it has to wait for the row, which is locked at this moment
            writer.join(timeout=0.3)
            assert writer.is_alive()
        return really(value, **place)

    monkeypatch.setattr(rotation, "unwrap", unwrap_while_another_writes)
    rotation.rewrap_values()
    writer.join(timeout=20)
    assert unwrap(_secret(session), **session.envelope()) == b"the newer chain key"


def _write(session: Session) -> None:
    try:
        with transaction.atomic():
            Session.objects.select_for_update().get(id=session.id)
            value = wrap(b"the newer chain key", **session.envelope())
            Session.objects.filter(id=session.id).update(wrapped_secret=value)
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_a_data_key_outlives_the_transaction_that_wraps_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    populate_secrets(sessions=1)
    session, done = Session.objects.get(), threading.Event()
    with transaction.atomic():
        value = wrap(b"on its way", **session.envelope())
        if connection.vendor == "sqlite":  # where the rotation cannot begin before this transaction ends
            rotating = threading.Thread(target=_destroy_old_keys, args=(done,))
        else:
            _in_thread(lambda: rotation.switch_data_keys(rotation.begin_rotation("file", now=NOW), now=NOW))
            rotating = threading.Thread(target=_destroy_old_keys, args=(done,))
        rotating.start()
        assert not done.wait(0.3)
        Session.objects.filter(id=session.id).update(wrapped_secret=value)
    rotating.join(timeout=20)
    assert done.is_set()
    assert unwrap(_secret(session), **session.envelope()) == b"on its way"


def _destroy_old_keys(done: threading.Event) -> None:
    try:
        begun = rotation.begin_rotation("file", now=NOW)
        rotation.switch_data_keys(begun, now=NOW)
        rotation.destroy_retired_keys(begun)
        done.set()
    finally:
        connection.close()


def _in_thread(work: Callable[[], Any]) -> None:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=20)
    assert not thread.is_alive()
