"""The screens of the log: filters, entries with their proofs, checkpoints, and verification part by part."""

import io
import re
import subprocess
import sys
import tarfile
from datetime import timedelta

import pytest
from django.db import transaction
from django.urls import reverse

from audit.kinds import kinds_naming
from audit.models import Checkpoint, Entry, Event
from audit.services import current_checkpoint, erase_disclosures, log_verifier_key, record_event, sequence_log
from keyring.services import server_signer
from qflare_site.console import log_export, log_verification
from qflare_site.console.log_events import BY_THE_DEVICE
from tests.admin.conftest import signed_in
from tests.audit_triggers import log_triggers_lifted
from tests.factories import NOW, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def auditor(db):
    """The browser of somebody who may look at the log and nothing else."""
    return signed_in(make_user("ada", "view_event", "view_entry", "view_checkpoint"))


@pytest.fixture
def operator(db):
    """The browser of somebody who may also verify the log."""
    return signed_in(make_user("olga", "view_event", "view_entry", "view_checkpoint", "change_entry"))


def record(kind, actor, now=NOW, **payload):
    with transaction.atomic():
        record_event(kind, actor=actor, payload=payload, now=now)


@pytest.fixture
def log(db):
    """Three entries under a checkpoint, and an event that waits."""
    forget_events()
    record("device.suspended", "operator:olga", device="press-1", reason="lost & found")
    record("session.refused", "stranger", now=NOW + timedelta(hours=1), device="press-2", reason="clock-skew")
    in_a_round = {"device": "press-1", "round_number": 7, "federation": "digits"}
    record("update.received", "device:press-1", now=NOW + timedelta(hours=2), **in_a_round)
    sequence_log(NOW + timedelta(hours=2))
    record("operator.signed_out", "operator:olga", now=NOW + timedelta(hours=3), operator="olga")


def forget_events():
    """Forget that somebody signed in and that the log's key was made, which are events too."""
    server_signer("log")
    with log_triggers_lifted():
        Event.objects.all()._raw_delete("default")


def ask(browser, name, *arguments, **query):
    return browser.get(reverse(f"console:{name}", args=arguments), query)


def words_of(answer):
    assert answer.status_code == 200
    inside = answer.content.decode().split('id="console"')[-1]
    return " ".join(re.sub(r"<[^>]+>", " ", inside).split())


def shown(browser, **query):
    """Return the kinds of the events that the list shows, in its order."""
    return [event.kind for event in ask(browser, "log-entries", **query).context["page"].events]


def test_the_list_has_what_is_in_the_log_and_what_waits(auditor, log):
    words = words_of(ask(auditor, "log-entries"))
    assert "Device press-1 suspended: lost &amp; found operator:olga device.suspended" in words
    assert "Operator olga signed out" in words
    assert "1 event not in the log yet" in words


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ({"kind": "session.refused"}, ["session.refused"]),
        ({"actor": "operator:olga"}, ["operator.signed_out", "device.suspended"]),
        ({"device": "press-1"}, ["update.received", "device.suspended"]),
        ({"federation": "digits", "round": "7"}, ["update.received"]),
        ({"round": "8"}, []),
        ({"since": "2026-03-01T12:30", "until": "2026-03-01T14:00"}, ["update.received", "session.refused"]),
        ({"device": "press-1", "until": "2026-03-01T12:00"}, ["device.suspended"]),
    ],
)
def test_each_filter_is_a_part_of_the_address(auditor, log, query, kinds):
    assert shown(auditor, **query) == kinds


@pytest.mark.parametrize(
    "query", [{"kind": "no.such"}, {"round": "-1"}, {"since": "yesterday"}, {"before": "x"}, {"actor": "a\0b"}]
)
def test_a_filter_that_cannot_be_read_shows_nothing_and_says_so(auditor, log, query):
    answer = ask(auditor, "log-entries", **query)
    assert answer.context["page"].events == []
    assert "errorlist" in answer.content.decode()


def test_older_events_have_their_address_which_keeps_the_filter(auditor, log, monkeypatch):
    monkeypatch.setattr("qflare_site.console.log_events.EVENTS_PER_PAGE", 1)
    first = ask(auditor, "log-entries", device="press-1")
    older = first.context["page"].older
    assert older.startswith("?device=press-1&before=")
    second = auditor.get(reverse("console:log-entries") + older)
    assert [event.kind for event in second.context["page"].events] == ["device.suspended"]
    assert second.context["page"].older == ""
    assert '?device=press-1">Newest' in second.content.decode()


