"""Checkpoints are laid down outside this house, again and again until there is a receipt, and a missed one shows."""

import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from django.core.exceptions import ImproperlyConfigured

from audit import anchoring, services
from audit.anchor_settings import parse_anchors
from audit.anchors import AnchorError, AnchorPlan, configured_anchors
from audit.anchors.append_only_file import AppendOnlyFile
from audit.anchors.time_stamp import TimeStampAuthority
from audit.anchors.witness import Witness
from audit.export import export_log
from audit.models import AnchorReceipt, Event
from audit.tasks import anchor as anchor_task
from keyring.services import server_verifier
from tests.audit.conftest import NOW, record
from tests.audit.local_authorities import LocalTimeStampAuthority, LocalWitness, served
from verifier.qflare_verify import Known, Malformed, Problem, check_time_stamp, main, verify_export

MakeLog = Callable[[int], None]
pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def note() -> str:
    return services.current_checkpoint().note


def grow(minutes: int) -> None:
    moment = NOW + timedelta(minutes=minutes)
    record(0, moment)
    services.sequence_log(moment)


class Unreachable:
    """An anchor that fails so many times, and then works."""

    def __init__(self, failures: int) -> None:
        self.failures, self.published = failures, []

    def publish(self, text: str) -> bytes:
        if self.failures:
            self.failures -= 1
            raise AnchorError("nobody answers")
        self.published.append(text)
        return b"receipt"

    def verify(self, receipt: bytes, text: str) -> None:
        if receipt != b"receipt" or text not in self.published:
            raise AnchorError("that is no receipt of it")


def plan_of(anchor: object, every: int = 3600) -> AnchorPlan:
    return AnchorPlan("copy", "file", every, anchor)


# the rhythm


def test_a_checkpoint_is_anchored_once_in_each_interval(make_log: MakeLog) -> None:
    make_log(2)
    anchor = Unreachable(0)
    for minutes in (0, 1, 59, 60, 61, 120):
        grow(minutes)
        anchoring.anchor_log(now=NOW + timedelta(minutes=minutes), plans=[plan_of(anchor)])
    assert len(anchor.published) == 3
    rows = AnchorReceipt.objects.order_by("id")
    assert [row.checkpoint.note for row in rows] == anchor.published
    assert {(row.state, bytes(row.receipt), row.attempts) for row in rows} == {("completed", b"receipt", 1)}


def test_what_cannot_be_reached_is_tried_again_after_longer_and_longer_waits(make_log: MakeLog) -> None:
    make_log(2)
    plans, now, waits = [plan_of(Unreachable(9), every=86_400)], NOW, []
    while not anchoring.anchor_log(now=now, plans=plans):
        row = AnchorReceipt.objects.get()
        assert (row.state, row.error) == ("pending", "nobody answers")
        assert anchoring.anchor_log(now=row.next_attempt_at - timedelta(seconds=1), plans=plans) == 0
        waits.append((row.next_attempt_at - now).total_seconds() / 60)
        now = row.next_attempt_at
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert (AnchorReceipt.objects.get().state, AnchorReceipt.objects.get().error) == ("completed", "")


def test_an_anchor_that_is_missed_for_good_is_told_by_the_log(make_log: MakeLog) -> None:
    make_log(2)
    plans, now = [plan_of(Unreachable(99), every=86_400)], NOW
    for _ in range(anchoring.MAX_ATTEMPTS):
        anchoring.anchor_log(now=now, plans=plans)
        now = AnchorReceipt.objects.get().next_attempt_at
    assert AnchorReceipt.objects.get().state == "failed"
    event = Event.objects.get(kind="log.anchor_missed")
    assert event.payload == {"anchor": "copy", "size": 2, "attempts": 12}
    assert anchoring.anchor_log(now=now, plans=plans) == 0


def test_an_anchor_without_a_receipt_for_two_intervals_is_missed(make_log: MakeLog) -> None:
    make_log(2)
    plans = [plan_of(Unreachable(2))]
    assert anchoring.missed_anchors(now=NOW, plans=plans) == []
    anchoring.anchor_log(now=NOW, plans=plans)
    assert anchoring.missed_anchors(now=NOW + 2 * HOUR, plans=plans) == []
    assert anchoring.missed_anchors(now=NOW + 2.1 * HOUR, plans=plans) == ["copy"]
    anchoring.anchor_log(now=NOW + 3 * HOUR, plans=plans)
    anchoring.anchor_log(now=NOW + 4 * HOUR, plans=plans)
    assert anchoring.missed_anchors(now=NOW + 5 * HOUR, plans=plans) == []


def test_a_row_that_another_worker_has_taken_is_left_to_it(make_log: MakeLog) -> None:
    make_log(2)
    plan = plan_of(Unreachable(0))
    row = anchoring.plan_anchor(plan, now=NOW)
    AnchorReceipt.objects.filter(id=row.id).update(next_attempt_at=NOW + anchoring.LEASE)
    assert anchoring.publish_due(plan, now=NOW) == 0
    assert anchoring.publish_due(plan, now=NOW + anchoring.LEASE) == 1


