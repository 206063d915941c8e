"""On a large site no query of the API, the admin or a periodic task reads a whole table."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from audit.models import Event
from audit.retention import archive_disclosures
from audit.services import sequence_log
from devices.models import Device
from enclave import services as enclave
from enclave.services import destroy_retired_keys
from enrollment.services import delete_expired_attempts
from qflare_protocol.device_evaluation import DeviceEvaluation
from qflare_protocol.progress import ProgressReport
from qflare_site.console.figures.aggregation import aggregation_time
from qflare_site.console.figures.effort import bytes_per_round, duration_per_round
from qflare_site.console.figures.failures import failures_by_reason
from qflare_site.console.figures.learning import accuracy_per_round, loss_per_round
from qflare_site.console.figures.participation import participation_per_round
from qflare_site.console.figures.scores import norm_by_cosine, score_strip
from qflare_site.console.figures.site import devices_online, log_growth
from qflare_site.console.versions import entry_of
from qflare_site.metrics.site import SiteCollector
from sessions.archiving import sessions_to_archive
from sessions.services import sweep_sessions
from tests.database.large_site import LARGE, ROWS, fill
from tests.database.plans import SeqScan, scans_of
from tests.database.roles import acting_as
from tests.open_rounds import Submission, make_federation, prepare_here, started
from tests.people import DjangoHttp, Person, enrol
from training.models import Federation, ModelVersion, Round
from training.services.tick import Dispatch, tick

pytestmark = pytest.mark.django_db

ACCEPTED = {
    r'^SELECT COUNT\(\*\) AS "__count" FROM "\w+"$': "the number of all rows above a list, which an operator asked for",
    r'^SELECT DISTINCT "\w+"\."(\w+)"( AS "\w+")? FROM "\w+" ORDER BY': "the values of a filter beside a list",
    r'^SELECT DISTINCT "\w+"\."(\w+)" AS "\w+" FROM "\w+" WHERE NOT \("\w+"\."\1" = %s\) ORDER BY': "those not empty",
    r"^SELECT [^%]* LIKE UPPER\(%s\)": "a search for a part of a word, which an operator asked for",
    r'^SELECT "devices_device"."state" AS "state", COUNT': "how many devices are in each state, on the first page",
    r'^SELECT "training_round"."state" AS "state", COUNT\(\*\)': "how many rounds are in each state: where the table "
    "was vacuumed, which it cannot be here, an index alone is read",
    r"^SELECT DISTINCT DATE_TRUNC\(": "the years of a list's calendar",
    r'^SELECT COUNT\(\*\) FROM \(SELECT "devices_device"."state" AS "state" FROM "devices_device" '
    r'WHERE "devices_device"."state" = %s LIMIT \d+\) subquery$': "the size of the fleet, once a minute and process",
}
"""Statements that need the whole table, each with the reason for which it may."""


@dataclass(frozen=True)
class LargeSite:
    """A site with many rows and a round in which alice and carol take part."""

    running: Round
    alice: Person
    carol: Person
    home: Path


@pytest.fixture(scope="module")
def large(
    roles: Any, django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LargeSite]:
    """Make it once, in a transaction around this module's tests."""
    home = tmp_path_factory.mktemp("homes")
    with django_db_blocker.unblock(), transaction.atomic(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(enclave, "start_enclave", prepare_here)
        alice, carol, _ = [enrol(name, home / name) for name in ("alice", "carol", "dave")]
        running = started(make_federation())
        sequence_log()
        fill()
        yield LargeSite(running, alice, carol, home)
        transaction.set_rollback(True)


def refused(found: list[SeqScan]) -> list[str]:
    """Return the scans that nothing accepts, each as its table and statement."""
    return [
        f"{scan.table}: {scan.sql.partition(' FROM ')[2] or scan.sql}"
        for scan in dict.fromkeys(found)
        if not any(re.match(accepted, scan.sql) for accepted in ACCEPTED)
    ]


def test_a_scan_would_be_found(large: LargeSite) -> None:
    with scans_of(LARGE) as found:
        list(ModelVersion.objects.filter(size_bytes=7))
    assert [scan.table for scan in found] == ["training_modelversion"]


def test_a_walk_along_an_index_for_a_payload_would_be_found(large: LargeSite) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    with scans_of(LARGE) as found:
        list(Event.objects.filter(payload__device="x").order_by("-id")[:50])
        list(Event.objects.filter(kind="device.keys_due", payload__device="x").order_by("-id")[:50])
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = on")
    assert [(scan.table, "keys_due" in scan.sql) for scan in found] == [("audit_event", False)]


def test_a_scrape_reads_a_whole_table_only_once(large: LargeSite) -> None:
    minutes = itertools.count(0, 6)
    collector = SiteCollector(now=lambda: timezone.now() + timedelta(minutes=next(minutes)))
    for _ in range(2):
        assert len(list(collector.collect())) > 10
    with scans_of(LARGE) as found:
        assert len(list(collector.collect())) > 10
    assert refused(found) == []


def test_no_request_of_a_device_reads_a_whole_table(large: LargeSite) -> None:
    federation = large.running.federation_id
    Federation.objects.update(evaluated_by_devices=True)
    with acting_as("web"), scans_of(LARGE) as found:
        newcomer = enrol("newcomer", large.home / "newcomer")
        line = large.alice.line()
        line.ask("/api/work")
        line.ask(f"/api/global_model?federation={federation}", method="GET", body=b"", content_type="")
        report = ProgressReport(large.running.id.bytes, "training", 0.5, 1.0)
        assert line.ask("/api/progress", report.to_map()).message["continue"]
        assert Submission(large.running, large.alice).hand_in(line).status == 200
        asked = line.ask("/api/work").message["evaluation"]
        evaluation = DeviceEvaluation(asked["federation_id"], asked["version"], 1, {"accuracy": 0.5})
        assert line.ask("/api/evaluation", evaluation.to_map()).message["recorded"]
        session = large.carol.session()
        session.rekey()
        session.rotate_keys()
        session.close()
        newcomer.line()
        http, digest = DjangoHttp(), ModelVersion.objects.get(rounds_from=large.running).blob_digest
        assert http.send("GET", f"/api/blobs/{digest}").status_code == 200
        assert http.send("GET", "/api/enclave/status").status_code == 200
        http.send("GET", "/health")
    assert refused(found) == []


ADMINS = sorted(
    (model._meta.app_label, model._meta.model_name) for model in admin.site._registry if model._meta.db_table in LARGE
)


@pytest.fixture
def operator(large: LargeSite) -> Client:
    """Return the browser of a superuser."""
    client = Client()
    user = User.objects.create_superuser("root", password="a long enough password")
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.mark.parametrize(("app", "model"), ADMINS)
def test_no_page_of_the_admin_reads_a_whole_table(large: LargeSite, operator: Client, app: str, model: str) -> None:
    with acting_as("web"), scans_of(LARGE) as found:
        page = operator.get(reverse(f"admin:{app}_{model}_changelist"))
        assert page.status_code == 200
        row = page.context["cl"].result_list[0]
        try:
            detail = reverse(f"admin:{app}_{model}_change", args=[row.pk])
        except NoReverseMatch:
            detail = ""
        if detail:
            assert operator.get(detail).status_code == 200
    assert refused(found) == []


CONSOLE = (
    "/", "/models", "/log-entries", "/log-entries?kind=session.refused", "/log-entries?actor=operator:root",
    "/log-entries?device=alice", "/log-entries?federation=digits&round=1", "/log-entries/7", "/log-checkpoints",
    "/log-entries?since=2026-01-01T00:00&until=2026-01-02T00:00", "/workers", "/workers/failures", "/system",
    "/rounds", "/rounds?federation__name=digits", "/devices", "/sessions", "/sessions?search=device-7", "/incidents",
    "/enrolment", "/models?federation__name=digits",
)  # fmt: skip


@pytest.mark.parametrize("page", CONSOLE)
def test_no_page_of_the_console_reads_a_whole_table(large: LargeSite, operator: Client, page: str) -> None:
    with acting_as("web"), scans_of(LARGE) as found:
        assert operator.get(page).status_code == 200
    assert refused(found) == []


def test_no_page_of_one_row_reads_a_whole_table(large: LargeSite, operator: Client) -> None:
    device, round_ = Device.objects.get(name="alice"), large.running
    with acting_as("web"), scans_of(LARGE) as found:
        for page in (f"/devices/{device.id}", f"/rounds/{round_.id}", f"/federations/{round_.federation_id}"):
            assert operator.get(page).status_code == 200
    assert refused(found) == []


def test_no_page_of_a_model_reads_a_whole_table(large: LargeSite, operator: Client) -> None:
    newest = ModelVersion.objects.order_by("-created_at")[0]
    ModelVersion.objects.filter(id=newest.id).update(provenance=b"not signed")
    older = newest.federation.versions.exclude(id=newest.id)[0]
    with acting_as("web"), scans_of(LARGE) as found:
        for page in (f"/models/{newest.id}", f"/models/compare?a={older.id}&b={newest.id}"):
            assert operator.get(page).status_code == 200
        assert entry_of(newest) is None
    assert refused(found) == []


OF_A_FEDERATION = (
    accuracy_per_round, loss_per_round, participation_per_round, score_strip, duration_per_round, bytes_per_round,
)  # fmt: skip


@pytest.mark.parametrize("read", [*OF_A_FEDERATION, norm_by_cosine])
def test_no_figure_of_a_federation_reads_a_whole_table(large: LargeSite, read: Any) -> None:
    newest = Round.objects.order_by("-created_at")[0]
    with acting_as("web"), scans_of(LARGE) as found:
        read(newest.id if read is norm_by_cosine else newest.federation_id)
    assert refused(found) == []


@pytest.mark.parametrize("read", [devices_online, failures_by_reason, aggregation_time, log_growth])
def test_no_figure_of_the_site_reads_a_whole_table(large: LargeSite, read: Any) -> None:
    with acting_as("web"), scans_of(LARGE) as found:
        read(timezone.now())
    assert refused(found) == []


def _nothing(_: Any) -> None:
    """Stands in for a worker."""


def test_no_periodic_task_of_a_worker_reads_a_whole_table(large: LargeSite) -> None:
    now = timezone.now()
    Federation.objects.filter(id=make_federation("idle").id).update(idle_devices=ROWS)
    with acting_as("worker"), scans_of(LARGE) as found:
        sweep_sessions(now=now)
        tick(Dispatch(_nothing, _nothing, _nothing, _nothing), now=now)
        delete_expired_attempts(now=now)
        destroy_retired_keys(now=now)
        list(sessions_to_archive(now - timedelta(days=800))[:2000])
    assert refused(found) == []


def test_sequencing_and_erasing_read_no_whole_table(large: LargeSite, settings: Any) -> None:
    settings.QFLARE_RETENTION = {"session_days": 1, "disclosure_days": 830}
    settings.QFLARE_ARCHIVE_DIR = large.home / "archive"
    with acting_as("audit"), scans_of(LARGE) as found:
        sequence_log()
        archive_disclosures(now=timezone.now())
    assert refused(found) == []