def test_what_a_device_did_and_what_was_done_to_it_come_by_pages_in_one_order(auditor, log, monkeypatch):
    monkeypatch.setattr("qflare_site.console.log_events.EVENTS_PER_PAGE", 2)
    # An event found both ways, because the device that it names is its actor too, is shown once.
    record("request.refused", "device:press-1", device="press-1", reason="replayed")
    record("sessions.ended", "operator:olga", device="press-1", count=1, reason="revoked")
    first = ask(auditor, "log-entries", device="press-1").context["page"]
    assert [event.kind for event in first.events] == ["sessions.ended", "request.refused"]
    assert first.events[0].description == "Sessions of press-1 ended (1): revoked"
    rest = auditor.get(reverse("console:log-entries") + first.older).context["page"]
    assert [event.kind for event in rest.events] == ["update.received", "device.suspended"]
    assert rest.older == ""


def test_kinds_said_to_be_by_the_device_name_one_and_are_known():
    assert set(kinds_naming("device")) >= BY_THE_DEVICE


def test_an_entry_shows_its_place_and_a_proof_that_was_checked(auditor, log):
    words = words_of(ask(auditor, "log-entry", 1))
    assert "The proof holds" in words
    assert "checkpoint of 3 entries" in words
    assert "reason clock-skew" in words
    assert bytes(Entry.objects.get(index=1).entry_hash).hex() in ask(auditor, "log-entry", 1).content.decode()
    assert "none: it is the first" in words_of(ask(auditor, "log-entry", 0))


def test_an_entry_that_was_changed_has_no_proof(auditor, log):
    with log_triggers_lifted():
        Entry.objects.filter(index=1).update(leaf_hash=b"x" * 32)
    assert "The proof does not hold" in words_of(ask(auditor, "log-entry", 1))


def test_an_entry_without_a_checkpoint_says_what_to_wait_for(auditor, log):
    with log_triggers_lifted():
        Checkpoint.objects.all()._raw_delete("default")
    assert "No checkpoint covers the entry yet" in words_of(ask(auditor, "log-entry", 2))


def test_an_erased_event_keeps_its_kind_and_its_proof(auditor, log):
    erase_disclosures([Entry.objects.get(index=0).event_id], reason="its time is over", actor="system", now=NOW)
    words = words_of(ask(auditor, "log-entry", 0))
    assert "Erased Who and what were erased" in words
    assert "The proof holds" in words
    assert "lost" not in words
    assert "device.suspended, erased" in words_of(ask(auditor, "log-entries"))


def test_an_entry_that_is_not_there_is_not_found(auditor, log):
    for index in (99, 2**80):
        assert ask(auditor, "log-entry", index).status_code == 404


def test_checkpoints_show_their_note(auditor, log):
    words = words_of(ask(auditor, "log-checkpoints"))
    assert "3 " in words
    assert current_checkpoint().note.splitlines()[0] in words


def test_an_empty_log_says_what_will_be_there(auditor):
    forget_events()
    assert "No event is kept here." in words_of(ask(auditor, "log-entries"))
    assert "There is no checkpoint yet" in words_of(ask(auditor, "log-checkpoints"))


def test_no_permission_no_log(newcomer, auditor, log):
    for name, arguments in (("log-entries", ()), ("log-entry", (1,)), ("log-checkpoints", ()), ("log-verify", ())):
        assert ask(newcomer, name, *arguments).status_code == 403
    assert auditor.post(reverse("console:log-verify")).status_code == 403
    assert auditor.post(reverse("console:log-entries")).status_code == 405


def verify(browser, state="", **headers):
    return browser.post(reverse("console:log-verify"), {"state": state}, headers=headers)


def test_opening_the_page_verifies_nothing(operator, log):
    words = words_of(ask(operator, "log-verify"))
    assert "Verify now" in words
    assert "hold" not in words


def test_a_short_log_is_verified_at_once(operator, log):
    words = words_of(verify(operator))
    assert "The log holds." in words
    assert "3 entries and 1 checkpoint agree with each other and with the log’s key; 1 event waits" in words


@pytest.fixture
def slow(monkeypatch):
    """Each request is over after one entry."""
    monkeypatch.setattr(log_verification, "ENTRIES_PER_STEP", 1)
    monkeypatch.setattr(log_verification, "SECONDS_PER_REQUEST", 0.0)


def state_of(answer):
    return re.search(r'name="state" value="([^"]*)"', answer.content.decode())[1]


