"""How many statements each endpoint and page sends is kept in `query_counts.json`: a change of it is a choice.

After a change that is meant, write the file anew on each database and look at the difference:

    QFLARE_WRITE_QUERY_COUNTS=1 python -m pytest tests/database/test_query_counts.py
    QFLARE_WRITE_QUERY_COUNTS=1 DATABASE_URL=... REDIS_URL=... python -m pytest tests/database/test_query_counts.py
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from edge_client.enrolment import enroll_device
from enrollment.services import issue_token
from qflare_protocol.device_evaluation import DeviceEvaluation
from qflare_protocol.progress import ProgressReport
from tests.open_rounds import Submission, send_submission
from tests.people import OPERATOR, SERVER, DjangoHttp, Line, Person, cbor, third_message
from training.models import Federation, Round

BASELINE = Path(__file__).with_name("query_counts.json")
HOW_TO = "if this is meant, see the head of tests/database/test_query_counts.py for how to write the baseline anew"
_OF_TRANSACTIONS = ("SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN", "RESET")  # inside a test there is one more around each
pytestmark = pytest.mark.django_db


class Counts:
    """Statements by the name of what sent them."""

    def __init__(self) -> None:
        self.by_name: dict[str, int] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count what is sent inside."""
        sent = 0

        def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            nonlocal sent
            sent += not sql.startswith(_OF_TRANSACTIONS)
            return execute(sql, params, many, context)

        with connection.execute_wrapper(count):
            yield
        self.by_name[name] = sent


class CountingHttp(DjangoHttp):
    """Counts each request that a client of `edge_client` makes, by its place in the order."""

    def __init__(self, counts: Counts, name: str) -> None:
        super().__init__()
        self._counts, self._name, self._number = counts, name, 0

    def send(self, method: str, path: str, body: bytes = b"", headers: Any = None) -> Any:
        self._number += 1
        with self._counts.of(f"{method} {path} ({self._name} {self._number})"):
            return super().send(method, path, body, headers)


def compare(measured: dict[str, int], part: str) -> None:
    """Compare with the baseline of this database, or write it where that is asked for."""
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if os.environ.get("QFLARE_WRITE_QUERY_COUNTS"):
        baseline.setdefault(connection.vendor, {})[part] = measured
        BASELINE.write_text(json.dumps(baseline, indent=1, sort_keys=True) + "\n")
    assert measured == baseline[connection.vendor][part], HOW_TO


def device_life(counts: Counts, running: Round, person: Person) -> None:
    """Do what a device does in a round, each request counted."""
    handshake = person.handshake()
    with counts.of("POST /api/challenge"):
        answer = person.post_cbor("/api/challenge", {"request": handshake.request})
    message = third_message(handshake, **cbor(answer))
    with counts.of("POST /api/authenticate"):
        person.post_cbor("/api/authenticate", message)
    line = person.line()
    with counts.of("POST /api/work, a round waits"):
        assert line.ask("/api/work").message["round"] is not None
    model = f"/api/global_model?federation={running.federation_id}"
    with counts.of("GET /api/global_model"):
        line.ask(model, method="GET", body=b"", content_type="")
    report = ProgressReport(running.id.bytes, "training", 0.5, 1.0).to_map()
    with counts.of("POST /api/progress"):
        assert line.ask("/api/progress", report).message["continue"]
    submission = Submission(running, person)
    body = submission.body()
    piece_by_piece(counts, line, submission)
    with counts.of("POST /api/submit_model"):
        receipt = send_submission(line, body).message
    with counts.of("POST /api/submit_model, the same again"):
        assert send_submission(line, body).message == receipt
    with counts.of("POST /api/work, nothing waits"):
        assert line.ask("/api/work").message["round"] is None
    Federation.objects.update(evaluated_by_devices=True)
    with counts.of("POST /api/work, an evaluation waits"):
        asked = line.ask("/api/work").message["evaluation"]
    evaluation = DeviceEvaluation(asked["federation_id"], asked["version"], 1, {"accuracy": 0.5})
    with counts.of("POST /api/evaluation"):
        assert line.ask("/api/evaluation", evaluation.to_map()).message["recorded"]
    request = line.seal("/api/work")
    line.send(request)
    with counts.of("POST /api/work, a retry"):
        line.send(request)
    with counts.of("POST /api/session/close"):
        line.ask("/api/session/close")
    key_renewal(counts, person)
    blob = running.base_version.blob_digest
    for path in (f"/api/blobs/{blob}", "/api/enclave/status", "/health"):
        with counts.of(f"GET {path.replace(blob, '<digest>')}"):
            person.http.send("GET", path)


