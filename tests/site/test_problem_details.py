"""Every refusal of the API is an RFC 9457 object with a stable type."""

import errno
import json

import pytest
from django.contrib import admin
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import IntegrityError, InterfaceError, InternalError, OperationalError, connection, transaction
from django.http import Http404
from django.test import override_settings
from django.urls import path
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.test import APIClient
from rest_framework.views import APIView

from audit.models import Event
from devices.models import Device
from keyring.envelope import EnvelopeError
from keyring.kek import KekError
from qflare_protocol.errors import CATALOGUE, Refusal
from qflare_site import health, problem_details
from qflare_site.models import ProcessHeartbeat

handler400 = "qflare_site.problem_details.bad_request"
handler403 = "qflare_site.problem_details.permission_denied"
handler404 = "qflare_site.problem_details.page_not_found"
handler500 = "qflare_site.problem_details.server_error"

RAISED: list[Exception] = []


class OpenView(APIView):
    authentication_classes = ()
    permission_classes = ()

    def get(self, request):
        raise RAISED[0]

    def post(self, request):
        return Response(request.data)


class WritingView(OpenView):
    def get(self, request):
        with transaction.atomic():
            ProcessHeartbeat.objects.create(process="before-the-refusal", seen_at="2026-01-01T00:00:00Z")
            raise RAISED[0]


class ClosedView(APIView):
    """Declares nothing, and so shows what the site's defaults are."""

    def get(self, request):
        return Response({})


def outside_drf(_request):
    raise RAISED[0]


urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/open", OpenView.as_view()),
    path("api/writing", WritingView.as_view()),
    path("api/closed", ClosedView.as_view()),
    path("api/plain", outside_drf),
    path("page", outside_drf),
]

pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


@pytest.fixture
def client():
    return APIClient(raise_request_exception=False)


def answer_to(client, error, address="/api/open"):
    RAISED[:] = [error]
    return client.get(address)


def assert_problem(response, code):
    problem = json.loads(response.content)
    assert response["Content-Type"] == "application/problem+json"
    assert problem["type"] == f"urn:qflare:problem:{code}"
    assert problem["title"] == CATALOGUE[code].title
    assert response.status_code == problem["status"] == CATALOGUE[code].status
    assert problem["detail"]
    return problem


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_code_of_the_catalogue_arrives_with_its_status(client, code):
    problem = assert_problem(answer_to(client, Refusal(code, "A sentence.", hint="more")), code)
    assert problem["detail"] == "A sentence."
    assert problem["hint"] == "more"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Http404("row 17 of devices"), "not-found"),
        (exceptions.NotFound(), "not-found"),
        (PermissionDenied(), "permission-denied"),
        (exceptions.PermissionDenied(), "permission-denied"),
        (exceptions.NotAuthenticated(), "permission-denied"),
        (exceptions.AuthenticationFailed(), "authentication-failed"),
        (exceptions.ParseError(), "malformed-message"),
        (exceptions.ValidationError({"name": ["too long"]}), "malformed-message"),
        (exceptions.UnsupportedMediaType("text/csv"), "unsupported-media-type"),
        (exceptions.NotAcceptable(), "not-acceptable"),
        (IntegrityError("UNIQUE constraint failed: devices_device.name"), "conflict"),
        (OperationalError("connection to 10.1.2.3 refused"), "service-unavailable"),
        (InterfaceError("connection 10.1.2.3 already closed"), "service-unavailable"),
        (OSError(errno.ENOSPC, "No space left on device", "devices/blob"), "service-unavailable"),
        (OSError(errno.EROFS, "Read-only file system", "devices/blob"), "service-unavailable"),
        (BrokerError("redis://:hunter2@cache"), "service-unavailable"),
        (EnvelopeError("devices_x.column of 7 is damaged"), "service-unavailable"),
        (KekError("devices: the token cannot be used"), "service-unavailable"),
    ],
)
def test_what_django_and_drf_raise_is_translated(client, error, code):
    response = answer_to(client, error)
    assert_problem(response, code)
    for inside in (b"devices", b"10.1.2.3", b"hunter2"):
        assert inside not in response.content


@pytest.mark.parametrize("error", [OperationalError("gone"), OSError(errno.ENOSPC, "full"), BrokerError("gone")])
def test_what_is_unavailable_says_when_to_ask_again(client, error):
    response = answer_to(client, error)
    assert assert_problem(response, "service-unavailable")["retry_after_seconds"] == 5
    assert response["Retry-After"] == "5"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EPIPE])
def test_another_failure_to_write_is_an_error_of_the_server(client, number):
    assert_problem(answer_to(client, OSError(number, "not a matter of room")), "internal-error")


@pytest.mark.services
@pytest.mark.django_db
class TestADatabaseThatTakesNoChanges:
    @pytest.fixture(autouse=True)
    def read_only(self, db):
        if connection.vendor != "postgresql":
            pytest.skip("PostgreSQL refuses by transaction")
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL transaction_read_only = on")

    def test_a_change_is_refused_for_now(self, client):
        with pytest.raises(InternalError) as refused, transaction.atomic():
            Device.objects.filter(name="none").update(name="other")
        assert_problem(answer_to(client, refused.value), "service-unavailable")

    def test_a_refusal_whose_event_cannot_be_kept_is_one_for_now(self, client):
        refusal = Refusal("invalid-signature", "A sentence.")
        refusal.with_event("token.refused", actor="device:mallory", reason="token-used")
        assert_problem(answer_to(client, refusal), "service-unavailable")

    def test_health_says_so(self):
        part = health.examine(timezone.now())["parts"]["database"]
        assert part == {"status": "failed", "detail": "PostgreSQL answers, but takes no changes."}


