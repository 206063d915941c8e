"""Issuing tokens: shown once, stored never, and only by who may."""

import shlex
from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.urls import reverse
from django.utils import timezone

from audit.models import Event
from enrollment.models import EnrolmentToken
from qflare_protocol.enrolment import EnrolmentToken as TokenSecret
from qflare_protocol.suites import DEFAULT_SUITE

ISSUE = "admin:enrollment_enrolmenttoken_issue"
TERMS = {"device_name": "", "group": "ward", "suite": DEFAULT_SUITE, "hours": "24", "count": "1"}

pytestmark = pytest.mark.django_db


def issue(client, **changes):
    return client.post(reverse(ISSUE), TERMS | changes)


def test_the_form_opens_with_its_defaults(olga):
    page = olga.get(reverse(ISSUE)).content.decode()
    assert 'name="hours"' in page
    assert 'value="24"' in page
    assert not EnrolmentToken.objects.exists()


def test_the_token_is_shown_with_the_command_that_uses_it(olga):
    answer = issue(olga, device_name="edge-7")
    (shown,) = answer.context["tokens"]
    words = shlex.split(shown["command"])
    assert words[:4] == ["qflare-edge", "enroll", "--server", "http://testserver"]
    assert words[4:] == ["--token", shown["issued"].text, "--name", "edge-7"]
    assert shown["command"] in answer.content.decode()
    assert TokenSecret.from_text(shown["issued"].text).lookup == bytes(EnrolmentToken.objects.get().lookup)


def test_the_page_is_kept_by_nobody_and_leaks_to_nobody(olga):
    answer = issue(olga)
    assert "no-store" in answer["Cache-Control"]
    assert answer["Referrer-Policy"] == "no-referrer"


def test_the_token_is_shown_once(olga):
    text = issue(olga, device_name="edge-7").context["tokens"][0]["issued"].text
    row = EnrolmentToken.objects.get()
    pages = [
        reverse(ISSUE),
        reverse("admin:enrollment_enrolmenttoken_changelist"),
        reverse("admin:enrollment_enrolmenttoken_change", args=(row.pk,)),
        reverse("admin:audit_event_changelist"),
        reverse("admin:audit_event_change", args=(Event.objects.get(kind="token.issued").pk,)),
        reverse("console:overview"),
    ]
    for page in pages:
        assert text.split(".")[1] not in olga.get(page).content.decode()


def test_the_token_is_stored_nowhere(olga):
    text = issue(olga).context["tokens"][0]["issued"].text
    secret = TokenSecret.from_text(text).secret
    stored = [bytes(value) for value in EnrolmentToken.objects.values_list("lookup", "verifier")[0]]
    assert secret not in stored
    texts = [str(payload) for payload in Event.objects.values_list("payload", flat=True)]
    texts += [str(session.get_decoded()) for session in Session.objects.all()]
    for form in (text.split(".")[1], secret.hex()):
        assert not [kept for kept in texts if form in kept]


def test_a_hundred_tokens_for_one_name_are_numbered(olga):
    tokens = issue(olga, device_name="bed", count="100").context["tokens"]
    names = {token["issued"].row.device_name for token in tokens}
    assert names == {f"bed-{number}" for number in range(1, 101)}
    assert len({token["issued"].text for token in tokens}) == 100


def test_lifetime_group_and_issuer_are_the_operator_s(olga):
    issue(olga, hours="2")
    row = EnrolmentToken.objects.get()
    assert (row.group, row.issued_by) == ("ward", "operator:olga")
    assert row.expires_at - row.issued_at == timedelta(hours=2)
    assert row.state(timezone.now()) == "unused"


@pytest.mark.parametrize(
    "changes",
    [
        {"count": "0"},
        {"count": "101"},
        {"hours": "0"},
        {"hours": "721"},
        {"suite": "QF1-NONE"},
        {"device_name": "x" * 97},
    ],
)
def test_terms_out_of_bounds_issue_nothing(olga, changes):
    answer = issue(olga, **changes)
    assert answer.status_code == 200
    assert "tokens" not in answer.context
    assert not EnrolmentToken.objects.exists()


def test_a_viewer_cannot_issue(vera):
    assert vera.get(reverse(ISSUE)).status_code == 403
    assert issue(vera).status_code == 403
    assert not EnrolmentToken.objects.exists()
    assert reverse(ISSUE) not in vera.get(reverse("admin:enrollment_enrolmenttoken_changelist")).content.decode()


def test_a_stranger_is_sent_to_the_login(client):
    answer = issue(client)
    assert answer.status_code == 302
    assert not EnrolmentToken.objects.exists()
