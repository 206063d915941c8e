"""The operator API: what a key sees and does, and what it is refused."""

import base64
import uuid

import pytest
from django.test import Client

from audit.models import Event
from audit.services import sequence_log
from devices.models import Device, DeviceState
from enrollment.models import EnrolmentToken
from operator_api.scopes import READING, Scope
from operator_api.urls import urlpatterns
from training.models import UNFINISHED, Federation, FederationState, ModelVersion, Round, RoundState

pytestmark = pytest.mark.django_db


PROBLEM = "urn:qflare:problem:"
NOBODY = uuid.UUID(int=0)


def path(name):
    return f"/api/operator/{name}"


def every_endpoint():
    """Yield (method, path with values of nothing) of the whole API."""
    for pattern in urlpatterns:
        route = str(pattern.pattern)
        for kind, value in (("uuid", str(NOBODY)), ("int", "999999")):
            while f"<{kind}:" in route:
                head, _, rest = route.partition(f"<{kind}:")
                route = head + value + rest.partition(">")[2]
        for method in pattern.callback.view_class.scopes:
            yield method, f"/api/operator/{route}"


@pytest.mark.parametrize(("method", "address"), list(every_endpoint()))
@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer qfk_" + "A" * 64, "Basic b2xnYTpwYXNz"])
def test_nobody_gets_in_without_a_key(method, address, header):
    answer = Client(headers={"Authorization": header}).generic(method, address)
    assert answer.status_code == 401
    assert answer.json()["type"] == f"{PROBLEM}authentication-failed"


@pytest.mark.parametrize(("method", "address"), list(every_endpoint()))
def test_a_key_without_the_scope_is_told_which_one_it_lacks(caller, method, address):
    other = caller(Scope.LOG_READ) if "/log/" not in address else caller(Scope.TOKENS_READ)
    answer = other.generic(method, address)
    assert answer.status_code == 403
    assert "lacks the scope" in answer.json()["detail"]


@pytest.mark.parametrize(("method", "address"), [one for one in every_endpoint() if one[0] != "GET"])
def test_a_key_that_may_read_everything_changes_nothing(site, caller, method, address):
    assert caller(*READING).generic(method, address, "{}", "application/json").status_code == 403


@pytest.mark.parametrize(
    ("method", "address"), [one for one in every_endpoint() if "0000" in one[1] or "9999" in one[1]]
)
def test_what_is_not_there_is_not_found(everything, method, address):
    body = '{"reason": "a test", "seconds": 1, "labels": {}, "number": 0}'
    answer = everything.generic(method, address, body, "application/json")
    assert (answer.status_code, answer.json()["type"]) == (404, f"{PROBLEM}not-found")
    assert answer["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", ["tokens", "devices", "federations", "rounds", "models", "log/entries"])
def test_every_list_shows_the_rows_of_the_site_a_page_at_a_time(site, everything, name):
    sequence_log()
    first = everything.get(path(name), {"limit": 1})
    assert first.status_code == 200, first.content
    shown = first.json()
    assert len(shown["results"]) == 1
    seen = list(shown["results"])
    while shown["next"]:
        shown = everything.get(shown["next"]).json()
        seen += shown["results"]
    whole = everything.get(path(name), {"limit": 1000}).json()["results"]
    assert seen == whole


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("devices", {"colour": "red"}), ("devices", {"state": "happy"}), ("rounds", {"federation": "digits"}),
        ("models", {"number": "-1"}), ("log/entries", {"after": "x"}), ("tokens", {"limit": "0"}),
        ("tokens", {"limit": "1001"}),
    ],
)  # fmt: skip
def test_a_parameter_that_cannot_be_read_is_named_and_refused(everything, name, parameters):
    answer = everything.get(path(name), parameters)
    assert (answer.status_code, answer.json()["type"]) == (400, f"{PROBLEM}malformed-message")
    assert set(answer.json()["errors"]) == set(parameters)


