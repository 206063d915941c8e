"""The server has one current key for each purpose, made on first use, whoever comes first."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from keyring import services
from keyring.envelope import EnvelopeError
from keyring.models import ServerKey
from qflare_protocol.cose import sign1, verify1

pytestmark = pytest.mark.django_db


def test_a_key_is_made_on_first_use_and_stays() -> None:
    signer = services.server_signer("identity")
    assert services.server_signer("identity") == signer
    assert services.server_verifier("identity") == signer.verifier
    assert ServerKey.objects.count() == 1


def test_a_structure_signed_with_it_verifies() -> None:
    signed = sign1(services.server_signer("identity"), {"a": 1}, purpose="test")
    assert verify1(services.server_verifier("identity"), signed, purpose="test") == {"a": 1}


def test_each_purpose_has_a_key_of_its_own() -> None:
    assert services.server_verifier("identity") != services.server_verifier("log")


def test_the_private_key_rests_wrapped() -> None:
    signer = services.server_signer("log")
    row = ServerKey.objects.get()
    assert signer.private not in bytes(row.wrapped_private)
    assert bytes(row.fingerprint) == signer.fingerprint
    assert str(row) == f"log checkpoints key {signer.fingerprint.hex()[:16]} (ML-DSA-44)"


def test_after_a_restart_the_stored_key_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = services.server_signer("identity")
    monkeypatch.setattr(services, "_SIGNERS", {})
    assert services.server_signer("identity") == signer


def test_a_private_key_copied_to_another_row_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    services.server_signer("identity")
    services.server_signer("log")
    stolen = ServerKey.objects.get(purpose="identity").wrapped_private
    ServerKey.objects.filter(purpose="log").update(wrapped_private=stolen)
    monkeypatch.setattr(services, "_SIGNERS", {})
    with pytest.raises(EnvelopeError):
        services.server_signer("log")


def test_a_retired_key_is_replaced_and_still_known() -> None:
    old = services.server_verifier("log")
    ServerKey.objects.update(retired_at=datetime.now(UTC), wrapped_private=None)
    new = services.server_verifier("log")
    assert new != old
    assert services.server_signer("log").verifier == new
    assert services.server_verifiers("log") == [new, old]


def test_the_database_holds_one_current_key_for_a_purpose() -> None:
    services.server_signer("identity")
    row = ServerKey.objects.get()
    row.pk, row.fingerprint = None, bytes(32)
    row._state.adding = True
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save(force_insert=True)


def test_an_unknown_purpose_is_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match="other"):
        services.server_signer("other")


@pytest.mark.django_db(transaction=True)
def test_processes_that_race_agree_on_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Barrier(4)
    really_create: Any = services._create_key

    def create_together(purpose: str, algorithm: str) -> ServerKey | None:
        start.wait(timeout=20)
        made: ServerKey | None = really_create(purpose, algorithm)
        return made

    def fingerprint(_: int) -> bytes:
        try:
            return services.server_verifier("identity").fingerprint
        finally:
            connection.close()

    monkeypatch.setattr(services, "_create_key", create_together)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(fingerprint, range(4)))) == 1
    assert ServerKey.objects.count() == 1
