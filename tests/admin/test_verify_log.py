"""From the admin's tables of the log to the console's screen that verifies it (`tests/console/test_log_screens.py`)."""

import pytest
from django.urls import reverse

PAGES = ["admin:audit_entry_verify", "admin:audit_event_verify", "admin:audit_checkpoint_verify"]


@pytest.mark.parametrize("page", PAGES)
def test_each_table_of_the_log_leads_to_its_verification(site, olga, page):
    answer = olga.get(reverse(page), follow=True)
    assert answer.redirect_chain == [(reverse("console:log-verify"), 302)]
    assert "Verify now" in answer.content.decode()


@pytest.mark.parametrize("page", PAGES)
def test_a_viewer_is_refused(site, vera, page):
    assert vera.get(reverse(page)).status_code == 403
    assert vera.post(reverse(page)).status_code == 403
