"""The demo's verdict: what it demands of a run, it sees."""

import pytest

from qflare_site.demo.report import DemoReport, RoundReport, SessionCount, count_sessions
from sessions.models import Session
from tests.people import alice, raised_rates

__all__ = ["alice", "raised_rates"]

ROUND = RoundReport(1, "completed", 3, 3, 3, 0, {}, 0.9, {})
WITHOUT_QKD = SessionCount(4, 0, qkd_demanded=False)


def report(rounds=(ROUND,), *, verified=True, sessions=WITHOUT_QKD):
    return DemoReport("embedded", list(rounds), 1, verified, 10, 1.0, 1 << 20, sessions)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("run", "failures"),
    [
        (report(), []),
        (report(verified=False), ["The exported log did not verify offline."]),
        (report([]), ["Only 0 of 1 rounds completed.", "The accuracy after the last round is None, below 0.85."]),
        (report(sessions=SessionCount(4, 3, qkd_demanded=True)), ["1 sessions had no QKD key."]),
        (report(sessions=SessionCount(4, 4, qkd_demanded=True)), []),
    ],
)
def test_a_run_fails_for_what_it_did_not_show(run, failures):
    assert run.failures() == failures
    assert run.to_json()["passed"] == (not failures)


def test_a_handshake_that_was_never_finished_is_no_session(alice):
    alice.session().post("/api/work", {})
    alice.post_cbor("/api/challenge", {"request": alice.handshake().request})
    assert Session.objects.count() == 2
    assert count_sessions(qkd_demanded=True) == SessionCount(1, 0, qkd_demanded=True)
