"""Rules that count events: refusals at the door, replays, wrong clocks, rejected updates."""

from collections.abc import Iterable
from datetime import timedelta
from functools import partial

from audit.models import Event
from monitor.rules.definition import ON_THE_DEVICE, Finding, Rule
from monitor.terms import LOG, STRANGERS, Action, Severity, Subject, SubjectKind, Terms, device

REUSED_TOKEN = frozenset({"token-used", "token-revoked", "token-name-mismatch"})
BAD_SIGNATURE = frozenset(
    {
        "signature by another key", "unknown device", "revoked device", "authentication-failed", "invalid-signature",
        "request-not-authentic", "rekey-refused", "key-rotation-refused",
    }
)  # fmt: skip
REPLAY = frozenset({"replayed challenge", "handshake-used", "sequence-reused", "sequence-too-old"})
SKEW = frozenset({"clock-skew", "epoch-expired"})


def _device_of(event: Event) -> Subject:
    """Return whom a refusal names: a known device, or strangers where the name is one that they made up."""
    name = event.payload.get("device")
    return device(name) if name and event.payload.get("reason") != "unknown device" else STRANGERS


def _refused_for(reasons: frozenset[str], event: Event, terms: Terms) -> Iterable[Finding]:
    if event.payload.get("reason") in reasons:
        yield Finding(_device_of(event))


def _reused_token(event: Event, terms: Terms) -> Iterable[Finding]:
    token = event.payload.get("token")
    if token and event.payload.get("reason") in REUSED_TOKEN:
        yield Finding(Subject(SubjectKind.TOKEN, token))


def _guessed_token(event: Event, terms: Terms) -> Iterable[Finding]:
    if event.payload.get("reason") == "token-unknown":
        yield Finding(STRANGERS)


def _excess(event: Event, terms: Terms) -> Iterable[Finding]:
    known = event.actor.startswith("device:")
    yield Finding(device(event.payload["caller"]) if known else STRANGERS)


def _rejected_update(event: Event, terms: Terms) -> Iterable[Finding]:
    if "device" in event.payload:
        yield Finding(device(event.payload["device"]))


def _fork(event: Event, terms: Terms) -> Iterable[Finding]:
    yield Finding(LOG, f"Device {event.payload['device']} has seen another log of {event.payload['size']} entries.")


def parallel_session(event: Event, terms: Terms) -> Iterable[Finding]:
    """Find a session that is rekeyed although the device has opened another one since, which has not ended.

    A device has one session at a time: it begins another one when the one before is over or lost to it,
    and then comes back to that never again. Two that live side by side are two holders of one device's
    keys (or two clients that run on one device, which nobody should do either). A session is rekeyed
    after 64 requests or a quarter of an hour, so that is how soon it shows.
    """
    earlier = Event.objects.filter(actor=event.actor, id__lt=event.id)
    newest = earlier.filter(kind="session.opened").order_by("-id").first()
    if newest is None or newest.payload.get("session_id") == event.payload.get("session_id"):
        return
    ends = earlier.model.objects.filter(id__gt=newest.id, id__lt=event.id, kind="session.ended")
    if not ends.filter(payload__session_id=newest.payload.get("session_id")).exists():
        yield Finding(
            device(event.payload["device"]),
            f"Session {event.payload['session_id']} was rekeyed after {newest.payload.get('session_id')} was opened.",
        )


_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_REFUSED = frozenset({"session.refused", "request.refused"})

EVENT_RULES = (
    Rule(
        "token-reuse",
        "An enrolment token that was used, revoked or issued for another device is presented.",
        "refusals of one token",
        Terms(1, _HOUR, Severity.WARNING),
        kinds=frozenset({"token.refused"}),
        findings=_reused_token,
    ),
    Rule(
        "token-guessing",
        "Tokens that were never issued here are presented.",
        "refusals of unknown tokens",
        Terms(10, _HOUR, Severity.WARNING),
        kinds=frozenset({"token.refused"}),
        findings=_guessed_token,
    ),
    Rule(
        "signature-failures",
        "Messages in the name of a device do not verify, or come from a device that is unknown or revoked.",
        "refusals in the name of one device, or of strangers",
        Terms(5, _HOUR, Severity.WARNING),
        kinds=_REFUSED,
        findings=partial(_refused_for, BAD_SIGNATURE),
    ),
    Rule(
        "replays",
        "Handshakes or requests of a device are sent again.",
        "repeated messages of one device",
        Terms(3, timedelta(minutes=10), Severity.WARNING),
        kinds=_REFUSED,
        findings=partial(_refused_for, REPLAY),
    ),
    Rule(
        "clock-skew",
        "Messages of a device lie outside of the server's time again and again: its clock is wrong, or they are old.",
        "refusals of one device for their time",
        Terms(6, _HOUR, Severity.WARNING),
        kinds=_REFUSED,
        findings=partial(_refused_for, SKEW),
    ),
    Rule(
        "rate-excess",
        "A device, or strangers, go on asking beyond a rate limit.",
        "limited windows of one caller",
        Terms(10, _HOUR, Severity.WARNING),
        kinds=frozenset({"rate.exceeded"}),
        findings=_excess,
    ),
    Rule(
        "rejected-updates",
        "The enclave rejects the updates of a device again and again.",
        "rejected updates of one device",
        Terms(3, 7 * _DAY, Severity.WARNING, cool_down=_DAY),
        possible_responses=(*ON_THE_DEVICE, Action.PAUSE_FEDERATION),
        kinds=frozenset({"update.rejected"}),
        findings=_rejected_update,
    ),
    Rule(
        "parallel-sessions",
        "A device uses a session that it left for another one: somebody else has its keys.",
        "returns to a session that was left",
        Terms(1, _HOUR, Severity.CRITICAL, responses=(Action.NOTIFY, Action.REVOKE_SESSIONS)),
        possible_responses=ON_THE_DEVICE,
        kinds=frozenset({"session.rekeyed"}),
        findings=parallel_session,
    ),
    Rule(
        "log-fork",
        "A device holds a signed checkpoint that is not part of this log: one of the two was shown another one.",
        "reports",
        Terms(1, _HOUR, Severity.CRITICAL),
        kinds=frozenset({"log.fork_reported"}),
        findings=_fork,
    ),
)