def piece_by_piece(counts: Counts, line: Line, submission: Submission) -> None:
    """Begin an upload and bring a piece of it."""
    message = {"manifest": submission.manifest()}
    with counts.of("POST /api/uploads"):
        upload_id = line.ask("/api/uploads", message).message["upload_id"].hex()
    path = f"/api/uploads/{upload_id}"
    with counts.of("PATCH /api/uploads/<upload_id>"):
        line.ask(
            f"{path}?offset=0",
            method="PATCH",
            body=submission.sealed[:9],
            content_type="application/vnd.qflare.update-piece",
        )
    with counts.of("GET /api/uploads/<upload_id>"):
        line.ask(path, method="GET", body=b"", content_type="")


def key_renewal(counts: Counts, person: Person) -> None:
    """Rekey a session in both directions and rotate the device's keys."""
    session = person.session()
    session.open()
    person.http = session._http = CountingHttp(counts, "rekey")
    session.rekey()
    session.rekey()
    session._http = CountingHttp(counts, "rotation")
    session.rotate_keys()
    person.http = DjangoHttp()


def enrolment(counts: Counts, name: str) -> None:
    """Enrol a device, its two requests counted."""
    from django.utils import timezone

    token = issue_token(actor=OPERATOR, now=timezone.now(), device_name=name)
    enroll_device(CountingHttp(counts, "enrolment"), SERVER, token.text, name)


def test_each_endpoint_sends_as_many_statements_as_the_baseline_says(
    running: Round, alice: Person, carol: Person
) -> None:
    warm, counts = Counts(), Counts()
    enrolment(warm, "first")  # what a process keeps in memory is there from its first request on
    device_life(warm, running, carol)
    enrolment(counts, "second")
    device_life(counts, running, alice)
    compare(counts.by_name, "api")


PAGES = (
    "admin:devices_device_changelist", "admin:devices_devicekey_changelist",
    "admin:device_sessions_session_changelist", "admin:enrollment_enrolmenttoken_changelist",
    "admin:training_federation_changelist", "admin:training_round_changelist",
    "admin:training_participation_changelist", "admin:training_update_changelist",
    "admin:training_modelversion_changelist", "admin:enclave_enclaveinstance_changelist",
    "admin:audit_event_changelist", "admin:audit_entry_changelist", "admin:audit_checkpoint_changelist",
    "console:overview", "console:devices", "console:system", "console:models", "console:log-entries",
    "console:log-checkpoints", "console:workers",
)  # fmt: skip


def test_each_page_sends_as_many_statements_as_the_baseline_says(site: Any, root: Client) -> None:
    counts = Counts()
    for page in PAGES:
        root.get(reverse(page))
        with counts.of(page):
            assert root.get(reverse(page)).status_code == 200
    detail = reverse("admin:training_round_change", args=[site.completed.id])
    root.get(detail)
    with counts.of("admin:training_round_change"):
        assert root.get(detail).status_code == 200
    compare(counts.by_name, "pages")


def test_the_baseline_speaks_of_both_databases_and_the_same_things() -> None:
    baseline = json.loads(BASELINE.read_text())
    assert set(baseline) == {"sqlite", "postgresql"}
    for part in ("api", "pages"):
        assert set(baseline["sqlite"][part]) == set(baseline["postgresql"][part])
