"""Rate limits: who is counted, what a refusal says, and what happens when the counters are gone."""

import json
import uuid

import pytest
import time_machine
from django.urls import path
from rest_framework.response import Response
from rest_framework.test import APIClient
from rest_framework.views import APIView

from audit.models import Event
from qflare_site.stores import redis_caches

UNUSED = "redis://127.0.0.1:1/0"


class Limited(APIView):
    authentication_classes = ()
    permission_classes = ()

    def get(self, request):
        return Response({})


class Enrol(Limited):
    rate_limit_scope = "enrolment"


class Challenge(Limited):
    rate_limit_scope = "challenge"

    def rate_limit_key(self, request):
        return request.GET["device"]


class Download(Limited):
    rate_limit_scope = "download"


class Free(Limited):
    pass


urlpatterns = [
    path("api/enrol", Enrol.as_view()),
    path("api/challenge", Challenge.as_view()),
    path("api/download", Download.as_view()),
    path("api/free", Free.as_view()),
]

pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


@pytest.fixture(autouse=True)
def rates(settings):
    rates = {"enrolment": "2/m", "challenge": "2/m", "submission": "2/m", "download": "2/m"}
    settings.QFLARE_RATES = rates | {"refusal-events": "60/m"}
    settings.RATELIMIT_CACHE_PREFIX = f"{uuid.uuid4()}:"  # every test counts from zero


@pytest.fixture(autouse=True)
def still_clock():
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        yield clock


@pytest.fixture
def without_redis(settings):
    settings.CACHES = redis_caches(UNUSED, "qflare-test")


@pytest.fixture
def client():
    return APIClient()


def statuses(client, address, times=3, **extra):
    return [client.get(address, **extra).status_code for _ in range(times)]


def test_the_request_over_the_limit_is_refused_with_a_time_to_wait(client):
    assert statuses(client, "/api/enrol") == [200, 200, 429]
    response = client.get("/api/enrol")
    problem = json.loads(response.content)
    assert problem["type"] == "urn:qflare:problem:rate-limited"
    assert 1 <= int(response["Retry-After"]) <= 60
    assert problem["retry_after_seconds"] == int(response["Retry-After"])


def test_after_the_wait_the_caller_may_go_on(client, still_clock):
    statuses(client, "/api/enrol")
    still_clock.shift(int(client.get("/api/enrol")["Retry-After"]) + 1)
    assert client.get("/api/enrol").status_code == 200


def test_the_wait_is_at_least_a_second_at_the_very_end_of_the_window(client, still_clock):
    statuses(client, "/api/enrol")
    still_clock.shift(int(client.get("/api/enrol")["Retry-After"]))
    assert int(client.get("/api/enrol").get("Retry-After", "1")) >= 1


def test_addresses_are_counted_apart(client):
    assert statuses(client, "/api/enrol", REMOTE_ADDR="10.0.0.1") == [200, 200, 429]
    assert client.get("/api/enrol", REMOTE_ADDR="10.0.0.2").status_code == 200


def test_a_forged_forwarding_header_does_not_buy_a_new_count(client):
    answers = [client.get("/api/enrol", HTTP_X_FORWARDED_FOR=f"1.2.3.{n}").status_code for n in range(3)]
    assert answers == [200, 200, 429]


def test_behind_a_trusted_proxy_the_client_is_counted(client, settings):
    settings.QFLARE_TRUSTED_PROXIES = ["127.0.0.1"]
    assert statuses(client, "/api/enrol", HTTP_X_FORWARDED_FOR="10.0.0.1") == [200, 200, 429]
    assert client.get("/api/enrol", HTTP_X_FORWARDED_FOR="10.0.0.2").status_code == 200


def test_a_view_may_count_by_its_own_key(client):
    assert statuses(client, "/api/challenge?device=alice") == [200, 200, 429]
    assert client.get("/api/challenge?device=bob").status_code == 200


def test_an_excess_is_recorded_once_for_each_caller_and_window(client, still_clock):
    assert statuses(client, "/api/enrol", times=6) == [200, 200, 429, 429, 429, 429]
    event = Event.objects.get(kind="rate.exceeded")
    assert (event.actor, event.description) == ("stranger", "Requests of stranger exceed the limit of enrolment, 2/m")
    still_clock.shift(61)
    statuses(client, "/api/enrol", times=6)
    assert Event.objects.filter(kind="rate.exceeded").count() == 2


def test_scopes_are_counted_apart(client):
    statuses(client, "/api/enrol")
    assert client.get("/api/download").status_code == 200


def test_a_view_without_a_scope_has_no_limit(client):
    assert statuses(client, "/api/free", times=10) == [200] * 10


@pytest.mark.parametrize("address", ["/api/enrol", "/api/challenge?device=alice"])
def test_without_counters_enrolment_and_sessions_are_refused(client, without_redis, address):
    response = client.get(address)
    assert response.status_code == 503
    assert json.loads(response.content)["type"] == "urn:qflare:problem:service-unavailable"
    assert int(response["Retry-After"]) >= 1


def test_without_counters_downloads_go_on(client, without_redis):
    assert statuses(client, "/api/download", times=5) == [200] * 5


def test_without_counters_what_has_no_limit_goes_on(client, without_redis):
    assert client.get("/api/free").status_code == 200


def test_a_counter_file_that_cannot_be_opened_counts_as_counters_gone(client, settings, tmp_path):
    (tmp_path / "counters").mkdir()
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "ratelimit": {
            "BACKEND": "qflare_site.ratelimit_cache.CounterCache",
            "LOCATION": str(tmp_path / "counters"),
        },
    }
    assert client.get("/api/enrol").status_code == 503
    assert client.get("/api/download").status_code == 200