def test_a_long_log_is_verified_request_by_request(operator, log, slow):
    answer = verify(operator)
    assert "1 of 3 entries hold so far" in words_of(answer)
    assert 'hx-trigger="load, submit"' in answer.content.decode()
    answer = verify(operator, state_of(answer))
    assert "2 of 3 entries hold so far" in words_of(answer)
    answer = verify(operator, state_of(answer))
    assert "The log holds." in words_of(answer)
    assert "load, submit" not in answer.content.decode()


def test_the_browser_is_given_the_progress_alone(operator, log, slow):
    markup = verify(operator, **{"HX-Request": "true"}).content.decode()
    assert markup.strip().startswith('<div id="log-progress"')
    assert "csrfmiddlewaretoken" in markup


def test_damage_further_on_is_named_when_it_is_reached(operator, log, slow):
    with log_triggers_lifted():
        Entry.objects.filter(index=1).update(kind="test.other")
    answer = verify(operator)
    assert "1 of 3" in words_of(answer)
    words = words_of(verify(operator, state_of(answer)))
    assert "The log does NOT hold. Entry 1 or the one before it was changed" in words


@pytest.mark.parametrize("state", ["junk", "a:b:c", "\0"])
def test_a_state_that_is_not_ours_begins_anew(operator, log, slow, state):
    assert "1 of 3 entries" in words_of(verify(operator, state))


def test_a_state_cannot_be_made_to_skip_entries(operator, log, slow):
    state = state_of(verify(operator))
    body, rest = state.split(":", 1)
    forged = f"{body[:-4]}AAAA:{rest}"
    assert "1 of 3 entries" in words_of(verify(operator, forged))


def test_an_old_state_begins_anew(operator, log, slow, monkeypatch):
    state = state_of(verify(operator))
    monkeypatch.setattr(log_verification, "STATE_AGE_SECONDS", -1)
    assert "1 of 3 entries" in words_of(verify(operator, state))


def test_the_list_asks_as_often_for_many_events_as_for_few(auditor, log, django_assert_max_num_queries):
    for number in range(20):
        record("operator.signed_in", f"operator:{number}", operator=str(number))
    sequence_log(NOW + timedelta(hours=4))
    with django_assert_max_num_queries(9):
        ask(auditor, "log-entries")


def test_the_overview_says_up_to_where_the_log_was_verified_and_the_log_by_whom(operator, log):
    assert "nobody has verified it here yet" in words_of(operator.get("/?panel=health"))
    verify(operator)
    assert "verified up to entry 3," in words_of(operator.get("/?panel=health"))
    told = Event.objects.get(kind="log.verified")
    assert told.actor.startswith("operator:")
    assert told.payload["entries"] == 3


def test_a_verification_that_goes_on_is_recorded_once_at_its_end(operator, log, slow):
    answer = verify(operator)
    answer = verify(operator, state_of(answer))
    assert not Event.objects.filter(kind="log.verified").exists()
    verify(operator, state_of(answer))
    assert Event.objects.filter(kind="log.verified").count() == 1


def export_log(browser):
    return browser.post(reverse("console:log-export"))


def test_the_log_is_taken_away_in_one_file_that_the_verifier_accepts(operator, log, tmp_path):
    answer = export_log(operator)
    assert answer["Content-Disposition"] == 'attachment; filename="qflare-log-3.tar.gz"'
    with tarfile.open(fileobj=io.BytesIO(b"".join(answer.streaming_content))) as packed:
        packed.extractall(tmp_path, filter="data")
    key = tmp_path / "log.vkey"
    key.write_text(log_verifier_key() + "\n")
    command = [sys.executable, "-m", "verifier.qflare_verify", str(tmp_path / "qflare-log"), "--key", str(key)]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert verified.returncode == 0, verified.stderr
    told = Event.objects.get(kind="log.exported")
    assert (told.actor.startswith("operator:"), told.payload["entries"]) == (True, 3)


def test_a_log_that_is_too_long_for_the_browser_names_the_command(operator, log, monkeypatch):
    monkeypatch.setattr(log_export, "MOST_ENTRIES", 2)
    page = operator.get(export_log(operator)["Location"]).content.decode()
    assert "manage.py audit_export" in page
    assert not Event.objects.filter(kind="log.exported").exists()


def test_who_may_not_verify_the_log_does_not_export_it(log):
    assert export_log(signed_in(make_user("vera", "view_entry", "view_event"))).status_code == 403
