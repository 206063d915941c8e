"""The real client against the real server over a line that loses, repeats, reorders and corrupts.

Whatever the line does, both sides agree or the session does not go on; no sequence number is accepted
twice; no key serves two messages and no ephemeral key two exchanges; and once the line is well again, the
device works on by itself.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from edge_client.device_state import DeviceStateFile
from edge_client.http import ServerUnreachable
from edge_client.session import DeviceSession
from qflare_protocol import sealed_request
from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import KeyPair
from sessions import rekeying, sealed_views, services
from sessions.models import Session, SessionState
from sessions.services import load_chain, sweep_sessions
from tests.people import DjangoHttp, Person, enrol


class Fate(StrEnum):
    """What becomes of one message and its answer."""

    DELIVERED = "delivered"
    REQUEST_LOST = "request lost"
    ANSWER_LOST = "answer lost"
    REPEATED = "repeated"
    REQUEST_CORRUPTED = "request corrupted"
    ANSWER_CORRUPTED = "answer corrupted"
    DELAYED = "delayed"


class HostileLine(DjangoHttp):
    """A line whose next messages meet the fates it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.fates: list[tuple[Fate, int]] = []
        self.delayed: list[tuple[Any, ...]] = []

    def send(self, method: str, path: str, body: bytes = b"", headers: Any = None) -> Any:
        fate, position = self.fates.pop(0) if self.fates else (Fate.DELIVERED, 0)
        message = (method, path, body, headers)
        if fate in (Fate.REQUEST_LOST, Fate.DELAYED):
            if fate == Fate.DELAYED:
                self.delayed.append(message)
            raise ServerUnreachable(fate)
        if fate == Fate.REQUEST_CORRUPTED:
            message = (method, path, flipped(body, position), headers)
        answer = super().send(*message)
        if fate == Fate.ANSWER_LOST:
            raise ServerUnreachable(fate)
        if fate == Fate.REPEATED:
            answer = super().send(*message)
        if fate == Fate.ANSWER_CORRUPTED:
            answer._content = flipped(answer.content, position)
        return answer

    def deliver_delayed(self, index: int) -> None:
        """Let an old message arrive after all; nobody waits for its answer."""
        super().send(*self.delayed.pop(index % len(self.delayed)))


def flipped(data: bytes, position: int) -> bytes:
    """Return the data with one bit flipped."""
    if not data:
        return b"\0"
    changed = bytearray(data)
    changed[position % len(data)] ^= 1 << position % 8
    return bytes(changed)


class Ledger:
    """What has been used, and may be used once."""

    def __init__(self) -> None:
        self.accepted: set[tuple[Any, int]] = set()
        self.message_keys: dict[bytes, tuple[Any, ...]] = {}
        self.ephemeral_keys: set[bytes] = set()

    def answering(self, store: Callable[..., None]) -> Callable[..., None]:
        """Note an accepted request when its answer is stored: a refused one leaves nothing and may come again."""

        def wrapped(opened: Any, answer: Any) -> None:
            number = (opened.session_id, opened.authorization.number.sequence)
            assert number not in self.accepted, "a sequence number was accepted twice"
            self.accepted.add(number)
            store(opened, answer)

        return wrapped

    def deriving(self, derive: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(traffic_key: bytes, direction: str, number: Any) -> Any:
            derived = derive(traffic_key, direction, number)
            use = (direction, *number.fields())
            assert self.message_keys.setdefault(derived[0], use) == use, "a key serves two messages"
            return derived

        return wrapped

    def making(self, make: Callable[[str], KeyPair]) -> Callable[[str], KeyPair]:
        def wrapped(kem: str) -> KeyPair:
            pair = make(kem)
            assert pair.public not in self.ephemeral_keys, "an ephemeral key serves two exchanges"
            self.ephemeral_keys.add(pair.public)
            return pair

        return wrapped


FATES = st.lists(st.tuples(st.sampled_from(Fate), st.integers(0, 20_000)), max_size=3)
PASSING = st.sampled_from([1, 29, 31, 300, 330, 900, 3600])


class HostileNetwork(RuleBasedStateMachine):
    """One device, its server and the line between them."""

    person: Person
    ledger: Ledger

    @initialize()
    def begin(self) -> None:
        self.clock = time_machine.travel(timezone.now() + timedelta(minutes=1), tick=False)
        self.time = self.clock.start()
        self.line = HostileLine()
        self.session = DeviceSession(self.line, self.person.keeper, DeviceStateFile(self.person.home))

    @rule(fates=FATES)
    def ask(self, fates: list[tuple[Fate, int]]) -> None:
        """Use the session as a device does."""
        self._over(fates, lambda: self.session.post("/api/work", {}))

    @rule(fates=FATES)
    def rekey(self, fates: list[tuple[Fate, int]]) -> None:
        """Renew its keys before they are due."""
        self._over(fates, self.session.rekey)

    @rule(fates=FATES)
    def close(self, fates: list[tuple[Fate, int]]) -> None:
        """End it."""
        self._over(fates, self.session.close)

    @rule(index=st.integers(0, 9))
    def deliver(self, index: int) -> None:
        """Let a delayed message arrive."""
        if self.line.delayed:
            self.line.deliver_delayed(index)

    @rule(seconds=PASSING)
    def time_passes(self, seconds: int) -> None:
        """Let the clock move, and the server's sweep run."""
        self.time.shift(seconds)
        sweep_sessions(now=timezone.now())

    @invariant()
    def both_agree_or_stand_apart(self) -> None:
        """Where both sides name the same generation of the same session, they hold the same keys."""
        held = getattr(getattr(self, "session", None), "_open", None)
        row = (
            held
            and Session.objects.filter(id__isnull=False, state=SessionState.ACTIVE)
            .filter(id=held.terms.session_id.hex())
            .first()
        )
        if not row or row.generation != held.chain.generation:
            return
        ours, theirs = held.chain, load_chain(row)
        epoch = max(ours.epoch, theirs.epoch)
        one, two = (chain.advance(epoch, now=timezone.now().timestamp()) for chain in (ours, theirs))
        assert (one.chain_key, one.ratchet_key) == (two.chain_key, two.ratchet_key)

    def teardown(self) -> None:
        """The line is well again: the device needs no help."""
        if not hasattr(self, "session"):
            return
        try:
            self.line.fates.clear()
            assert "round" in self.session.post("/api/work", {})
        finally:
            self.clock.stop()

    def _over(self, fates: list[tuple[Fate, int]], act: Callable[[], Any]) -> None:
        self.line.fates = list(fates)
        try:
            act()
        except (Refusal, ServerUnreachable):
            assert fates, "a well line gives no cause to refuse"
        self.line.fates.clear()


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    kept = Ledger()
    monkeypatch.setattr(sealed_views, "store_answer", kept.answering(sealed_views.store_answer))
    monkeypatch.setattr(sealed_request, "_message_key", kept.deriving(sealed_request._message_key))
    making = kept.making(services.fresh_key_pair)
    monkeypatch.setattr(services, "fresh_key_pair", making)
    monkeypatch.setattr(rekeying, "fresh_key_pair", making)
    yield kept
    assert kept.accepted, "the machine accepted no request at all"


def test_whatever_the_line_does_both_agree_or_neither_goes_on(db: None, tmp_path: Path, ledger: Ledger) -> None:
    machine = type("Bound", (HostileNetwork,), {"person": enrol("alice", tmp_path / "alice"), "ledger": ledger})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
