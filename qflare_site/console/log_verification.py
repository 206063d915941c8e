"""Verifying the log request by request: each looks at some entries and hands a signed state to the next."""

import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass

from django.core import signing

from audit.verification import LogDamagedError, LogReport, LogWalk
from qflare_protocol.encoding import decode, encode

ENTRIES_PER_STEP = 1000
SECONDS_PER_REQUEST = 1.0
STATE_AGE_SECONDS = 3600
SALT = "qflare_site.console.log_verification"


@dataclass(frozen=True)
class Progress:
    """How far a verification is: `state` to go on with, or `report` of a log that holds, or `damage`."""

    done: int
    total: int
    state: str = ""
    report: LogReport | None = None
    damage: str = ""


def verify_on(state: str, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Begin to verify the log, or go on from a state; for a second, but at least a thousand entries.

    A state is signed by this site, because what it says was checked is not checked again. One that is not ours, or
    older than an hour, begins anew.
    """
    walk = _resumed(state)
    until = clock() + SECONDS_PER_REQUEST
    try:
        while not walk.is_done:
            walk.advance(ENTRIES_PER_STEP)
            if clock() >= until:
                break
        if not walk.is_done:
            return Progress(walk.tree.size, walk.target, state=_signed(walk))
        return Progress(walk.tree.size, walk.target, report=walk.report())
    except LogDamagedError as damage:
        return Progress(walk.tree.size, walk.target, damage=str(damage))


def _signed(walk: LogWalk) -> str:
    return signing.dumps(b64encode(encode(walk.state())).decode(), salt=SALT)


def _resumed(state: str) -> LogWalk:
    try:
        text = signing.loads(state, salt=SALT, max_age=STATE_AGE_SECONDS)
    except signing.BadSignature:
        return LogWalk.begin()
    return LogWalk.resume(decode(b64decode(text), what="state of a verification"))