@pytest.mark.parametrize("cursor", ["x", "%00", "cD0="])
def test_a_cursor_of_nowhere_is_no_failure_of_the_server(everything, cursor):
    assert everything.get(path("devices"), {"cursor": cursor}).status_code in (200, 404)


@pytest.mark.parametrize(
    "told", ["p=garbage", "p=%00", "p=", "p=1.5", "p=0001-01-01T00:00:00%2B23:59", "p=" + "9" * 40]
)
@pytest.mark.parametrize("name", ["tokens", "rounds", "models", "log/entries", "participations"])
def test_a_cursor_that_no_list_has_given_is_not_found(site, everything, name, told):
    if name == "participations":
        name = f"rounds/{Round.objects.first().id}/participations"
    answer = everything.get(path(name), {"cursor": base64.b64encode(told.encode()).decode()})
    if "9999" in told and answer.status_code == 200:
        assert name not in ("tokens", "rounds", "models")  # a number behind every row is a place all the same
    else:
        assert (answer.status_code, answer.json()["type"]) == (404, f"{PROBLEM}not-found")


@pytest.mark.parametrize("address", [address for method, address in every_endpoint() if method == "GET"])
def test_a_head_request_needs_the_scope_of_reading(caller, address):
    other = caller(Scope.LOG_READ) if "/log/" not in address else caller(Scope.TOKENS_READ)
    assert other.head(address).status_code == 403


def test_a_method_that_no_scope_is_named_for_is_not_allowed(everything):
    answer = everything.generic("PATCH", path("tokens"), "{}", "application/json")
    assert (answer.status_code, answer.json()["type"]) == (405, f"{PROBLEM}method-not-allowed")
    assert everything.options(path("tokens")).status_code == 200


def test_a_refused_key_is_an_event_without_its_text(caller):
    text = "qfk_" + "A" * 64
    Client(headers={"Authorization": f"Bearer {text}"}).get(path("tokens"))
    caller(Scope.LOG_READ).get(path("tokens"))
    told = Event.objects.filter(kind="api_key.refused").order_by("id")
    assert [(event.actor, event.payload["reason"]) for event in told] == [
        ("stranger", "unknown"),
        ("api-key:another-script", "lacks tokens:read"),
    ]
    assert not [event for event in told if "AAAA" in str(event.payload)]


def test_a_stranger_cannot_fill_the_log_with_refused_keys(settings):
    settings.QFLARE_RATES = settings.QFLARE_RATES | {"refusal-events": "2/m"}
    for _ in range(4):
        Client(headers={"Authorization": "Bearer qfk_" + "A" * 64}).get(path("tokens"))
    assert Event.objects.filter(kind="api_key.refused").count() == 2


def test_a_device_is_suspended_resumed_and_revoked_with_the_keys_name_in_the_log(site, everything):
    device = Device.objects.filter(state=DeviceState.ACTIVE).first()
    for verb, state in (("suspend", "suspended"), ("resume", "active"), ("revoke", "revoked")):
        answer = everything.post(path(f"devices/{device.id}/{verb}"), {"reason": f"to {verb}"}, "application/json")
        assert (answer.status_code, answer.json()["state"]) == (200, state)
    said = Event.objects.filter(kind__in=("device.suspended", "device.resumed", "device.revoked"))
    assert [event.actor for event in said.order_by("id")][-3:] == ["api-key:everything"] * 3
    again = everything.post(path(f"devices/{device.id}/revoke"), {"reason": "again"}, "application/json")
    assert (again.status_code, again.json()["type"]) == (409, f"{PROBLEM}conflict")


def test_a_change_without_a_reason_is_refused_and_changes_nothing(site, everything):
    device = Device.objects.filter(state=DeviceState.ACTIVE).first()
    for body in ({}, {"reason": ""}, {"reason": "x" * 501}):
        answer = everything.post(path(f"devices/{device.id}/suspend"), body, "application/json")
        assert answer.status_code == 400
        assert set(answer.json()["errors"]) == {"reason"}
    assert Device.objects.get(id=device.id).state == DeviceState.ACTIVE


