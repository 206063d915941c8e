"""One attack for each rule: what somebody does, as the events by which the log tells of it."""

import uuid
from collections.abc import Callable
from datetime import timedelta

from bench.attack_trace.fleet import ROUND, STEP, Fleet
from monitor.rules.drift import LEAST_EARLIER, RECENT

TOKEN = "7d1f0d0e-0000-4000-8000-000000000001"  # noqa: S105 - the id of a token


def reuse_token(fleet: Fleet) -> None:
    """Somebody presents a token that a device has used."""
    fleet.event("token.refused", token=TOKEN, reason="token-used")


def guess_tokens(fleet: Fleet) -> None:
    """Somebody tries fifteen tokens, one every four minutes."""
    for _ in range(15):
        fleet.event("token.refused", token=None, reason="token-unknown")
        fleet.run(STEP)


def forge_signatures(fleet: Fleet) -> None:
    """Somebody without its keys shakes hands in a device's name, twenty times."""
    for _ in range(20):
        fleet.event("session.refused", device=fleet.members[0].device.name, reason="signature by another key")
    fleet.run(STEP)


def replay_traffic(fleet: Fleet) -> None:
    """Somebody sends a device's recorded handshake and requests again."""
    victim = fleet.members[1].device
    for reason in ("sequence-reused", "sequence-too-old") * 3:
        fleet.event("request.refused", actor=victim.actor, device=victim.name, reason=reason)
    for _ in range(4):
        fleet.event("session.refused", device=victim.name, reason="replayed challenge")
    fleet.run(STEP)


def replay_late(fleet: Fleet) -> None:
    """Somebody sends a device's requests again when their epoch is over."""
    for _ in range(12):
        fleet.event("request.refused", device=fleet.members[2].device.name, reason="epoch-expired")
    fleet.run(STEP)


def flood(fleet: Fleet) -> None:
    """A device goes on asking beyond its limit for more than an hour."""
    device = fleet.members[3].device
    for _ in range(20):
        fleet.event("rate.exceeded", actor=device.actor, caller=device.name, scope="work", rate="120/m")
        fleet.run(STEP)


def poison(fleet: Fleet) -> None:
    """A device's updates are rejected in four rounds."""
    device = fleet.members[4].device
    for _ in range(4):
        about = {"federation": fleet.federation.name, "round_number": fleet.rounds, "device": device.name}
        fleet.event("update.rejected", actor="enclave", reason="consensus-cosine", **about)
        fleet.run(ROUND)


def turn_away(fleet: Fleet) -> None:
    """A device's updates turn away from those of the others, and are accepted."""
    while fleet.rounds < LEAST_EARLIER:
        fleet.run(ROUND)
    fleet.turned_away = fleet.members[5].device
    fleet.run(RECENT * ROUND)


def copy_keys(fleet: Fleet) -> None:
    """Somebody with a device's keys opens a session beside the device's own, which goes on."""
    member = fleet.members[6]
    about = {"device": member.device.name, "session_id": str(uuid.UUID(int=1))}
    fleet.event(
        "session.opened", actor=member.device.actor, suite=member.device.suite, key_version=1, qkd=False, **about
    )
    fleet.run(timedelta(minutes=20))


def show_another_log(fleet: Fleet) -> None:
    """A device has been shown another log."""
    device = fleet.members[7].device
    fleet.event("log.fork_reported", actor=device.actor, device=device.name, size=10**6, root="00" * 32)


def silence_the_fleet(fleet: Fleet) -> None:
    """Nobody of the fleet gets through to the server any more."""
    fleet.is_heard = False
    fleet.run(timedelta(minutes=72))
    fleet.is_heard = True


def silence_the_log(fleet: Fleet) -> None:
    """Nobody sequences and signs the log any more."""
    fleet.is_sequenced = False
    fleet.run(timedelta(minutes=20))
    fleet.is_sequenced = True


ATTACKS: dict[str, Callable[[Fleet], None]] = {
    "token-reuse": reuse_token,
    "token-guessing": guess_tokens,
    "signature-failures": forge_signatures,
    "replays": replay_traffic,
    "clock-skew": replay_late,
    "rate-excess": flood,
    "rejected-updates": poison,
    "parallel-sessions": copy_keys,
    "log-fork": show_another_log,
    "fleet-silence": silence_the_fleet,
    "log-silence": silence_the_log,
    "score-drift": turn_away,
}
"""The attack that each rule is to find."""
