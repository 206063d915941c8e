"""One trace from a request over its task to the steps of the sealed process, and nothing secret in it."""

import subprocess
import sys
import uuid

import pytest
from celery.app.trace import build_tracer
from celery.signals import before_task_publish
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from structlog.contextvars import get_contextvars

from enclave.spans import round_followed, step_ended
from qflare_protocol.errors import Refusal
from qflare_site import tracing
from qflare_site.celery import app
from tests.people import Person, raised_rates  # noqa: F401 - in use for every test here
from training.models import Federation
from training.tasks import aggregate_round, prepare_round
from training.tasks import tick as tick_task

pytest.importorskip("opentelemetry.sdk", reason="requirements-otel.txt is not installed")

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def finished():
    """Trace while a test runs; call it for the spans that have ended, by name."""
    exporter = InMemorySpanExporter()
    tracing.trace_by(SimpleSpanProcessor(exporter))
    yield lambda: {span.name: span for span in exporter.get_finished_spans()}
    tracing.end_tracing()


def run(task, *args, headers=None):
    """Run a task as a worker does that has received it with these headers of its message."""
    task_id = str(uuid.uuid4())
    request = {"id": task_id, "task": task.name, **(headers or {})}
    build_tracer(task.name, task, app=app, eager=False)(task_id, args, {}, request=request)
    return task_id


def is_child(child, parent):
    return child.parent is not None and child.parent.span_id == parent.context.span_id


def test_a_request_is_a_span_under_the_name_of_its_route(client, db, finished):
    client.get("/health/live?token=hunter2")
    span = finished()["GET health/live"]
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["http.route"] == "health/live"
    assert span.status.status_code == StatusCode.UNSET
    assert "hunter2" not in span.to_json()


def test_a_request_that_leads_nowhere_makes_no_span_of_its_own_name(client, db, finished):
    client.get("/no/such/place")
    assert set(finished()) == {"GET unresolved"}


def test_the_words_of_an_exception_stay_at_home(finished):
    with pytest.raises(ValueError, match="hunter2"), tracing._tracing.span("broken", "INTERNAL", {}):
        raise ValueError("hunter2")
    assert "hunter2" not in finished()["broken"].to_json()


def test_a_request_that_fails_is_marked(db, finished, monkeypatch):
    def broken(*arguments, **named):
        raise ZeroDivisionError("hunter2")

    monkeypatch.setattr("operator_api.authentication.live_key", broken)
    failing = Client(raise_request_exception=False, headers={"Authorization": "Bearer x"})
    assert failing.get("/api/operator/devices").status_code == 500
    span = finished()["GET api/operator/devices"]
    assert span.status.status_code == StatusCode.ERROR
    assert "hunter2" not in span.to_json()


@pytest.mark.parametrize(("peer", "followed"), [("10.0.0.1", True), ("203.0.113.9", False)])
def test_the_parent_that_a_trusted_proxy_names_is_followed(client, db, settings, finished, peer, followed):
    settings.QFLARE_TRUSTED_PROXIES = ["10.0.0.0/8"]
    client.get("/health/live", REMOTE_ADDR=peer, headers={"traceparent": PARENT})
    trace_id = f"{finished()['GET health/live'].context.trace_id:032x}"
    assert (trace_id in PARENT) is followed


@pytest.mark.usefixtures("alice", "carol", "dave")
def test_web_task_and_enclave_are_one_trace(everything, federation: Federation, finished):
    """With a sealed process as in production."""
    sent = []

    def keep(headers=None, **named):
        sent.append(headers)

    before_task_publish.connect(keep)
    try:
        answer = everything.post(
            "/api/operator/rounds", {"federation": str(federation.id)}, content_type="application/json"
        )
    finally:
        before_task_publish.disconnect(keep)
    (headers,) = [one for one in sent if one["task"] == prepare_round.name]
    task_id = run(prepare_round, answer.json()["id"], headers=headers)
    spans = finished()
    request, task, enclave = (
        spans["POST api/operator/rounds"], spans[f"task {prepare_round.name}"], spans["enclave prepare"],
    )  # fmt: skip
    assert is_child(task, request)
    assert is_child(enclave, task)
    assert task.attributes["task_id"] == task_id
    assert task.attributes["round_id"] == enclave.attributes["round_id"] == answer.json()["id"]
    assert task.attributes["state"] == "SUCCESS"


