"""A key that is made because it was needed is an event, written in the transaction that makes it."""

import pytest
from django.db import transaction

from audit.models import Entry, Event
from audit.services import sequence_log
from audit.verification import verify_log
from keyring import announcements
from keyring.announcements import KeyMade, announce_made_key
from keyring.columns import Scope
from keyring.data_keys import current_data_key
from keyring.models import DataKey, ServerKey
from keyring.services import rotate_server_key, server_signer

pytestmark = pytest.mark.django_db


def told() -> list[dict[str, str]]:
    return list(Event.objects.filter(kind="server_key.made").order_by("id").values_list("payload", flat=True))


def test_a_data_key_is_told_once_with_its_scope_and_kek() -> None:
    for _ in range(2):
        current_data_key(Scope.MODELS)
    row = DataKey.objects.get()
    name = f"under KEK {bytes(row.kek_id).hex()} ({row.kek_provider})"
    purpose = "encryption at rest: models"
    assert told() == [{"key_id": str(row.id), "table": "keyring_datakey", "purpose": purpose, "name": name}]


def test_a_signing_key_is_told_once_with_its_fingerprint_after_the_key_that_wraps_it() -> None:
    for _ in range(2):
        signer = server_signer("identity", "ML-DSA-65")
    wrapping, signing = told()
    assert wrapping["purpose"] == "encryption at rest: server keys"
    assert signing["key_id"] == str(ServerKey.objects.get().id)
    assert signing["name"] == f"ML-DSA-65 {signer.fingerprint.hex()}"


def test_a_successor_is_told_by_its_rotation_and_not_as_a_first_key() -> None:
    before = ServerKey.objects.count()
    signer = server_signer("log")
    rotate_server_key("log", "ML-DSA-44", now=ServerKey.objects.get().created_at)
    assert ServerKey.objects.count() == before + 2
    assert [one["name"] for one in told()][1:] == [f"ML-DSA-44 {signer.fingerprint.hex()}"]


def test_the_key_of_the_log_itself_is_an_entry_of_the_log() -> None:
    server_signer("identity")
    sequence_log()
    kinds = list(Entry.objects.order_by("index").values_list("kind", flat=True))
    assert kinds == ["server_key.made"] * 3
    assert not Event.objects.filter(sequenced=False).exists()
    assert verify_log().entries == 3


def test_a_key_whose_event_cannot_be_written_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(made: KeyMade) -> None:
        raise OSError("the log does not take it")

    monkeypatch.setattr(announcements, "_LISTENERS", [refuse])
    with pytest.raises(OSError), transaction.atomic():
        server_signer("identity")
    assert not ServerKey.objects.exists() and not DataKey.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_key_is_not_announced_outside_the_transaction_that_makes_it() -> None:
    row = DataKey(scope=Scope.MODELS)
    with pytest.raises(RuntimeError):
        announce_made_key(KeyMade("keyring_datakey", row.id, "models", "", row.created_at))
