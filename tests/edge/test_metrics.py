"""What a device counts of its work, and gives to Prometheus where it is asked to."""

import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from edge_client import measured
from edge_client.backoff import Backoff, retrying
from edge_client.cli import EXIT_FAILED_CHECK, main
from edge_client.http import Http, ServerUnreachable, raise_for_problem
from edge_client.metrics import MetricsUnavailable, metrics_served
from edge_client.trainer import Tensors, TrainingFailed, TrainingOutcome
from tests.edge.test_round_worker import LosesAnswers, TooManySamples, worker_of
from tests.edge.trainers import ReshapingTrainer, SmallTrainer
from tests.people import Person
from training.models import Round

Since = Callable[[measured.Measure, str], float]


@pytest.fixture
def since() -> Since:
    """Return what a measure has grown by since the test began: the numbers are those of the process."""
    before = {measure.name: dict(measure.numbers()) for measure in (*measured.COUNTERS, *measured.GAUGES)}
    return lambda measure, value="": measure.number(value) - before[measure.name][value]


def test_a_round_that_is_handed_in_is_counted(running: Round, alice: Person, since: Since) -> None:
    assert worker_of(alice).work_once()[0]
    assert since(measured.ROUNDS, "handed-in") == 1
    assert (since(measured.UPDATES, "submitted"), since(measured.UPDATES, "accepted")) == (1, 1)
    assert since(measured.HANDSHAKES, "opened") == 1
    assert since(measured.TRAINING_SECONDS, "") > 0
    assert measured.LAST_ROUND.number() == running.number
    assert measured.LAST_UPDATE.number() > 0


def test_lost_answers_are_counted_as_retries(running: Round, alice: Person, since: Since) -> None:
    assert worker_of(alice, http=LosesAnswers(2)).work_once()[0]
    assert since(measured.RETRIES, "") >= 1
    assert since(measured.UPDATES, "accepted") == 1


def test_an_update_that_the_server_refuses_is_counted(running: Round, alice: Person, since: Since) -> None:
    assert not worker_of(alice, TooManySamples).work_once()[0]
    assert (since(measured.UPDATES, "submitted"), since(measured.UPDATES, "refused")) == (1, 1)
    assert since(measured.ROUNDS, "refused") == 1
    assert since(measured.UPDATES, "accepted") == 0


def test_training_that_gives_nothing_to_seal_is_counted(running: Round, alice: Person, since: Since) -> None:
    worker_of(alice, ReshapingTrainer).work_once()
    assert since(measured.ROUNDS, "not-sealed") == 1
    assert since(measured.UPDATES, "submitted") == 0


class FailingTrainer(SmallTrainer):
    """Its training comes to nothing."""

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        raise TrainingFailed("KeyError at trend.py:42")


def test_training_that_fails_is_counted_with_its_time(running: Round, alice: Person, since: Since) -> None:
    worker_of(alice, FailingTrainer).work_once()
    assert since(measured.ROUNDS, "training-failed") == 1
    assert since(measured.TRAINING_SECONDS, "") > 0


def test_a_server_that_is_away_or_busy_is_counted(since: Since) -> None:
    http = Http("http://127.0.0.1:9", timeout_seconds=1)
    with pytest.raises(ServerUnreachable):
        retrying(lambda: http.send("GET", "/"), backoff=Backoff(0.001, 0.001, attempts=3))
    with pytest.raises(ServerUnreachable):
        raise_for_problem(503, "", b"", {})
    assert since(measured.REQUEST_FAILURES, "network") == 3
    assert since(measured.REQUEST_FAILURES, "unavailable") == 1
    assert since(measured.RETRIES, "") == 2


def test_bodies_are_counted_in_both_directions(since: Since, monkeypatch: pytest.MonkeyPatch) -> None:
    http = Http("http://server.invalid")
    answers = httpx.MockTransport(lambda request: httpx.Response(200, content=b"four"))
    monkeypatch.setattr(http, "_client", httpx.Client(base_url="http://server.invalid", transport=answers))
    http.send("POST", "/", b"eleven byte")
    assert (since(measured.BYTES, "sent"), since(measured.BYTES, "received")) == (11, 4)


def test_a_value_of_a_label_that_was_not_declared_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        measured.ROUNDS.add("handed_in")


def test_the_numbers_are_served_in_prometheus_text() -> None:
    with structlog.testing.capture_logs() as logs, metrics_served(0, "127.0.0.1"):
        with urllib.request.urlopen(f"http://127.0.0.1:{logs[0]['port']}/metrics", timeout=5) as answer:  # noqa: S310
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    expected = {measure.name for measure in (*measured.COUNTERS, *measured.GAUGES)}
    assert set(families) == expected
    outcomes = {sample.labels["outcome"] for sample in families["qflare_edge_rounds"].samples}
    assert outcomes == {value for value, _ in measured.ROUNDS.numbers()}


def test_nothing_is_served_after_the_work_or_without_a_port() -> None:
    with structlog.testing.capture_logs() as logs, metrics_served(0, "127.0.0.1"):
        pass
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{logs[0]['port']}/metrics", timeout=5)  # noqa: S310
    with structlog.testing.capture_logs() as logs, metrics_served(None, "127.0.0.1"):
        assert logs == []


def test_a_port_that_is_taken_is_said() -> None:
    with structlog.testing.capture_logs() as logs, metrics_served(0, "127.0.0.1"):
        with pytest.raises(MetricsUnavailable, match="in use"), metrics_served(logs[0]["port"], "127.0.0.1"):
            raise AssertionError("served twice")


def test_a_missing_package_is_said_with_the_extra_that_brings_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, alice: Person
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MetricsUnavailable, match=r"qflare-edge\[metrics\]"), metrics_served(0, "127.0.0.1"):
        raise AssertionError("served without the package")


@pytest.mark.parametrize("port", ["-1", "65536", "many"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--trainer", "x:Y", "--metrics-port", port])
    assert "--metrics-port" in capsys.readouterr().err


def test_a_device_that_cannot_serve_its_metrics_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(options: object) -> int:
        raise MetricsUnavailable("install qflare-edge[metrics]")

    monkeypatch.setattr("edge_client.cli._run", unavailable)
    assert main(["run", "--trainer", "x:Y", "--metrics-port", "0"]) == EXIT_FAILED_CHECK
    assert "qflare-edge[metrics]" in capsys.readouterr().err
