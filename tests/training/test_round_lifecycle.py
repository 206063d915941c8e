"""The life of a round under whatever operators, devices, workers and the clock do to it, in any order.

After every step the log alone, read event by event, tells the same as the rows: every transition was allowed and has
its event, nothing is counted twice, and every update with a receipt is in one signed result or its round's end is
told. Enclaves are real but for their process.
"""

import io
import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import blake3
import pytest
import time_machine
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from audit.models import Event
from devices.models import Device
from devices.services import note_device_seen
from enclave import services as enclave
from enclave.models import EnclaveInstance
from qflare_protocol.cose import unverified_payload
from qflare_protocol.encoding import encode
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import Manifest, manifest_digest, sign_manifest
from qflare_protocol.progress import FAILED, TRAINING, ProgressReport
from qflare_protocol.round_result import MAX_BYTES, PURPOSE, JudgedRound, SignedResult
from tests.open_rounds import SEALED, make_federation
from tests.people import OPERATOR, Person, enrol
from tests.policies import bare
from tests.training.enclaves_here import REFUSALS, UNWANTED_SAMPLES, Crash, EnclavesHere, Fate, result_verifier
from tests.training.lifecycle_log import ToldRound, rounds_as_told
from training.models import (
    LEASED,
    UNFINISHED,
    WAITING,
    Federation,
    FederationState,
    Participation,
    ParticipationState,
    Round,
    RoundState,
    Update,
)
from training.services import steps
from training.services.federations import pause_federation, resume_federation
from training.services.late_updates import DROPPED, KEPT, takes_base
from training.services.participation import (
    ReceivedUpdate,
    SubmittedUpdate,
    model_for,
    receive_update,
    record_update,
    work_for,
)
from training.services.progress import report_progress
from training.services.quarantine import QUARANTINED, quarantine_update
from training.services.rounds import cancel_round, extend_round, open_round
from training.services.tick import Dispatch, tick
from training.terms import Terms
from training.verdict_proofs import verdict_proofs_of

NAMES = ("alice", "carol", "dave", "erin", "frank")
STALENESS = 2
KINDS = {
    "all devices": (Terms(), 0),
    "three of them": (Terms(target_updates=3), 0),
    "waits for them": (Terms(extension_seconds=60, maximum_extensions=2), STALENESS),
    "buffer": (Terms(mode="asynchronous", target_updates=3), STALENESS),
}
"""Federations by what makes their rounds differ: terms, and how stale updates may be."""

MEANWHILE = st.sampled_from(["nothing", "nothing", "it is sent twice", "the deadline passes", "it is cancelled"])
SOME = st.sets(st.sampled_from(NAMES), min_size=1)
BACK = st.integers(0, 3)
REASON = "it was wrong"


