"""The proof of one entry, from its page in the admin."""

from django.urls import reverse

from audit.models import Entry
from audit.services import log_verifier_key
from verifier.qflare_verify import verify_proof


def test_an_entry_is_downloaded_with_its_proof(site, olga):
    index = Entry.objects.order_by("index").last().index
    answer = olga.get(reverse("admin:audit_entry_download_proof", args=[index]))
    assert answer["Content-Disposition"] == f'attachment; filename="entry-{index}.tlog-proof"'
    assert verify_proof(answer.content.decode(), log_verifier_key()).entry.index == index


def test_whoever_may_look_at_entries_may_take_their_proofs(site, vera):
    assert vera.get(reverse("admin:audit_entry_download_proof", args=[0])).status_code == 200
    assert vera.get(reverse("admin:audit_entry_change", args=[0])).content.decode().count("Download the proof") == 1


def test_an_entry_that_is_not_there_has_no_proof(site, olga):
    assert olga.get(reverse("admin:audit_entry_download_proof", args=[999_999])).status_code == 404
