"""`/metrics`: what Prometheus reads, and who may."""

import itertools
import urllib.request
from datetime import timedelta
from types import SimpleNamespace
from urllib.error import URLError

import pytest
from django.db import InterfaceError, OperationalError
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from audit.kinds import registered_kinds
from audit.models import Checkpoint, Event
from audit.services import record_event, sequence_events
from devices.models import DeviceState
from qflare_site.broker_queues import QUEUES, waiting_messages
from qflare_site.metrics.processes import TASKS
from qflare_site.metrics.round_steps import STEP_SECONDS, StepTimes
from qflare_site.metrics.site import EntryCounts
from qflare_site.metrics.worker_endpoint import MetricsStep
from qflare_site.processes import free_address
from qflare_site.services import record_heartbeat
from tests.factories import make_federation
from training.models import Round, RoundState, RoundStep

pytestmark = pytest.mark.django_db

TOKEN = "a-token-of-the-tests"


def families(response):
    return {family.name: family for family in text_string_to_metric_families(response.content.decode())}


def samples(family):
    return {tuple(sorted(sample.labels.items())): sample.value for sample in family.samples}


def test_this_host_reads_every_family(client):
    found = families(client.get("/metrics"))
    assert {
        "qflare_devices", "qflare_rounds", "qflare_federations", "qflare_open_incidents", "qflare_log_entries",
        "qflare_log_waiting_events", "qflare_log_lag_seconds", "qflare_checkpoint_age_seconds", "qflare_broker_up",
        "qflare_queue_messages", "qflare_round_step_seconds", "qflare_privacy_epsilon_spent",
        "qflare_process_silent_seconds",
    } <= set(found)  # fmt: skip
    assert set(samples(found["qflare_devices"])) == {(("state", state),) for state in DeviceState.values}


def test_another_host_reads_nothing_where_there_is_no_token(client):
    refused = client.get("/metrics", REMOTE_ADDR="198.51.100.7")
    assert refused.status_code == 403
    assert refused.json()["type"] == "urn:qflare:problem:permission-denied"
    assert b"qflare_devices" not in refused.content


@pytest.mark.parametrize(("given", "status"), [("", 403), (f"Bearer {TOKEN}x", 403), (f"Bearer {TOKEN}", 200)])
def test_where_there_is_a_token_it_is_wanted_of_this_host_too(client, settings, given, status):
    settings.QFLARE_METRICS_TOKEN = TOKEN
    assert client.get("/metrics", headers={"Authorization": given}).status_code == status


def test_requests_are_counted_under_the_name_of_their_route(client):
    def counted():
        found = families(client.get("/metrics"))
        return samples(found["qflare_http_requests"]) if "qflare_http_requests" in found else {}

    key = (("endpoint", "blob"), ("method", "GET"), ("status", "404"))
    before = counted().get(key, 0)
    client.get(f"/api/blobs/{'0' * 64}")
    client.get(f"/api/blobs/{'1' * 64}")
    assert counted()[key] == before + 2


def test_a_path_that_leads_nowhere_makes_no_series_of_its_own(client):
    client.get("/no/such/path")
    endpoints = {dict(key)["endpoint"] for key in samples(families(client.get("/metrics"))["qflare_http_requests"])}
    assert "unresolved" in endpoints
    assert not any("such" in endpoint for endpoint in endpoints)


def test_entries_of_the_log_are_counted_by_kind_and_never_twice():
    counts = EntryCounts()
    record_event("device.suspended", actor="operator:alice", payload={"device": "bob", "reason": "lost"})
    sequence_events()
    first = counts.by_kind()
    assert first["device.suspended"] == 1
    assert counts.by_kind() == first
    record_event("device.suspended", actor="operator:alice", payload={"device": "carol", "reason": "lost"})
    assert counts.by_kind() == first  # not in the log yet
    sequence_events()
    assert counts.by_kind()["device.suspended"] == 2
    assert EntryCounts().by_kind() == counts.by_kind()


NOW = timezone.now()


@pytest.fixture
def step():
    """Return what times a step of a new round; `seconds` as the name of the step."""
    federation = make_federation()
    numbers = itertools.count(1)

    def timed(seconds, **members):
        number = next(numbers)
        round_ = Round.objects.create(
            federation=federation, number=number, base_version=federation.current_version, policy={}, roster=b"",
            invited=3, minimum_updates=3, target_updates=3, created_at=NOW, finished_at=NOW, state=RoundState.FAILED,
        )  # fmt: skip
        RoundStep.objects.create(round=round_, name="aggregate", started_at=NOW, seconds=seconds, **members)

    return timed


def counted(times, minutes):
    """Return how many steps were read at that minute: within a second, all, and their seconds."""
    totals = times.totals(NOW + timedelta(minutes=minutes))["aggregate"]
    return totals[STEP_SECONDS.index(1.0)], *totals[-2:]