class RoundLifecycle(RuleBasedStateMachine):
    """One federation of five devices, its operator, its workers and the clock."""

    people: dict[str, Person]
    enclaves: EnclavesHere
    seen: set[str]

    @initialize(kind=st.sampled_from(sorted(KINDS)))
    def begin(self, kind: str) -> None:
        self.undone = transaction.atomic()
        self.undone.__enter__()
        self.clock = time_machine.travel(timezone.now() + timedelta(minutes=1), tick=False)
        self.time = self.clock.start()
        self.before = Event.objects.order_by("-id").values_list("id", flat=True)[0]
        terms, staleness = KINDS[kind]
        policy = bare(maximum_sample_count=1000, maximum_update_bytes=4096, maximum_staleness=staleness)
        self.federation_id = make_federation(policy=policy, terms=terms).id
        self.ended: dict[uuid.UUID, dict[str, Any]] = {}
        self.results: dict[uuid.UUID, JudgedRound] = {}
        self.receipts: dict[tuple[uuid.UUID, str], tuple[int, bytes, bytes]] = {}
        self.state: RoundState | None = None

    def teardown(self) -> None:
        if not hasattr(self, "undone"):
            return
        try:
            self.seen |= set(self._events().values_list("kind", flat=True))
        finally:
            self.clock.stop()
            transaction.set_rollback(True)
            self.undone.__exit__(None, None, None)
            assert not transaction.get_rollback(), "what the example did could not be undone"

    # What the operator does

    @rule(by_operator=st.booleans())
    @precondition(lambda self: self.state not in UNFINISHED)
    def open(self, by_operator: bool) -> None:
        """Open a round, which is refused where one runs or the federation is paused."""
        may = self._federation().state == FederationState.ACTIVE
        with self._refused_unless(may, "conflict"):
            open_round(self.federation_id, actor=OPERATOR if by_operator else "schedule", now=timezone.now())

    @rule()
    @precondition(lambda self: self.state in UNFINISHED)
    def open_a_second(self) -> None:
        """Open a round beside the one that runs."""
        with self._refused_unless(False, "conflict"):
            open_round(self.federation_id, actor=OPERATOR, now=timezone.now())

    @rule(back=BACK, seconds=st.sampled_from([1, 600]), reason=st.sampled_from([REASON, " "]))
    @precondition(lambda self: self.state is not None)
    def extend(self, back: int, seconds: int, reason: str) -> None:
        """Put a deadline off, with a reason and of an open round only."""
        round_, now = self._round(back), timezone.now()
        may = round_.state == RoundState.OPEN and round_.deadline_at > now and reason == REASON
        with self._refused_unless(may, "conflict"):
            extend_round(round_.id, seconds=seconds, reason=reason, actor=OPERATOR, now=now)
            assert self._again(round_).deadline_at == round_.deadline_at + timedelta(seconds=seconds)

    @rule(back=BACK, reason=st.sampled_from([REASON, " "]), unlikely=st.integers(0, 3))
    @precondition(lambda self: self.state is not None)
    def cancel(self, back: int, reason: str, unlikely: int) -> None:
        """Cancel a round, with a reason and unless it is over."""
        round_ = self._round(back)
        if round_.state in UNFINISHED and unlikely:
            return
        with self._refused_unless(round_.state in UNFINISHED and reason == REASON, "conflict"):
            cancel_round(round_.id, reason=reason, actor=OPERATOR, now=timezone.now())
            assert self._again(round_).end_reason == REASON

    @rule(name=st.sampled_from(NAMES), back=BACK)
    @precondition(lambda self: self.receipts)
    def take_out(self, name: str, back: int) -> None:
        """Take an update out of its round, while that is open and has it."""
        self._take_out(name, self._round(back))

    @rule()
    def pause(self) -> None:
        """Pause the federation for as long as it takes to be refused a round; one that runs goes on."""
        before = self._rows()
        pause_federation(self.federation_id, actor=OPERATOR)
        with self._refused_unless(False, "conflict"):
            open_round(self.federation_id, actor=OPERATOR, now=timezone.now())
        self._tick()
        assert len(self._rows()) == len(before), "the tick opened a round of a paused federation"
        resume_federation(self.federation_id, actor=OPERATOR)

    # What devices do

    @rule(names=SOME)
    def ask_and_download(self, names: set[str]) -> None:
        """Ask for work and take the model that it starts from."""
        for name in names:
            device, now = self._heard(name), timezone.now()
            part = self._part(name, self._round(0)) if self.state is not None else None
            waits = part is not None and part.state in WAITING and self._round(0).state == RoundState.OPEN
            asked = work_for(device, active_devices=len(self.people), now=now)["round"]
            assert (asked is not None) == (waits and now < self._round(0).deadline_at)
            if asked:
                assert asked["round_id"] == self._round(0).id.bytes
                model_for(device, self.federation_id, asked["base_version"], now=now)
                assert self._part(name, self._round(0)).state == ParticipationState.DOWNLOADED

    @rule(name=st.sampled_from(NAMES), back=BACK, behind=st.integers(0, 3), meanwhile=MEANWHILE)
    @precondition(lambda self: self.state is not None)
    def hand_in(self, name: str, back: int, behind: int, meanwhile: str) -> None:
        """Hand in, perhaps late or trained from an old version, while something happens to the round."""
        self._hand_in(name, self._round(back), behind=behind, meanwhile=meanwhile)

    @rule(name=st.sampled_from(NAMES), back=BACK)
    @precondition(lambda self: self.receipts)
    def hand_in_again(self, name: str, back: int) -> None:
        """Send what was received once more: the receipt is the same, and nothing is counted."""
        round_ = self._round(back)
        restarts, signed, receipt = self.receipts.get((round_.id, name), (-1, b"", b""))
        if restarts != round_.restarts:
            return
        before = self._rows()
        assert self._record(name, self._receive(name, signed)) == receipt
        with pytest.raises(Refusal, match="already-submitted"):
            self._receive(name, self._manifest(name, round_, samples=77))
        assert self._rows() == before

    @rule(name=st.sampled_from(NAMES), failed=st.booleans())
    @precondition(lambda self: self.state is not None)
    def report(self, name: str, failed: bool) -> None:
        """Tell how training goes, or that it failed."""
        self._report(name, failed)

    # What the clock and the workers do

    @rule(seconds=st.sampled_from([1, 31, 61, 3601]))
    def time_passes(self, seconds: int) -> None:
        """Let the clock move, over leases and deadlines."""
        self.time.shift(seconds)

    @rule()
    def tick(self) -> None:
        """Let the clock of training look: it dispatches exactly the steps that nobody runs."""
        prepared, aggregated = self._tick()
        now = timezone.now()
        awaited = {round_.id: round_.state for round_ in Round.objects.awaiting_worker(now)}
        assert prepared == [id_ for id_, state in awaited.items() if state == RoundState.PENDING]
        assert aggregated == [id_ for id_, state in awaited.items() if state == RoundState.AGGREGATING]
        assert not Round.objects.due_to_close(now).exists(), "a round that is due is still open"

    @rule(fate=st.sampled_from([Fate.ENDS_WELL, *Fate]))
    @precondition(lambda self: self.state in LEASED)
    def work(self, fate: Fate) -> None:
        """Let a worker take the step that is due."""
        round_ = self._round(0)
        due = Round.objects.awaiting_worker(timezone.now()).filter(id=round_.id).exists()
        before = self._rows()
        did = self._worked(round_, fate)
        if not due:
            assert not did
            assert self._rows() == before, "a worker changed a round whose step another one holds"
        elif fate in (Fate.ENDS_WELL, Fate.IS_SLOW):
            assert did == (self._again(round_).state in (RoundState.OPEN, RoundState.COMPLETED))
            assert self._again(round_).state != round_.state
        else:
            assert not did, f"a worker that {fate} says it did its step"

    @rule(back=BACK, aggregates=st.booleans())
    @precondition(lambda self: self.state is not None)
    def stale_message(self, back: int, aggregates: bool) -> None:
        """Deliver a message of the broker for a step that is not due: nothing comes of it."""
        round_ = self._round(back)
        if round_.state == (RoundState.AGGREGATING if aggregates else RoundState.PENDING):
            return
        before = self._rows()
        assert not (steps.aggregate_round if aggregates else steps.prepare_round)(round_.id, now=timezone.now())
        assert self._rows() == before

    @rule(
        names=SOME,
        unwanted=st.sampled_from([None, None, *NAMES]),
        others=st.sampled_from(["train", "fail", "are silent"]),
        taken_out=st.sampled_from([None, None, *NAMES]),
        seconds=st.sampled_from([1, 3601]),
    )
    def go_on(self, names: set[str], unwanted: str | None, others: str, taken_out: str | None, seconds: int) -> None:
        """Let the round go its usual way by one step: any other rule meets it sooner or later in each state."""
        if self.state not in UNFINISHED:
            self._tick()  # an asynchronous federation opens its next one by itself
            if not Round.objects.filter(federation_id=self.federation_id, state__in=UNFINISHED).exists():
                open_round(self.federation_id, actor=OPERATOR, now=timezone.now())
        elif self.state == RoundState.OPEN:
            for name in sorted(names):
                self._hand_in(name, self._round(0), samples=UNWANTED_SAMPLES if name == unwanted else 10)
            if taken_out is not None:
                self._take_out(taken_out, self._round(0))
            self.time.shift(seconds)
            for name in () if others == "are silent" else sorted(set(NAMES) - names):
                self._report(name, failed=others == "fail")
            self._tick()
        else:
            self._worked(self._round(0), Fate.ENDS_WELL)

    # What has to hold after every step

    @invariant()
    def everything_holds(self) -> None:
        """The log first, which tells what the others look at."""
        if hasattr(self, "undone"):
            self._the_log_tells_what_the_rows_say()
            self._what_is_over_stays_as_it_is()
            self._versions_follow_one_another()
            self._a_receipt_is_kept()

    def _the_log_tells_what_the_rows_say(self) -> None:
        """Every transition is allowed and has its event; what is counted is what the log counts."""
        told = rounds_as_told(self._events())
        rows = list(Round.objects.filter(federation_id=self.federation_id).order_by("number"))
        assert [str(row.id) for row in rows] == list(told)
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))
        assert sum(row.state in UNFINISHED for row in rows) <= 1
        for row in rows:
            self._compare(row, told[str(row.id)])
        self.state = RoundState(rows[-1].state) if rows else None

    def _what_is_over_stays_as_it_is(self) -> None:
        """The row of a round that is over changes no more, nobody holds it, and its keys are gone."""
        for row in self._rows():
            if row["state"] in UNFINISHED:
                assert row["id"] not in self.ended
                continue
            assert self.ended.setdefault(row["id"], row) == row, "a round that was over has changed"
            assert row["lease_holder"] is None
            assert not EnclaveInstance.objects.filter(round_id=row["id"], wrapped_keys__isnull=False).exists()

    def _versions_follow_one_another(self) -> None:
        """Versions are numbered without a gap, each made by one round from the one before."""
        federation = self._federation()
        numbers = list(federation.versions.order_by("number").values_list("number", flat=True))
        made = Round.objects.filter(federation=federation, state=RoundState.COMPLETED).order_by("number")
        assert numbers == list(range(len(made) + 1))
        assert federation.current_version.number == numbers[-1]
        steps_made = made.values_list("base_version__number", "resulting_version__number")
        assert list(steps_made) == list(itertools.pairwise(numbers))

    def _a_receipt_is_kept(self) -> None:
        """What has a receipt is in one signed result, or waits for one, or its round was ended or begun anew."""
        rows = {row.id: row for row in Round.objects.filter(federation_id=self.federation_id)}
        signed = [verdict.manifest_digest for result in self.results.values() for verdict in result.verdicts]
        assert len(signed) == len(set(signed)), "an update is in two results"
        for (round_id, name), (restarts, manifest, _) in self.receipts.items():
            row = rows[round_id]
            if restarts != row.restarts:
                continue  # the log says that the round began anew, and the device is asked again
            update = Update.objects.get(participation__round=row, participation__device__name=name)
            assert bytes(update.manifest_digest) == manifest_digest(manifest)
            given = update.participation.reason != QUARANTINED
            assert (manifest_digest(manifest) in signed) == (given and row.state == RoundState.COMPLETED)

    # How it is done

    def _compare(self, row: Round, told: ToldRound) -> None:
        parts = {part.device.name: part for part in row.participations.select_related("device")}
        names_in = {state: {name for name in parts if parts[name].state == state} for state in ParticipationState}
        judged = names_in[ParticipationState.ACCEPTED] | names_in[ParticipationState.REJECTED]
        updates = Update.objects.filter(participation__round=row)
        digests = {update.participation.device.name: bytes(update.manifest_digest).hex() for update in updates}
        assert (row.state, row.number, row.invited) == (told.state, told.number, told.invited)
        assert (row.submissions, row.failures) == (len(told.received), len(told.failed) + len(told.taken_out))
        assert (row.extensions, row.restarts) == (told.extensions, told.restarts)
        assert len(parts) == told.invited
        assert digests == told.received | told.taken_out
        assert names_in[ParticipationState.SUBMITTED] | judged == {*told.received, *told.taken_out}
        assert names_in[ParticipationState.FAILED] == told.failed
        assert names_in[ParticipationState.REJECTED] == told.rejected | set(told.taken_out)
        if row.state == RoundState.COMPLETED:
            self._compare_result(row, told)

    def _compare_result(self, row: Round, told: ToldRound) -> None:
        if row.id not in self.results:
            verdicts = encode([proof.leaf for proof in verdict_proofs_of(row.id)])
            made = SignedResult(bytes(row.resulting_version.provenance), verdicts)
            signer = unverified_payload(made.signed, purpose=PURPOSE, maximum_bytes=MAX_BYTES)["enclave_key_id"]
            instance = EnclaveInstance.objects.get(round_id=row.id, key_id=signer)
            self.results[row.id] = JudgedRound.verified(made, result_verifier(instance))
        result = self.results[row.id]
        names = {person.identity.device_id: name for name, person in self.people.items()}
        assert {names[one.device_id]: one.manifest_digest.hex() for one in result.verdicts} == told.received
        assert {names[one.device_id] for one in result.rejected} == told.rejected
        assert len(result.accepted) >= row.minimum_updates

    def _report(self, name: str, failed: bool) -> None:
        round_, now = self._round(0), timezone.now()
        waits = self._part(name, round_).state in WAITING and round_.takes_updates_at(now)
        told = ProgressReport(round_.id.bytes, FAILED if failed else TRAINING, 0.5)
        answer = report_progress(self._heard(name), told, now=now)
        assert answer["continue"] == (waits and not failed)
        assert self._again(round_).failures == round_.failures + (waits and failed)

    def _take_out(self, name: str, round_: Round) -> None:
        part = self._part(name, round_)
        may = round_.state == RoundState.OPEN and part.state == ParticipationState.SUBMITTED
        with self._refused_unless(may, "conflict"):
            quarantine_update(part.id, reason=REASON, actor=OPERATOR, now=timezone.now())

    def _hand_in(
        self, name: str, round_: Round, *, behind: int = 0, samples: int = 10, meanwhile: str = "nothing"
    ) -> None:
        """Hand an update in as the API does: check and store it, then count it; `meanwhile` happens in between."""
        now, part = timezone.now(), self._part(name, round_)
        if part.state not in (*WAITING, ParticipationState.FAILED):
            return  # what it sends again is a rule of its own
        manifest = self._manifest(name, round_, behind=behind, samples=samples)
        refused = self._why_refused(round_, part, behind)
        with self._refused_unless(not refused, refused):
            received = self._receive(name, manifest)
            if meanwhile == "it is sent twice":
                self._count(name, self._receive(name, manifest))
            elif meanwhile != "nothing":
                refused = self._end_meanwhile(round_, meanwhile)
            with self._refused_unless(not refused, refused):
                self._count(name, received)
        assert timezone.now() >= now

    def _why_refused(self, round_: Round, part: Participation, behind: int) -> str:
        if part.state == ParticipationState.FAILED:
            return "not-invited"
        if not round_.takes_updates_at(timezone.now()):
            return "round-closed"
        return "" if takes_base(round_, self._base(round_, behind)) else "base-model-mismatch"

    def _end_meanwhile(self, round_: Round, meanwhile: str) -> str:
        """End the round's being open, as far as that goes, and return why updates are then refused."""
        if meanwhile == "it is cancelled":
            cancel_round(round_.id, reason=REASON, actor=OPERATOR, now=timezone.now())
        else:
            self.time.shift(3601)
            self._tick()
        return "" if self._again(round_).state == RoundState.OPEN else "round-closed"

    def _receive(self, name: str, manifest: bytes) -> ReceivedUpdate:
        submitted = SubmittedUpdate(manifest, io.BytesIO(SEALED))
        return receive_update(self._heard(name), submitted, now=timezone.now())

    def _record(self, name: str, received: ReceivedUpdate) -> bytes:
        return record_update(self.people[name].device, received, now=timezone.now())

    def _heard(self, name: str) -> Device:
        """Return the device that speaks, heard as by a request of its session."""
        device = self.people[name].device
        note_device_seen(device, now=timezone.now())
        return device

    def _count(self, name: str, received: ReceivedUpdate) -> None:
        receipt = self._record(name, received)
        kept = (received.part.round.restarts, received.signed, receipt)
        assert self.receipts.setdefault((received.part.round_id, name), kept) == kept or kept[0]
        self.receipts[received.part.round_id, name] = kept

    def _manifest(self, name: str, round_: Round, *, behind: int = 0, samples: int = 10) -> bytes:
        # Of two that were prepared in the same instant the one that serves.
        newest_first = (F("retired_at").desc(nulls_first=True), "-prepared_at")
        latest = EnclaveInstance.objects.filter(round_id=round_.id).order_by(*newest_first).first()
        person = self.people[name]
        manifest = Manifest(
            round_id=round_.id.bytes,
            federation_id=self.federation_id.bytes,
            device_id=person.identity.device_id,
            base_model_digest=self._base(round_, behind),
            sample_count=samples,
            ciphertext_digest=blake3.blake3(SEALED).digest(),
            ciphertext_bytes=len(SEALED),
            enclave_key_id=bytes(latest.key_id) if latest else bytes(32),
            metrics={},
        )
        return sign_manifest(manifest, person.identity.keys.signer)

    def _base(self, round_: Round, behind: int) -> bytes:
        number = max(0, round_.base_version.number - behind)
        return bytes(self._federation().versions.get(number=number).digest)

    def _worked(self, round_: Round, fate: Fate) -> bool:
        step = steps.prepare_round if round_.state == RoundState.PENDING else steps.aggregate_round
        with pytest.MonkeyPatch.context() as patched:
            self.enclaves.meanwhile = lambda: self._befall(round_, step, fate)
            if fate == Fate.CRASHES_AT_THE_COMMIT:
                patched.setattr(steps, "time_step", _crash)  # the last thing in the transaction of either step
            try:
                return step(round_.id, now=timezone.now())
            except Crash:
                return False
            finally:
                self.enclaves.meanwhile = lambda: None

    def _befall(self, round_: Round, step: Callable[..., bool], fate: Fate) -> None:
        if fate in REFUSALS:
            raise REFUSALS[fate]
        if fate == Fate.CRASHES_AT_ONCE:
            raise Crash
        if fate == Fate.ROUND_IS_CANCELLED:
            cancel_round(round_.id, reason=REASON, actor=OPERATOR, now=timezone.now())
        if fate in (Fate.IS_SLOW, Fate.IS_OVERTAKEN):
            self.time.shift(31)
        if fate == Fate.IS_OVERTAKEN:
            step(round_.id, now=timezone.now())

    def _tick(self) -> tuple[list[uuid.UUID], list[uuid.UUID]]:
        prepared: list[uuid.UUID] = []
        aggregated: list[uuid.UUID] = []
        tick(Dispatch(prepared.append, aggregated.append, [].append, [].append), now=timezone.now())
        return prepared, aggregated

    @contextmanager
    def _refused_unless(self, allowed: bool, code: str) -> Iterator[None]:
        """Let the body succeed, or see it refused with this code and nothing changed."""
        if allowed:
            yield
            return
        before, events = self._rows(), self._events().count()
        with pytest.raises(Refusal) as refused:
            yield
        assert refused.value.code == code
        if code == "round-closed":
            stale = self._federation().aggregation_policy().maximum_staleness
            assert refused.value.extensions["late_update"] == (KEPT if stale else DROPPED)
            self.seen.add(f"late update {refused.value.extensions['late_update']}")
        assert (self._rows(), self._events().count()) == (before, events), "a refusal has changed something"

    def _federation(self) -> Federation:
        return Federation.objects.select_related("current_version").get(id=self.federation_id)

    def _round(self, back: int) -> Round:
        """Return the round so many before the last, counted around."""
        rounds = Round.objects.filter(federation_id=self.federation_id).select_related("federation", "base_version")
        return list(rounds.order_by("-number"))[back % len(rounds)]

    def _again(self, round_: Round) -> Round:
        return Round.objects.get(id=round_.id)

    def _part(self, name: str, round_: Round) -> Participation:
        return Participation.objects.get(round=round_, device__name=name)

    def _rows(self) -> list[dict[str, Any]]:
        return list(Round.objects.filter(federation_id=self.federation_id).order_by("number").values())

    def _events(self) -> Any:
        return Event.objects.filter(id__gt=self.before).order_by("id")


