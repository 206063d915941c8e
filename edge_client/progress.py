"""Tell the server how a training goes: it keeps the device's lease, and learns whether anybody still waits."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from edge_client.handshaking import FINAL, UnvouchedRefusal
from edge_client.http import ServerUnreachable
from edge_client.session import DeviceSession, SealedRefusal
from edge_client.trainer import Progress, TrainingStopped
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import boolean_field, require_map, unsigned_field
from qflare_protocol.progress import FAILED, MAX_REASON, TRAINING, ProgressReport

log = structlog.get_logger(__name__)

FIRST_REPORT_SECONDS = 10.0
SHORTEST_SECONDS, LONGEST_SECONDS = 5.0, 300.0
OWN_FINDINGS = FINAL - {"malformed-message"}  # that may be one answer to one report
_ANSWER = frozenset({"continue", "reason", "deadline", "report_again_seconds"})


class ProgressReporter:
    """Reports one training in one round. A report that is lost costs nothing: the next one says the same."""

    def __init__(self, session: DeviceSession, round_id: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._session, self._round_id, self._clock = session, round_id, clock
        self._due_at = clock() + FIRST_REPORT_SECONDS

    def watch(self, progress: Progress) -> None:
        """Report when it is time to. Raises `TrainingStopped` where the server waits for this update no more.

        Raises `Refusal` for what concerns the server's log, and for what the device itself found in a handshake.
        """
        if self._clock() < self._due_at:
            return
        answer = self._send(TRAINING, progress, "")
        again = answer["report_again_seconds"] if answer else FIRST_REPORT_SECONDS
        self._due_at = self._clock() + min(max(float(again), SHORTEST_SECONDS), LONGEST_SECONDS)
        if answer and not answer["continue"]:
            raise TrainingStopped(_one_line(answer["reason"]))

    def failed(self, reason: str) -> dict[str, Any]:
        """Say that no update will come, and why; return the server's answer, empty where it refuses to hear it.

        Raises `ServerUnreachable`, and `Refusal` for what is nobody's word or concerns the server's log.
        """
        try:
            return dict(self._exchange(FAILED, Progress(), _one_line(reason)))
        except SealedRefusal as refusal:
            _raise_for_log(refusal)
            return {}

    def _send(self, state: str, progress: Progress, reason: str) -> Mapping[str, Any] | None:
        try:
            return self._exchange(state, progress, reason)
        except SealedRefusal as refusal:
            _raise_for_log(refusal)
        except (Refusal, ServerUnreachable) as failure:
            _raise_own_finding(failure)
            log.info("progress_not_reported", because=str(failure))
        return None

    def _exchange(self, state: str, progress: Progress, reason: str) -> Mapping[str, Any]:
        report = _report(self._round_id, state, progress, reason)
        answer = require_map(self._session.post("/api/progress", report.to_map()), _ANSWER, "answer to progress")
        boolean_field(answer, "continue")
        unsigned_field(answer, "report_again_seconds")
        return answer


def _raise_for_log(refusal: SealedRefusal) -> None:
    """Raise a refusal that concerns the server's log; of any other, only say that it came."""
    if refusal.code == "log-inconsistent":
        raise refusal
    log.warning("progress_refused", code=refusal.code, detail=refusal.detail)


def _raise_own_finding(failure: Refusal | ServerUnreachable) -> None:
    """Raise what the device itself found in a handshake, which no later report mends.

    What no key vouches for waits for the end of the training: else anybody on the way could end that with it.
    """
    if isinstance(failure, Refusal) and failure.code in OWN_FINDINGS and not isinstance(failure, UnvouchedRefusal):
        raise failure


def _report(round_id: bytes, state: str, progress: Progress, reason: str) -> ProgressReport:
    """Return the report; without numbers where those are out of form, so that the device still counts as at work."""
    try:
        return ProgressReport(round_id, state, progress.fraction, progress.loss, progress.metrics, reason)
    except Refusal as refusal:
        log.warning("progress_without_numbers", because=refusal.detail)
        return ProgressReport(round_id, state, 0.0, reason=reason)


def _one_line(text: object) -> str:
    """Return a reason as it may be sent, logged or shown: one line of at most 200 printable characters."""
    words = "".join(character if character.isprintable() else " " for character in str(text)).split()
    return " ".join(words)[:MAX_REASON]