def test_a_device_is_labelled(site, everything):
    device = Device.objects.first()
    answer = everything.put(path(f"devices/{device.id}/labels"), {"labels": {"country": "fi"}}, "application/json")
    assert answer.json()["labels"] == {"country": "fi"}
    assert Device.objects.get(id=device.id).labels == {"country": "fi"}


def test_tokens_are_shown_once_and_can_be_revoked(everything):
    answer = everything.post(path("tokens"), {"count": 2, "device_name": "press", "hours": 1}, "application/json")
    assert answer.status_code == 201
    issued = answer.json()
    assert [one["device_name"] for one in issued] == ["press-1", "press-2"]
    assert all(one["token"] in one["command"] for one in issued)
    assert "token" not in everything.get(path("tokens")).json()["results"][0]
    revoked = everything.post(path(f"tokens/{issued[0]['id']}/revoke"))
    assert revoked.json()["state"] == "revoked"
    assert everything.post(path(f"tokens/{issued[0]['id']}/revoke")).status_code == 409


@pytest.mark.parametrize(
    "terms", [{"count": 0}, {"count": 10_000}, {"hours": 0}, {"suite": "QF1-X"}, {"count": "many"}]
)
def test_impossible_terms_of_tokens_are_refused(everything, terms):
    answer = everything.post(path("tokens"), terms, "application/json")
    assert answer.status_code in (400, 403, 409)
    assert not EnrolmentToken.objects.exists()


def test_a_federation_is_paused_and_resumed(site, everything):
    federation = Federation.objects.filter(state=FederationState.ACTIVE).first()
    assert everything.post(path(f"federations/{federation.id}/pause")).json()["state"] == "paused"
    assert everything.post(path(f"federations/{federation.id}/pause")).status_code == 409
    assert everything.post(path(f"federations/{federation.id}/resume")).json()["state"] == "active"


def test_a_round_is_opened_and_cancelled_and_not_extended_before_it_is_open(site, everything):
    for running in Round.objects.filter(state__in=UNFINISHED):
        everything.post(path(f"rounds/{running.id}/cancel"), {"reason": "room for another"}, "application/json")
    federation = Federation.objects.filter(state=FederationState.ACTIVE).first()
    opened = everything.post(path("rounds"), {"federation": str(federation.id)}, "application/json")
    assert opened.status_code == 201, opened.content
    round_id = opened.json()["id"]
    assert everything.get(path(f"rounds/{round_id}/participations")).json()["results"][0]["state"] == "invited"
    early = everything.post(path(f"rounds/{round_id}/extend"), {"seconds": 60, "reason": "slow"}, "application/json")
    assert early.status_code == 409  # not open yet
    cancelled = everything.post(path(f"rounds/{round_id}/cancel"), {"reason": "a test"}, "application/json")
    assert (cancelled.json()["state"], cancelled.json()["end_reason"]) == ("cancelled", "a test")
    assert Round.objects.get(id=round_id).state == RoundState.CANCELLED


def test_a_version_is_released_and_an_earlier_one_gone_back_to(site, everything):
    newest = ModelVersion.objects.order_by("-number").first()
    others = ModelVersion.objects.filter(federation=newest.federation).update(released_at=None)
    assert others >= 2
    assert everything.post(path(f"models/{newest.id}/release")).json()["released_at"] is not None
    body = {"number": 0, "reason": "worse in the field"}
    back = everything.post(path(f"federations/{newest.federation_id}/roll-back"), body, "application/json")
    assert (back.status_code, back.json()["number"]) == (200, 0)
    assert ModelVersion.objects.get(federation=newest.federation, released_at__isnull=False).number == 0


def test_an_entry_of_the_log_is_shown_with_its_proof(site, everything):
    sequence_log()
    entry = everything.get(path("log/entries"), {"limit": 1, "kind": "federation.created"}).json()["results"][0]
    assert entry["description"].startswith("Federation")
    assert "c2sp.org/tlog-proof" in everything.get(path(f"log/entries/{entry['index']}/proof")).json()["proof"]
