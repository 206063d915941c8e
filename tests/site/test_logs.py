"""What a line of the log says of itself: request, device, session, round, operator, task, and no secret."""

import io
import json
import logging
import uuid
from datetime import timedelta

import pytest
import structlog
from celery.app.trace import build_tracer
from celery.signals import before_task_publish
from django.test import Client
from django.utils import timezone
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

from enclave.courier import EnclaveHost, prepare_round
from enclave.spare_process import SPARE
from operator_api.scopes import Scope
from operator_api.services import create_key
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.enrolment import EnrolmentToken
from qflare_protocol.errors import Refusal
from qflare_site.celery import app
from qflare_site.client_address import is_trusted_proxy
from qflare_site.logs import STRUCK_OUT
from qflare_site.request_log import HEADER
from qflare_site.task_log import MESSAGE_HEADER
from tests.people import raised_rates  # noqa: F401 - in use for every test here
from training.tasks import prepare_round as prepare_round_task
from training.tasks import run_range_step

PROXY = "10.0.0.1"
GIVEN = "0123456789abcdef"


class Lines(io.StringIO):
    """The lines of a log, each a JSON object."""

    def about(self, event):
        return [line for line in map(json.loads, self.getvalue().splitlines()) if line["event"] == event]


@pytest.fixture
def lines(monkeypatch):
    """Everything that is logged while a test runs, written as the site writes it."""
    clear_contextvars()
    root = logging.getLogger()
    (formatter,) = {h.formatter for h in root.handlers if h.formatter and "structlog" in type(h.formatter).__module__}
    written = Lines()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    root.addHandler(handler)
    levels = {name: logging.getLogger(name).level for name in ("", "qflare.request")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield written
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    root.removeHandler(handler)
    clear_contextvars()


@pytest.fixture
def published():
    """The headers of every message to the broker."""
    sent = []

    def receive(headers=None, **named):
        sent.append(headers)

    before_task_publish.connect(receive)
    yield sent
    before_task_publish.disconnect(receive)


def run(task, *args, headers=None):
    """Run a task as a worker does that has received it with these headers of its message."""
    tracer = build_tracer(task.name, task, app=app, eager=False)
    task_id = str(uuid.uuid4())
    outcome = tracer(task_id, args, {}, request={"id": task_id, "task": task.name, **(headers or {})})
    return task_id, outcome


def test_a_request_has_an_id_that_its_lines_and_its_answer_bear(client, db, lines):
    answer = client.get("/health/live")
    (line,) = lines.about("request.answered")
    assert line["request_id"] == answer[HEADER]
    assert uuid.UUID(hex=answer[HEADER]).version == 4
    assert (line["method"], line["route"], line["status"]) == ("GET", "health/live", 200)


def test_requests_of_one_thread_have_ids_of_their_own_and_share_nothing(client, db, lines):
    bind_contextvars(left_over="of a request that was cut off")
    first, second = client.get("/health/live"), client.get("/health/live")
    assert first[HEADER] != second[HEADER]
    assert all("left_over" not in line for line in lines.about("request.answered"))
    assert get_contextvars() == {}


def test_the_line_of_an_address_that_leads_nowhere_has_the_id_too(client, db, lines):
    answer = client.get("/no/such/page")
    (line,) = lines.about("Not Found: /no/such/page")
    assert line["request_id"] == answer[HEADER]


@pytest.mark.parametrize(
    ("peer", "sent", "taken"),
    [
        (PROXY, GIVEN, True),
        ("203.0.113.9", GIVEN, False),
        (PROXY, "short", False),
        (PROXY, "x" * 65, False),
        (PROXY, 'forged", "level": "critical', False),
        (PROXY, "line\nbreak-0123", False),
        (PROXY, "", False),
    ],
)
def test_an_id_is_taken_from_a_trusted_proxy_alone_and_only_in_its_form(client, db, settings, peer, sent, taken):
    settings.QFLARE_TRUSTED_PROXIES = ["10.0.0.0/8"]
    answer = client.get("/health/live", REMOTE_ADDR=peer, headers={HEADER: sent})
    assert (answer[HEADER] == sent) is taken


@pytest.mark.parametrize(
    ("address", "trusted"), [(PROXY, True), ("10.255.0.1", True), ("11.0.0.1", False), ("", False), ("unix:", False)]
)
def test_a_proxy_is_trusted_by_its_network(settings, address, trusted):
    settings.QFLARE_TRUSTED_PROXIES = ["10.0.0.0/8", "fd00::/8"]
    assert is_trusted_proxy(address) is trusted


def test_a_sealed_request_names_its_device_and_session(alice, lines):
    session = alice.session()
    session.post("/api/work", {})
    (line,) = [line for line in lines.about("request.answered") if line["route"] == "api/work"]
    assert (line["device"], line["device_id"]) == ("alice", str(alice.device.id))
    assert line["session_id"] == str(uuid.UUID(bytes=session.open().session_id))


def test_a_handshake_names_the_device_that_signed_it(alice, lines):
    alice.session().open()
    (line,) = [line for line in lines.about("request.answered") if line["route"] == "api/challenge"]
    assert line["device_id"] == str(alice.device.id)


def test_an_operators_request_names_the_operator_and_the_ids_in_its_path(everything, running, lines):
    answer = everything.post(
        f"/api/operator/rounds/{running.id}/cancel", {"reason": "a test"}, content_type="application/json"
    )
    assert answer.status_code == 200
    (line,) = lines.about("request.answered")
    assert (line["operator"], line["round_id"], line["level"]) == ("api-key:everything", str(running.id), "info")


def test_who_is_signed_in_is_named(admin_client, lines):
    admin_client.get("/admin/")
    (line,) = lines.about("request.answered")
    assert (line["operator"], line["level"]) == ("admin", "debug")  # the console asks every few seconds


def test_whoever_is_not_signed_in_costs_no_query(client, db, django_assert_num_queries):
    with django_assert_num_queries(0):
        client.get("/health/live")


def test_the_task_that_a_request_sends_bears_the_requests_id(everything, running, lines, published):
    federation = running.federation
    everything.post(f"/api/operator/rounds/{running.id}/cancel", {"reason": "room"}, content_type="application/json")
    lines.seek(0)
    lines.truncate()
    answer = everything.post(
        "/api/operator/rounds", {"federation": str(federation.id)}, content_type="application/json"
    )
    assert answer.status_code == 201, answer.content
    (headers,) = [one for one in published if one["task"] == prepare_round_task.name]
    assert headers[MESSAGE_HEADER] == answer[HEADER]
    nowhere = str(uuid.uuid4())
    task_id, _ = run(prepare_round_task, nowhere, headers=headers)
    (succeeded,) = [line for line in task_lines(lines, prepare_round_task.name) if "succeeded" in line["event"]]
    (requested,) = lines.about("request.answered")
    assert succeeded["request_id"] == requested["request_id"] == answer[HEADER]
    assert (succeeded["task_id"], succeeded["round_id"]) == (task_id, nowhere)


def task_lines(lines, name):
    return [line for line in map(json.loads, lines.getvalue().splitlines()) if line.get("task") == name]


@pytest.mark.django_db
def test_a_task_forgets_its_ids_when_it_has_ended(lines):
    run(prepare_round_task, str(uuid.uuid4()), headers={MESSAGE_HEADER: GIVEN})
    assert get_contextvars() == {}


@pytest.mark.django_db
def test_a_task_that_fails_forgets_its_ids_too(lines, monkeypatch):
    def broken(step_id, now):
        raise ZeroDivisionError

    monkeypatch.setattr("training.services.range_steps.run_range_step", broken)
    run(run_range_step, 7)
    (line,) = [line for line in task_lines(lines, run_range_step.name) if "ZeroDivisionError" in line["event"]]
    assert (line["step_id"], line["level"]) == ("7", "error")
    assert get_contextvars() == {}


@pytest.mark.django_db
@pytest.mark.parametrize("forged", ['x", "level": "critical', "", 7, None])
def test_an_id_out_of_form_in_a_message_is_left_out(lines, forged):
    run(prepare_round_task, str(uuid.uuid4()), headers={MESSAGE_HEADER: forged})
    assert all("request_id" not in line for line in task_lines(lines, prepare_round_task.name))


def test_a_message_outside_of_a_request_bears_no_id(db, published):
    clear_contextvars()
    prepare_round_task.apply_async((str(uuid.uuid4()),), expires=1)
    assert MESSAGE_HEADER not in published[-1]


def test_the_lines_of_the_courier_name_the_round(lines, tmp_path, monkeypatch):
    """The process does not even start here: a shell complains in its place, and no spare one is there to take it."""
    SPARE.drop()
    monkeypatch.setattr("enclave.courier.PROGRAM", ["/usr/bin/env", "sh", "-c", "echo complaint >&2; exit 3"])
    round_id = uuid.uuid4()
    with pytest.raises(Refusal) as refused:
        prepare_round(
            EnclaveHost(tmp_path),
            round_id=round_id.bytes,
            federation_id=bytes(16),
            policy=AggregationPolicy(),
            nonce=bytes(32),
        )
    assert refused.value.code == "enclave-failed"
    (line,) = lines.about("The sealed process wrote: complaint")
    assert line["round_id"] == str(round_id)
    assert get_contextvars() == {}


log = structlog.get_logger("tests.logs")


def secrets():
    token = EnrolmentToken.generate(bytes(range(32))).to_text()
    pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ\n-----END PRIVATE KEY-----"
    texts = {
        "enrolment token": token,
        "webhook secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "bearer": "Authorization: Bearer abcdefgh12345678",
        "private key": pem,
        "password in a URL": "redis://:hunter2hunter2@host/0",
    }
    return [pytest.param(text, id=name) for name, text in texts.items()]


def secret_part(text):
    """Return what must not be found: the longest run without a mark that names the kind."""
    return max(text.replace("\n", " ").replace(":", " ").replace("@", " ").replace(".", " ").split(), key=len)


@pytest.mark.parametrize("text", secrets())
def test_what_looks_like_a_secret_is_struck_out_wherever_it_stands(lines, text):
    log.info("it was " + text, where=text, deep={"list": [{"inner": text}]})
    log.info("an object", shown=type("Shows", (), {"__repr__": lambda self: f"<{text}>"})())
    logging.getLogger("tests.logs").warning("the standard way: %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("it failed")
    assert STRUCK_OUT in lines.getvalue()
    assert secret_part(text) not in lines.getvalue()
    assert all(json.loads(line) for line in lines.getvalue().splitlines())


@pytest.mark.django_db
def test_a_key_of_the_operator_api_is_struck_out(lines):
    scopes, day = [Scope.DEVICES_READ], timedelta(days=1)
    key = create_key("a-key", scopes=scopes, lifetime=day, actor="operator:olga", now=timezone.now())
    log.info("called with " + key.text)
    assert key.text not in lines.getvalue()
    assert STRUCK_OUT in lines.getvalue()


@pytest.mark.parametrize("name", ["chain_key", "key", "mnemonic", "Authorization", "passphrase", "cookie", "pin"])
def test_a_secret_by_name_is_struck_out_however_deep_it_stands(lines, name):
    log.info("an event", outer=[{"inner": {name: "hunter2hunter2"}}])
    assert "hunter2hunter2" not in lines.getvalue()


@pytest.mark.parametrize("name", ["public_key", "key_id", "token_id", "spinning", "monkeys"])
def test_what_only_sounds_like_a_secret_stays(lines, name):
    log.info("an event", **{name: "shown"})
    assert lines.about("an event")[0][name] == "shown"


def test_a_wrong_key_is_not_in_the_log(db, lines):
    wrong = "qfk_" + "A" * 86
    Client(headers={"Authorization": f"Bearer {wrong}"}).get("/api/operator/devices")
    assert lines.about("request.answered")[0]["status"] == 401
    assert "AAAA" not in lines.getvalue()