def test_steps_are_added_up_once_and_the_younger_ones_anew(step):
    times = StepTimes()
    step(0.5)
    step(3.0)
    assert counted(times, 0) == (1, 2, 3.5)
    step(0.25)
    for minutes in (1, 6, 11, 12, 30):
        assert counted(times, minutes) == (2, 3, 3.75)
    RoundStep.objects.update(seconds=50.0)  # nobody reads them again
    assert counted(times, 31) == (2, 3, 3.75)
    step(0.5)
    assert counted(times, 32) == (3, 4, 4.25)


def test_a_step_that_is_committed_after_one_of_a_higher_id_is_counted(step):
    times = StepTimes()
    step(0.5, id=10)
    assert counted(times, 0) == (1, 1, 0.5)
    step(0.25, id=9)
    for minutes in (4, 6, 12, 18):
        assert counted(times, minutes) == (2, 2, 0.75)


def test_a_clock_that_is_put_back_keeps_no_step_from_being_counted(step):
    times = StepTimes()
    step(0.5)
    for minutes in (0, -60, -59, 0):
        assert counted(times, minutes) == (1, 1, 0.5)


def test_a_site_without_rounds_has_no_steps():
    assert StepTimes().totals(NOW) == {}


def test_an_event_that_waits_shows_as_the_lag_of_the_log(client):
    long_ago = timezone.now() - timedelta(seconds=90)
    record_event("device.suspended", actor="operator:alice", payload={"device": "bob", "reason": "lost"}, now=long_ago)
    found = families(client.get("/metrics"))
    assert samples(found["qflare_log_waiting_events"])[()] == Event.objects.filter(sequenced=False).count()
    assert 90 <= samples(found["qflare_log_lag_seconds"])[()] < 120


def test_a_silent_process_shows_how_long_it_was_not_seen(client):
    record_heartbeat("worker", host="one", pid=1, now=timezone.now() - timedelta(seconds=40))
    silent = samples(families(client.get("/metrics"))["qflare_process_silent_seconds"])
    assert 40 <= silent[(("host", "one"), ("process", "worker"))] < 70


def test_messages_that_wait_are_counted_by_queue(settings, tmp_path):
    settings.QFLARE_BROKER_DIR, settings.EMBEDDED = tmp_path, True
    assert waiting_messages() == dict.fromkeys(QUEUES, 0)
    (tmp_path / "messages").mkdir()
    for name in ("1_a.enclave.msg", "2_b.enclave.msg", "3_c.default.msg", ".4_d.default.msg.taken", ".e.draft"):
        (tmp_path / "messages" / name).touch()
    assert waiting_messages() == {"default": 1, "audit": 0, "enclave": 2}


def test_a_broker_that_is_away_is_a_metric_and_no_error(client, monkeypatch):
    def away():
        raise ConnectionError("nobody listens")

    monkeypatch.setattr("qflare_site.metrics.site.waiting_messages", away)
    found = families(client.get("/metrics"))
    assert samples(found["qflare_broker_up"])[()] == 0
    assert samples(found["qflare_queue_messages"]) == {}


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_a_database_that_is_away_is_a_metric_and_no_error(client, monkeypatch, error):
    assert samples(families(client.get("/metrics"))["qflare_database_up"])[()] == 1

    def away(*_):
        raise error("nobody listens")

    monkeypatch.setattr("qflare_site.metrics.site._round_steps", away)
    found = families(client.get("/metrics"))
    assert samples(found["qflare_database_up"])[()] == 0
    assert "qflare_devices" not in found


def test_a_kind_that_never_happened_is_counted_as_none(client):
    counted = samples(families(client.get("/metrics"))["qflare_log_entries"])
    assert {(("kind", kind),) for kind in registered_kinds()} <= set(counted)
    assert counted[(("kind", "round.failed"),)] == 0


def test_a_log_without_a_checkpoint_has_no_age(client):
    assert not Checkpoint.objects.exists()
    assert samples(families(client.get("/metrics"))["qflare_checkpoint_age_seconds"]) == {}


def test_a_worker_gives_its_hosts_numbers_where_a_port_is_set(settings):
    address = free_address()
    settings.QFLARE_METRICS_PORT = int(address.rpartition(":")[2])
    TASKS.labels("a.task", "SUCCESS").inc()
    worker = SimpleNamespace(hostname="worker@here")
    step, second = MetricsStep(worker), MetricsStep(worker)
    step.start(worker)
    second.start(worker)  # the port is taken: no reason to end the worker
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            assert b'qflare_tasks_total{state="SUCCESS",task="a.task"}' in answer.read()
    finally:
        second.stop(worker)
        step.stop(worker)
    with pytest.raises(URLError):
        urllib.request.urlopen(f"http://{address}/metrics", timeout=10)


def test_a_worker_gives_nothing_where_no_port_is_set(settings):
    settings.QFLARE_METRICS_PORT = 0
    assert not MetricsStep(SimpleNamespace(hostname="worker@here")).enabled