def _crash(*_: Any) -> None:
    raise Crash


@pytest.fixture
def machine(db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[RoundLifecycle]:
    enclaves = EnclavesHere()
    monkeypatch.setattr(enclave, "start_enclave", enclaves.start)
    monkeypatch.setattr(enclave, "aggregate", enclaves.aggregate)
    # Its thread has a connection of its own, which sees no row of an example that is undone, and no time pass.
    monkeypatch.setattr(steps, "kept_lease", lambda *_: nullcontext())
    people = {name: enrol(name, tmp_path / name) for name in NAMES}
    return type("Bound", (RoundLifecycle,), {"people": people, "enclaves": enclaves, "seen": set()})


def live(machine: type[RoundLifecycle], examples: int, **options: Any) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


def test_whatever_happens_to_a_round_its_log_and_its_receipts_hold(machine: type[RoundLifecycle]) -> None:
    live(machine, 30, derandomize=True)
    wanted = {"round.completed", "round.failed", "round.cancelled", "round.restarted", "round.extended"}
    wanted |= {
        "update.rejected",
        "update.failed",
        "update.quarantined",
        f"late update {KEPT}",
        f"late update {DROPPED}",
    }
    assert wanted <= machine.seen, f"the machine never came to {wanted - machine.seen}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_happens_to_many_rounds_their_log_and_receipts_hold(machine: type[RoundLifecycle]) -> None:
    live(machine, 300)