def test_a_step_of_the_sealed_process_is_as_long_as_it_says(finished):
    round_id = uuid.uuid4()
    with round_followed("aggregate", round_id.bytes):
        step_ended("screen", 1.5)
    spans = finished()
    step = spans["enclave step screen"]
    assert is_child(step, spans["enclave aggregate"])
    assert (step.end_time - step.start_time) / 1e9 == pytest.approx(1.5, abs=1e-6)


def test_a_round_that_fails_in_the_enclave_ends_its_span(finished):
    with pytest.raises(Refusal), round_followed("prepare", bytes(16)):
        raise Refusal("enclave-failed", "The process ended.")
    assert "The process ended" not in finished()["enclave prepare"].to_json()
    assert get_contextvars() == {}


@pytest.mark.django_db
def test_a_task_that_fails_is_marked(finished, monkeypatch):
    def broken(round_id, now):
        raise ZeroDivisionError("hunter2")

    monkeypatch.setattr("training.services.steps.aggregate_round", broken)
    run(aggregate_round, str(uuid.uuid4()))
    span = finished()[f"task {aggregate_round.name}"]
    assert (span.attributes["state"], span.status.status_code) == ("FAILURE", StatusCode.ERROR)
    assert "hunter2" not in span.to_json()
    assert get_contextvars() == {}


@pytest.mark.django_db
def test_a_tick_of_beat_makes_no_span_and_one_that_a_request_asked_for_does(finished):
    run(tick_task)
    assert finished() == {}
    run(tick_task, headers={tracing.PARENT: PARENT})
    assert f"{finished()[f'task {tick_task.name}'].context.trace_id:032x}" in PARENT


def test_no_span_of_a_device_at_work_shows_a_secret(alice: Person, finished, monkeypatch):
    alice.session().post("/api/work", {})
    spans = finished()
    work = spans["POST api/work"]
    assert work.attributes["device_id"] == str(alice.device.id)
    allowed = {"http.route", "http.request.method", "http.response.status_code"}
    for span in spans.values():
        assert {name for name in span.attributes if not name.endswith("_id")} <= allowed
        assert not span.events


def test_without_an_endpoint_nothing_that_makes_or_sends_spans_is_imported(client, db):
    assert tracing._tracing is None
    assert Client().get("/health/live").status_code == 200
    code = (
        "import sys, django; django.setup(); import enclave.courier, qflare_site.wsgi;"
        "sys.exit(any(name.startswith(('opentelemetry.sdk.trace', 'opentelemetry.exporter')) for name in sys.modules))"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_sealed_process_knows_nothing_of_it():
    code = (
        "import sys, enclave.core.__main__;"
        "sys.exit(any(name.split('.')[0] in ('opentelemetry', 'structlog') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_package_stops_the_start_and_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ImproperlyConfigured, match=r"requirements-otel\.txt"):
        tracing.begin_tracing("http://127.0.0.1:4318")
    assert tracing._tracing is None


def test_spans_arrive_at_a_collector(httpserver_of_spans, client, db):
    address, received = httpserver_of_spans
    tracing.begin_tracing(address)
    try:
        Client().get("/health/live")
    finally:
        tracing.end_tracing()
    (path, body) = received[0]
    assert path == "/v1/traces"
    assert b"GET health/live" in body and b"qflare" in body


@pytest.fixture
def httpserver_of_spans():
    """A collector on this host that keeps what it is sent."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()
    thread.join()