def test_validation_names_the_fields(client):
    problem = assert_problem(answer_to(client, exceptions.ValidationError({"name": ["too long"]})), "malformed-message")
    assert problem["errors"] == {"name": ["too long"]}


def test_a_wrong_method_names_the_right_ones(client):
    response = client.delete("/api/open")
    assert_problem(response, "method-not-allowed")
    assert response["Allow"] == "GET, POST, HEAD, OPTIONS"


def test_a_body_that_is_not_json_is_malformed(client):
    assert_problem(client.generic("POST", "/api/open", b"{", content_type="application/json"), "malformed-message")


def test_a_body_of_another_type_is_refused(client):
    assert_problem(client.generic("POST", "/api/open", b"<a/>", content_type="text/xml"), "unsupported-media-type")


def test_throttling_says_when_to_ask_again(client):
    response = answer_to(client, exceptions.Throttled(wait=12.2))
    assert assert_problem(response, "rate-limited")["retry_after_seconds"] == 13
    assert response["Retry-After"] == "13"


@pytest.mark.parametrize("wait", [None, 0, 0.2, -3])
def test_the_wait_is_never_less_than_a_second(client, wait):
    assert answer_to(client, exceptions.Throttled(wait=wait))["Retry-After"] == "1"


def test_a_401_names_its_scheme(client):
    assert answer_to(client, Refusal("session-expired", "Over."))["WWW-Authenticate"] == "QFLARE"


def test_refusals_are_not_cached(client):
    assert answer_to(client, Refusal("no-model", "None yet."))["Cache-Control"] == "no-store"


def test_a_view_that_declares_nothing_is_closed_to_strangers(client):
    assert_problem(client.get("/api/closed"), "permission-denied")


def test_an_unforeseen_failure_tells_nothing(client):
    response = answer_to(client, ZeroDivisionError("the secret is 42"))
    assert_problem(response, "internal-error")
    assert b"42" not in response.content


def test_an_unknown_address_is_a_problem_under_api_and_a_page_elsewhere(client):
    assert_problem(client.get("/api/nowhere"), "not-found")
    assert client.get("/nowhere")["Content-Type"].startswith("text/html")


@pytest.mark.parametrize(
    ("error", "code"),
    [(SuspiciousOperation("x"), "malformed-message"), (PermissionDenied("x"), "permission-denied")],
)
def test_a_refusal_outside_drf_is_a_problem_under_api_and_a_page_elsewhere(client, error, code):
    assert_problem(answer_to(client, error, "/api/plain"), code)
    page = answer_to(client, error, "/page")
    assert page.status_code == CATALOGUE[code].status
    assert page["Content-Type"].startswith("text/html")


def test_a_failure_outside_drf_is_a_page_outside_the_api(client):
    page = answer_to(client, ZeroDivisionError("the secret is 42"), "/page")
    assert page.status_code == 500
    assert b"42" not in page.content


@override_settings(ALLOWED_HOSTS=["qflare.example"])
def test_a_foreign_host_header_is_a_problem_under_api(client):
    assert_problem(client.get("/api/open", HTTP_HOST="evil.example"), "malformed-message")


def test_the_event_of_a_refusal_is_recorded_after_the_rollback(client, monkeypatch):
    events = []

    def record_event(kind, *, actor, payload):
        assert transaction.get_connection().in_atomic_block
        events.append((kind, actor, payload, ProcessHeartbeat.objects.filter(process="before-the-refusal").exists()))

    monkeypatch.setattr(problem_details, "record_event", record_event)
    refusal = Refusal("token-used", "The token has been used.")
    refusal.with_event("token.refused", actor="device:mallory", reason="token-used")
    assert_problem(answer_to(client, refusal, "/api/writing"), "token-used")
    assert events == [("token.refused", "device:mallory", {"reason": "token-used"}, False)]


def test_a_refusal_without_event_records_none(client, monkeypatch):
    monkeypatch.setattr(problem_details, "record_event", lambda *_, **__: pytest.fail("no event was due"))
    assert_problem(answer_to(client, Refusal("no-model", "Nothing to do.")), "no-model")


@pytest.mark.django_db
def test_refused_requests_cannot_fill_the_log_beyond_their_limit(settings, rf):
    settings.QFLARE_RATES = settings.QFLARE_RATES | {"refusal-events": "3/m"}
    context = {"view": None, "request": rf.post("/api/work", REMOTE_ADDR="192.0.2.77")}
    for _ in range(5):
        refusal = Refusal("request-not-authentic", "It does not open.")
        refusal.with_event("request.refused", actor="stranger", device="alice", reason="request-not-authentic")
        assert problem_details.handle_exception(refusal, context).status_code == 401
    assert Event.objects.filter(kind="request.refused").count() == 3
