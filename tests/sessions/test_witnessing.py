"""A device cosigns what it has seen of the log, and stops where the log was forked."""

import json
from pathlib import Path

import pytest
from django.db import DatabaseError, transaction

from audit.export import export_log
from audit.models import Event, WitnessCosignature
from audit.services import current_checkpoint, log_origin, root_at, sequence_log
from qflare_protocol.errors import Refusal
from qflare_protocol.log_cosignature import CosignedCheckpoint, cosign_checkpoint, verify_cosignature
from tests.people import Person
from verifier.qflare_verify import Known, Problem, verify_export


def cosigned(alice: Person) -> list[int]:
    found = WitnessCosignature.objects.filter(device_name="alice").order_by("id")
    return list(found.values_list("size", flat=True))


def test_a_device_cosigns_each_checkpoint_that_it_sees_for_the_first_time(alice: Person) -> None:
    sequence_log()
    session = alice.session()
    session.open()
    session.open()
    row = WitnessCosignature.objects.get()
    expected = CosignedCheckpoint(log_origin(), row.size, root_at(row.size))
    assert verify_cosignature(alice.identity.keys.signer.verifier, bytes(row.cosignature)) == expected
    assert (row.device_name, bytes(row.key_fingerprint)) == ("alice", alice.identity.keys.signer.fingerprint)
    sequence_log()
    alice.session().open()
    sizes = cosigned(alice)
    assert len(sizes) == 2 and sizes[0] < sizes[1]


def test_a_cosignature_is_kept_for_ever(alice: Person) -> None:
    sequence_log()
    alice.session().open()
    for change in (lambda rows: rows.update(size=1), lambda rows: rows.delete()):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            change(WitnessCosignature.objects.all())


def post_cosignature(alice: Person, **changes: object) -> str:
    head = current_checkpoint()
    seen = {"origin": log_origin(), "size": head.size, "root": bytes(head.root), **changes}
    session = alice.session()
    session.open()
    with pytest.raises(Refusal) as refused:
        session.post(
            "/api/witness", {"cosignature": cosign_checkpoint(alice.identity.keys.signer, CosignedCheckpoint(**seen))}
        )
    return refused.value.code


def test_what_is_not_of_this_log_is_refused(alice: Person) -> None:
    sequence_log()
    before = cosigned(alice)
    assert post_cosignature(alice, origin="qflare/other") == "proof-refused"
    assert post_cosignature(alice, size=0) == "log-inconsistent"
    assert len(cosigned(alice)) <= len(before) + 2


def test_a_cosignature_of_another_history_is_told_by_the_log(alice: Person) -> None:
    sequence_log()
    assert post_cosignature(alice, root=bytes(32)) == "log-inconsistent"
    report = Event.objects.get(kind="log.fork_reported")
    assert (report.actor, report.payload["root"]) == ("device:alice", "00" * 32)


def test_what_is_no_cosignature_is_refused(alice: Person) -> None:
    sequence_log()
    session = alice.session()
    session.open()
    other = b"\xa0"
    with pytest.raises(Refusal) as refused:
        session.post("/api/witness", {"cosignature": other})
    assert refused.value.code == "malformed-message"


def test_an_auditor_finds_what_devices_cosigned(alice: Person, tmp_path: Path) -> None:
    sequence_log()
    alice.session().open()
    sequence_log()
    alice.session().open()
    sequence_log()
    export_log(current_checkpoint(), tmp_path / "export")
    report = verify_export(tmp_path / "export", Known())
    assert report.witnesses == len(cosigned(alice)) == 2
    assert "unknown-device" not in report.findings.counts
    lines = (tmp_path / "export" / "witnesses.jsonl").read_text().splitlines()
    forged = json.loads(lines[0]) | {
        "cosignature": json.loads(lines[1])["cosignature"][:-4] + "AAAA",
    }
    (tmp_path / "export" / "witnesses.jsonl").write_text(json.dumps(forged) + "\n")
    with pytest.raises(Problem, match="The cosignature in witnesses.jsonl, line 1"):
        verify_export(tmp_path / "export", Known())


def test_keys_that_were_rotated_or_enrolled_anew_are_known_to_the_auditor(alice: Person, tmp_path: Path) -> None:
    alice.session().rotate_keys()
    sequence_log()
    alice.session().open()
    sequence_log()
    export_log(current_checkpoint(), tmp_path / "export")
    report = verify_export(tmp_path / "export", Known())
    assert report.witnesses >= 1
    assert "unknown-device" not in report.findings.counts
