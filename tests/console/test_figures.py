"""What the console's figures say: that their numbers are those of the rows, and that they ask in few queries."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.template import Context, Template

from audit.services import record_event, sequence_log
from qflare_site.console.figures.aggregation import aggregation_time, percentile
from qflare_site.console.figures.effort import bytes_per_round, duration_per_round
from qflare_site.console.figures.failures import failures_by_reason
from qflare_site.console.figures.learning import accuracy_per_round, loss_per_round
from qflare_site.console.figures.participation import participation_per_round
from qflare_site.console.figures.scores import norm_by_cosine, score_strip
from qflare_site.console.figures.site import devices_online, log_growth
from qflare_site.console.phases import PHASES
from sessions.models import Session, SessionState
from tests.factories import (
    ACTOR,
    NOW,
    make_completed_round,
    make_device,
    make_federation,
    make_session,
    open_for_updates,
)
from training.models import ModelVersion, Participation, RoundStep
from training.services.rounds import cancel_round, open_round

OF_A_FEDERATION = {
    accuracy_per_round: 1, loss_per_round: 1, participation_per_round: 2, score_strip: 3, duration_per_round: 2,
    bytes_per_round: 3,
}  # fmt: skip
OF_THE_SITE = {devices_online: 1, failures_by_reason: 1, aggregation_time: 1, log_growth: 1}

pytestmark = pytest.mark.django_db


@pytest.fixture
def trained():
    """A federation of four devices with three rounds: edge-0 is rejected in the first, the last was cancelled."""
    for number in range(4):
        make_device(f"edge-{number}")
    federation = make_federation()
    for rejected, accuracy in (("edge-0", 0.5), ("", 0.75)):
        make_completed_round(federation, rejected=rejected, accuracy=accuracy)
        federation.refresh_from_db()
    last = open_round(federation.id, actor=ACTOR, now=NOW)
    cancel_round(last.id, reason="wrong data", actor=ACTOR, now=NOW)
    return federation


def rows_of(figure):
    return [[cell.words for cell in row] for row in figure.table.rows]


def titles_of(figure):
    return [mark.title for mark in figure.drawing.marks if mark.title]


def markup_of(figure):
    return Template("{% load plots %}{% figure shown %}").render(Context({"shown": figure}))


def record(kind, *, actor="stranger", now=NOW, **payload):
    with transaction.atomic():
        record_event(kind, actor=actor, payload=payload, now=now)


def test_accuracy_is_that_of_each_rounds_model_and_a_round_without_one_is_a_gap(trained):
    ModelVersion.objects.filter(number=2).update(evaluation_sums={"accuracy": [120.0, 200]})
    figure = accuracy_per_round(trained.id)
    assert rows_of(figure) == [["3", "–", "–"], ["2", "75 %", "60 %"], ["1", "50 %", "–"]]
    assert "Round 2: 75 %, On the server’s held-out data" in titles_of(figure)
    assert len(figure.drawing.legend) == 2


def test_loss_is_the_evaluators_and_the_median_that_devices_reported(trained):
    ModelVersion.objects.filter(number=1).update(metrics={"loss": 400.0}, reported_metrics={"loss": 2.5})
    ModelVersion.objects.filter(number=2).update(metrics={"loss": 0.5})
    assert rows_of(loss_per_round(trained.id)) == [["3", "–", "–"], ["2", "0.5", "–"], ["1", "400", "2.5"]]


def test_a_metric_that_is_no_number_is_not_drawn(trained):
    ModelVersion.objects.update(metrics={"accuracy": "high", "loss": None})
    assert accuracy_per_round(trained.id).drawing is None
    assert "has a measured loss yet" in loss_per_round(trained.id).empty


def test_participation_counts_every_device_once_under_its_outcome(trained):
    figure = participation_per_round(trained.id)
    assert [column.name for column in figure.table.columns][:4] == ["Round", "Accepted", "Rejected", "Training failed"]
    assert rows_of(figure)[1:] == [["2", "4", "0", "0", "0", "0", "0"], ["1", "3", "1", "0", "0", "0", "0"]]
    assert "Round 1: 1 rejected" in titles_of(figure)


def test_the_strip_puts_devices_with_rejections_first_and_marks_them(trained):
    figure = score_strip(trained.id)
    assert [row[0] for row in rows_of(figure)] == ["edge-0", "edge-1", "edge-2", "edge-3"]
    assert rows_of(figure)[0][1:] == ["rejected -0.5", "0.9", "–"]
    assert "edge-0, round 1: Rejected: cosine too small, cosine -0.5" in titles_of(figure)
    assert [mark.classes for mark in figure.drawing.marks if "danger" in mark.classes] == ["marker danger"]


def test_an_update_without_a_score_is_drawn_as_not_measured(trained):
    Participation.objects.update(scores={})
    figure = score_strip(trained.id)
    assert rows_of(figure)[1][1:] == ["not measured", "not measured", "–"]
    assert any("neutral" in mark.classes for mark in figure.drawing.marks)


def test_the_scatter_of_a_round_marks_the_rejected_and_leads_to_each_part(trained):
    first = trained.rounds.get(number=1)
    figure = norm_by_cosine(first.id)
    assert rows_of(figure)[0] == ["edge-0", "Rejected: cosine too small", "-0.5", "1"]
    assert [item.name for item in figure.drawing.legend] == ["Accepted", "Rejected"]
    part = Participation.objects.get(round=first, device__name="edge-0")
    assert figure.drawing.marks[-1].href.endswith(f"/participation/{part.id}/change/")


def test_a_round_that_keeps_its_scores_inside_says_so(trained):
    first = trained.rounds.get(number=1)
    Participation.objects.update(scores={"norm": 1.0, "cosine": None})
    assert "looks at no direction" in norm_by_cosine(first.id).empty
    Participation.objects.update(scores={})
    assert norm_by_cosine(first.id).drawing is None
    assert "differential privacy" in norm_by_cosine(first.id).empty


def test_durations_are_those_of_the_steps_in_their_order(trained):
    RoundStep.objects.create(round=trained.rounds.get(number=1), name="prepare", started_at=NOW, seconds=0.25)
    figure = duration_per_round(trained.id)
    assert [column.name for column in figure.table.columns][1:3] == ["Preparing the enclave", "Collecting updates"]
    assert rows_of(figure)[-1] == ["1", "250 ms", "–", "1.5 s", "–", "–"]


def test_bytes_are_the_updates_that_came_and_the_models_that_were_fetched(trained):
    first = trained.rounds.select_related("base_version").get(number=1)
    first.participations.filter(device__name__in=("edge-0", "edge-1")).update(downloaded_at=NOW)
    ModelVersion.objects.filter(id=first.base_version_id).update(blob_bytes=2048)
    assert rows_of(bytes_per_round(trained.id))[-1] == ["1", "3.906 KiB", "4 KiB"]


@pytest.mark.parametrize("read", OF_A_FEDERATION)
def test_a_federation_without_rounds_or_data_has_a_sentence_instead(read):
    for number in range(3):
        make_device(f"edge-{number}")
    federation = make_federation()
    assert read(federation.id).drawing is None
    open_for_updates(open_round(federation.id, actor=ACTOR, now=NOW), now=NOW)
    figure = read(federation.id)
    assert figure.drawing is None or read is participation_per_round
    assert figure.empty.endswith(".")


@pytest.mark.parametrize("read", OF_THE_SITE)
def test_an_empty_site_has_a_sentence_instead(read):
    figure = read(NOW)
    assert figure.drawing is None
    assert figure.empty in markup_of(figure)


def test_devices_are_online_while_they_have_a_live_session():
    alice, bob = make_device("alice"), make_device("bob")
    for device, hours in ((alice, 5), (alice, 5), (bob, 2)):
        session = make_session_with_digest(device)
        Session.objects.filter(id=session.id).update(
            activated_at=NOW - timedelta(hours=hours), expires_at=NOW + timedelta(hours=1)
        )
    ended = {"state": SessionState.ENDED, "wrapped_secret": None, "ended_at": NOW - timedelta(hours=1)}
    Session.objects.filter(device=bob).update(**ended)
    figure = devices_online(NOW)
    assert [row[1] for row in rows_of(figure)][:7] == ["1", "1", "2", "1", "1", "1", "0"]
    assert {title.partition(": ")[2] for title in titles_of(figure)} == {
        "0 devices online", "1 device online", "2 devices online",
    }  # fmt: skip


def make_session_with_digest(device):
    """Open a session that shares its challenge with no other."""
    session = make_session(device)
    Session.objects.filter(id=session.id).update(challenge_digest=session.id.bytes * 4)
    return session


def test_failures_count_by_reason_and_excesses_by_scope():
    for reason in ("clock-skew", "clock-skew", "unknown device"):
        record("session.refused", device="alice", reason=reason)
    record("rate.exceeded", caller="stranger", scope="challenge", rate="30/m")
    record("operator.sign_in_failed", operator="mallory")
    record("session.refused", device="alice", reason="clock-skew", now=NOW - timedelta(hours=25))
    figure = failures_by_reason(NOW)
    assert rows_of(figure) == [
        ["clock-skew", "session.refused", "2"],
        ["operator.sign_in_failed", "operator.sign_in_failed", "1"],
        ["challenge", "rate.exceeded", "1"],
        ["unknown device", "session.refused", "1"],
    ]
    assert "2026-03-01 12:00: 1 × 429, challenge" in titles_of(figure)
    assert figure.table.rows[0][1].href == "/log-entries?kind=session.refused"


def test_rare_reasons_are_drawn_together_and_told_apart_in_the_table():
    for number in range(8):
        record("token.refused", token=None, reason=f"reason-{number}")
    figure = failures_by_reason(NOW)
    assert [item.name for item in figure.drawing.legend][-1] == "all others"
    assert "2026-03-01 12:00: 3 × all others" in titles_of(figure)
    assert len(figure.table.rows) == 8


def test_words_that_a_device_sends_are_no_reason():
    for number in range(3):
        record(
            "update.failed", actor="device:alice", device="alice", round_number=1, federation="digits",
            reason=f"out of memory at {number}",
        )  # fmt: skip
    assert rows_of(failures_by_reason(NOW)) == [["update.failed", "update.failed", "3"]]


def test_aggregation_times_are_summed_up_by_day(trained):
    first, second, third = trained.rounds.order_by("number")
    RoundStep.objects.filter(round=second).update(seconds=4.0)
    RoundStep.objects.create(round=third, name="aggregate", started_at=NOW - timedelta(days=2), seconds=100.0)
    RoundStep.objects.create(round=third, name="collect", started_at=NOW, seconds=9999.0)
    assert rows_of(aggregation_time(NOW)) == [
        ["2026-03-01", "2", "1.5 s", "4 s"], ["2026-02-27", "1", "1.667 min", "1.667 min"],
    ]  # fmt: skip
    titles = " ".join(titles_of(aggregation_time(NOW)))
    assert "(p50), 1 round " in titles
    assert "(p50), 2 rounds" in titles


def test_the_phases_in_words_are_the_steps_there_are():
    assert tuple(PHASES) == tuple(RoundStep.ORDER)


def test_a_percentile_is_a_value_that_was_measured():
    hundred = [float(value) for value in range(1, 101)]
    assert [percentile(hundred, share) for share in (0.5, 0.95)] == [50.0, 95.0]
    assert percentile([3.0, 1.0], 0.95) == 3.0
    assert percentile([7.0], 0.5) == 7.0


def test_the_log_grows_by_what_each_hour_brings():
    for hours_ago, entries in ((2, 3), (0, 2)):
        moment = NOW - timedelta(hours=hours_ago)
        for number in range(entries):
            record("operator.signed_in", operator=f"olga-{number}", now=moment)
        sequence_log(moment)
    figure = log_growth(NOW + timedelta(minutes=1))
    newest, oldest = rows_of(figure)
    assert int(newest[1]) - int(oldest[1]) == int(newest[2]) >= 2
    assert oldest[2] == "–"


@pytest.mark.parametrize(("read", "queries"), OF_A_FEDERATION.items())
def test_figures_of_a_federation_ask_in_as_many_queries_however_many_rounds_there_are(
    trained, read, queries, django_assert_num_queries
):
    with django_assert_num_queries(queries):
        read(trained.id)


@pytest.mark.parametrize(("read", "queries"), OF_THE_SITE.items())
def test_figures_of_the_site_ask_once(trained, read, queries, django_assert_num_queries):
    with django_assert_num_queries(queries):
        read(NOW)


def test_every_figure_has_a_slug_of_its_own_and_numbers_in_every_column(trained):
    figures = [*(read(trained.id) for read in OF_A_FEDERATION), *(read(NOW) for read in OF_THE_SITE)]
    assert len({figure.slug for figure in figures}) == len(figures)
    for figure in figures:
        assert all(len(row) == len(figure.table.columns) for row in figure.table.rows)
        assert figure.title in markup_of(figure).replace("&amp;", "&")
