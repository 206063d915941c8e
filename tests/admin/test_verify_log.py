"""Verifying the log from the admin: findings in words."""

import pytest
from django.urls import reverse

from audit.models import Checkpoint, Entry
from tests.audit_triggers import log_triggers_lifted

PAGES = ["admin:audit_entry_verify", "admin:audit_event_verify", "admin:audit_checkpoint_verify"]


@pytest.mark.parametrize("page", PAGES)
def test_a_log_that_holds_is_said_to_hold(site, olga, page):
    answer = olga.post(reverse(page)).content.decode()
    assert "The log holds." in answer
    assert f"{Entry.objects.count()} entries and {Checkpoint.objects.count()} checkpoints agree" in answer


def test_opening_the_page_reads_no_log(site, olga):
    answer = olga.get(reverse(PAGES[0])).content.decode()
    assert "The log holds." not in answer
    assert "Verify" in answer


def test_a_changed_row_is_named(site, olga):
    with log_triggers_lifted():
        Entry.objects.filter(index=2).update(kind="test.other")
    answer = olga.post(reverse(PAGES[0]))
    assert answer.status_code == 200
    assert "The log does NOT hold. Entry 2 or the one before it was changed" in answer.content.decode()


def test_a_viewer_is_refused(site, vera):
    assert vera.post(reverse(PAGES[0])).status_code == 403