def test_the_task_anchors_at_what_the_settings_name(make_log: MakeLog, settings: object, tmp_path: Path) -> None:
    make_log(2)
    settings.QFLARE_ANCHORS = parse_anchors(
        json.dumps([{"name": "copy", "kind": "file", "path": str(tmp_path / "notes")}])
    )
    anchor_task()
    assert (tmp_path / "notes").read_text() == note()


# the kinds


def test_a_file_keeps_note_after_note_and_a_changed_one_is_found(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(2)
    anchor, kept = AppendOnlyFile(tmp_path / "notes"), []
    for minutes in range(3):
        grow(minutes)
        kept.append((anchor.publish(note()), note()))
    assert (tmp_path / "notes").read_text() == "".join(text for _, text in kept)
    for receipt, text in kept:
        anchor.verify(receipt, text)
    (tmp_path / "notes").write_text(kept[1][1] + kept[0][1] + kept[2][1])
    for receipt, text in kept[:2]:
        with pytest.raises(AnchorError, match="holds something else"):
            anchor.verify(receipt, text)
    with pytest.raises(AnchorError, match="cannot be appended to"):
        AppendOnlyFile(tmp_path / "none" / "notes").publish(note())
    with pytest.raises(AnchorError, match="cannot be read back"):
        anchor.verify(b"junk", note())


def test_a_witness_cosigns_from_step_to_step(make_log: MakeLog) -> None:
    make_log(5)
    local = LocalWitness(services.log_origin(), server_verifier("log"))
    with served(local.handle) as url:
        witness = Witness(url, local.vkey)
        for minutes in range(1, 4):
            receipt = witness.publish(note())
            witness.verify(receipt, note())
            assert local.size == services.current_checkpoint().size
            grow(minutes)
        with pytest.raises(AnchorError, match="does not hold"):
            witness.verify(receipt, note())


def test_a_witness_that_has_seen_another_log_does_not_cosign(make_log: MakeLog) -> None:
    make_log(5)
    local = LocalWitness(services.log_origin(), server_verifier("log"))
    with served(local.handle) as url:
        witness = Witness(url, local.vkey)
        for size, said in ((3, "another log than"), (5, "another log than"), (9, "a longer log, of 9 entries")):
            local.size, local.root = size, b"other" + bytes(27)
            with pytest.raises(AnchorError, match=said):
                witness.publish(note())


@pytest.mark.parametrize(("answer", "said"), [
    ((200, "text/plain", b""), "does not hold"), ((200, "text/plain", b"\xff"), "does not hold"),
    ((500, "text/plain", b""), "answered 500"), ((409, "text/x.tlog.size", b"many\n"), "does not state a size"),
    ((200, "text/plain", b"x" * 70_000), "at endless length"),
])  # fmt: skip
def test_answers_of_a_witness_that_are_none_are_refused(make_log: MakeLog, answer: object, said: str) -> None:
    make_log(2)
    local = LocalWitness(services.log_origin(), server_verifier("log"))
    with served(lambda path, body: answer) as url, pytest.raises(AnchorError, match=said):
        Witness(url, local.vkey).publish(note())


def test_places_where_nobody_is_are_refused(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(1)
    local = LocalWitness(services.log_origin(), server_verifier("log"))
    for anchor in (Witness("http://127.0.0.1:1", local.vkey), TimeStampAuthority("http://127.0.0.1:1", tmp_path)):
        with pytest.raises(AnchorError, match="cannot be reached"):
            anchor.publish(note())


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@needs_openssl
def test_a_time_stamp_authority_signs_when_a_checkpoint_was_there(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(2)
    local, stranger = (LocalTimeStampAuthority(tmp_path / name) for name in ("tsa", "stranger"))
    with served(local.handle) as url:
        authority = TimeStampAuthority(url, local.roots)
        receipt, first = authority.publish(note()), note()
        authority.verify(receipt, first)
        grow(1)
        with pytest.raises(AnchorError, match="does not hold"):
            authority.verify(receipt, note())
        for damaged in (b"", receipt[:-1], receipt[:200] + bytes(1) + receipt[201:]):
            with pytest.raises(AnchorError, match="does not hold"):
                authority.verify(damaged, first)
        with pytest.raises(AnchorError, match="does not hold"):
            TimeStampAuthority(url, stranger.roots).publish(note())


@needs_openssl
def test_the_stamp_of_another_request_is_not_taken(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(2)
    local = LocalTimeStampAuthority(tmp_path / "tsa")
    with served(local.handle) as url:
        old = TimeStampAuthority(url, local.roots).publish(note())
    with served(lambda path, body: (200, "application/timestamp-reply", old)) as url:
        with pytest.raises(AnchorError, match="[Nn]once"):
            TimeStampAuthority(url, local.roots).publish(note())


# what auditors get


def test_an_auditor_finds_what_was_anchored(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(5)
    local = LocalWitness(services.log_origin(), server_verifier("log"))
    with served(local.handle) as url:
        plans = [
            AnchorPlan("w1", "witness", 3600, Witness(url, local.vkey)),
            plan_of(AppendOnlyFile(tmp_path / "notes")),
        ]
        anchoring.anchor_log(now=NOW, plans=plans)
    grow(2)
    export_log(services.current_checkpoint(), tmp_path / "export")
    known = Known(witnesses=((local.NAME, local.vkey),))
    assert verify_export(tmp_path / "export", known).anchors == 2
    impostor = LocalWitness(services.log_origin(), server_verifier("log"))
    with pytest.raises(Problem, match=r"The receipt in anchors\.jsonl, line"):
        verify_export(tmp_path / "export", Known(witnesses=((local.NAME, impostor.vkey),)))


def test_a_log_rewritten_after_it_was_anchored_is_found_out(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(5)
    anchoring.anchor_log(now=NOW, plans=[plan_of(AppendOnlyFile(tmp_path / "notes"))])
    export_log(services.current_checkpoint(), tmp_path / "export")
    lines = [json.loads(line) for line in (tmp_path / "export" / "anchors.jsonl").read_text().splitlines()]
    origin, size, _, *rest = lines[0]["note"].split("\n")
    lines[0]["note"] = "\n".join([origin, size, "A" * 43 + "=", *rest])
    (tmp_path / "export" / "anchors.jsonl").write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(Problem) as found:
        verify_export(tmp_path / "export")
    assert found.value.kind == "forked"


@needs_openssl
def test_an_auditor_checks_time_stamps_up_to_a_root(make_log: MakeLog, tmp_path: Path) -> None:
    make_log(5)
    local, stranger = (LocalTimeStampAuthority(tmp_path / name) for name in ("tsa", "stranger"))
    with served(local.handle) as url:
        plans = [AnchorPlan("tsa", "rfc3161", 3600, TimeStampAuthority(url, local.roots))]
        assert anchoring.anchor_log(now=NOW, plans=plans) == 1
    export_log(services.current_checkpoint(), tmp_path / "export")
    export = str(tmp_path / "export")
    assert main([export, "--time-root", str(local.roots)]) == 0
    assert main([export, "--time-root", str(stranger.roots)]) == 1
    text, receipt = note(), bytes(AnchorReceipt.objects.get().receipt)
    roots = x509.load_pem_x509_certificates(local.roots.read_bytes())
    check_time_stamp(receipt, text, roots)
    check_time_stamp(receipt, text, [])
    for known in (roots, []):
        with pytest.raises(Malformed, match="of something else"):
            check_time_stamp(receipt, text + "x", known)
    stamped = receipt.index(hashlib.sha256(text.encode()).digest())
    for at in (2, 5, stamped, stamped + 31, stamped + 50, len(receipt) - 40, len(receipt) - 1):
        with pytest.raises(Malformed):
            check_time_stamp(receipt[:at] + bytes([receipt[at] ^ 1]) + receipt[at + 1 :], text, roots)
    for cut in (0, 1, 20, len(receipt) - 1):
        with pytest.raises(Malformed):
            check_time_stamp(receipt[:cut], text, roots)


# the settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "it is not JSON"),
        ("{}", "JSON list"),
        ("[1]", "an object with a name"),
        ('[{"name": "A!", "kind": "file", "path": "/x"}]', "an object with a name"),
        ('[{"name": "a", "kind": "tape", "path": "/x"}]', "of no kind there is: file, witness, rfc3161, evm"),
        ('[{"name": "a", "kind": "file"}]', "needs exactly these texts"),
        ('[{"name": "a", "kind": "file", "path": 3}]', "needs exactly these texts"),
        ('[{"name": "a", "kind": "file", "path": "/x", "url": "y"}]', "needs exactly these texts"),
        ('[{"name": "a", "kind": "file", "path": "/x", "every_seconds": 5}]', "every_seconds"),
        ('[{"name": "a", "kind": "file", "path": "/x", "every_seconds": true}]', "every_seconds"),
        ('[{"name": "a", "kind": "file", "path": "/x"}, {"name": "a", "kind": "file", "path": "/y"}]', "the same name"),
    ],
)
def test_settings_out_of_form_are_refused_in_words(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from qflare_site.environment import read_environment

    with pytest.raises(ValueError, match=said):
        parse_anchors(text)
    monkeypatch.setenv("QFLARE_ANCHORS", text)
    with pytest.raises(ImproperlyConfigured, match="QFLARE_ANCHORS"):
        read_environment()


def test_each_kind_can_be_configured(tmp_path: Path) -> None:
    stated = [
        {"name": "copy", "kind": "file", "path": str(tmp_path)},
        {"name": "w1", "kind": "witness", "url": "http://w", "key": "k", "every_seconds": 60},
        {"name": "tsa", "kind": "rfc3161", "url": "http://t", "roots": str(tmp_path)},
    ]
    plans = configured_anchors(stated)
    assert [(plan.name, plan.kind, plan.every_seconds) for plan in plans] == [
        ("copy", "file", 3600), ("w1", "witness", 60), ("tsa", "rfc3161", 3600),
    ]  # fmt: skip
    assert parse_anchors("") == []
