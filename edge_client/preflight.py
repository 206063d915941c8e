"""Checks before work: server, clock, keys, disk, policy; each says what to do when it fails."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from edge_client.device_state import DeviceStateFile
from edge_client.http import Http, ServerUnreachable
from edge_client.key_store import DeviceIdentity
from edge_client.session import DeviceSession
from qflare_protocol import pqc
from qflare_protocol.epochs import BUCKET_SECONDS
from qflare_protocol.errors import Refusal
from qflare_protocol.suites import suite_by_name

NEEDED_DISK_BYTES = 1 << 30


@dataclass(frozen=True)
class Check:
    """One check's outcome in a sentence."""

    name: str
    passed: bool
    sentence: str


def preflight(home: Path, http: Http, session: DeviceSession, memory: DeviceStateFile) -> Iterator[Check]:
    """Run every check; a failed one does not keep the others from running."""
    yield _run("keys", lambda: _keys(session.identity))
    yield _run("disk", lambda: _disk(home))
    yield _run("server", lambda: _server(http))
    yield _run("clock", lambda: _clock(http))
    yield _run("session", lambda: _session(session, memory))
    yield _run("policy", lambda: _policy(memory))


def _run(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except (Refusal, ServerUnreachable) as failure:
        return Check(name, False, failure.detail if isinstance(failure, Refusal) else str(failure))


def _keys(identity: DeviceIdentity) -> str:
    suite = suite_by_name(identity.keys.suite)
    kem = pqc.kem(suite.registered_kem)
    secret, ciphertext = kem.encapsulate(identity.keys.kem.public)
    if kem.decapsulate(identity.keys.kem.private, ciphertext) != secret:
        raise Refusal("invalid-key", "The KEM keys do not belong together; enrol this device again.")
    signature = pqc.signature(suite.signature)
    signature.verify(
        identity.keys.signer.public, b"preflight", signature.sign(identity.keys.signer.private, b"preflight")
    )
    return f"{suite.name}: {kem.name} by {kem.engine}, {signature.name} by {signature.engine}"


def _disk(home: Path) -> str:
    free = shutil.disk_usage(home).free
    if free < NEEDED_DISK_BYTES:
        raise Refusal("service-unavailable", f"Only {free >> 20} MiB are free at {home}; make room for 1 GiB.")
    return f"{free >> 30} GiB free"


def _server(http: Http) -> str:
    response = http.send("GET", "/health")
    if response.status_code != 200:
        raise Refusal("service-unavailable", f"The server says it is not healthy (status {response.status_code}).")
    return "healthy"


def _clock(http: Http) -> str:
    stated = http.send("GET", "/health").headers.get("Date", "")
    if not stated:
        raise Refusal("clock-skew", "The server states no time to compare this clock with.")
    offset = time.time() - parsedate_to_datetime(stated).timestamp()
    if abs(offset) > BUCKET_SECONDS:
        raise Refusal("clock-skew", f"This clock is {offset:.0f} s off the server's; set it (NTP).")
    return f"{offset:+.0f} s to the server"


def _session(session: DeviceSession, memory: DeviceStateFile) -> str:
    session.post("/api/work", {})
    session.close()
    seen = memory.state.checkpoint
    return "opened; log witnessed at " + (f"{seen.size} entries" if seen else "no entries yet")


def _policy(memory: DeviceStateFile) -> str:
    pins = memory.state.pins
    if not pins.hosts():
        return "no enclave pinned yet; the first one shown will be (qflare-edge trust pins one by hand)"
    return f"{len(pins.hosts())} enclave hosts or platforms and {len(pins.measurements)} measurements pinned"
