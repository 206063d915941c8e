"""Whom a round invites: of the members that bear the labels, as many as the terms say, in the order they say."""

import math
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from devices.models import Device
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal
from training.models import Federation, Participation
from training.terms import RoundTerms, Selection

RECENT_ROUNDS = 200
"""How far back an order looks: a device without a part in these counts as one that never had any."""


@dataclass(frozen=True)
class Invited:
    """The devices that a round invites, by id, and with how many updates it closes."""

    devices: list[Device]
    target: int


def select_devices(federation: Federation, *, chance: random.Random) -> Invited:
    """Return whom the next round of a federation invites.

    With a target t, t times the over-selection are invited, else the fraction, else all; never fewer than
    the policy's minimum. The device of the policy's root of trust is always among them. "highest-loss" is
    the order of power-of-choice (Cho, Wang, Joshi 2020) over what devices report of themselves.
    Raises `Refusal("too-few-updates")` where fewer devices can be invited than the policy needs.
    """
    policy = federation.aggregation_policy()
    members = list(federation.members().prefetch_related("keys").order_by("id"))
    labels, root = federation.selection_labels, policy.root_device
    candidates = [device for device in members if _bears(device, labels) or device.id.hex == root]
    if root and root not in (device.id.hex for device in candidates):
        raise Refusal("too-few-updates", "The root device, whose update all are compared with, is not active here.")
    if len(candidates) < policy.minimum_updates:
        raise Refusal("too-few-updates", _too_few(len(members), len(candidates), policy))
    wanted = _how_many(federation, policy, len(candidates))
    ordered = candidates if wanted == len(candidates) else _ordered(federation, candidates, chance)
    # The sort is stable: the root of trust comes to the front of an order that stays as it is.
    chosen = sorted(ordered, key=lambda device: device.id.hex != root)[:wanted]
    target = min(federation.target_updates or len(chosen), len(chosen))
    return Invited(sorted(chosen, key=lambda device: device.id), target)


def _too_few(active: int, candidates: int, policy: AggregationPolicy) -> str:
    bearing = "" if active == candidates else f", {candidates} of them bear the labels"
    return f"{active} devices are active{bearing}; the policy needs updates of {policy.minimum_updates}. Enrol more."


def _bears(device: Device, labels: dict[str, str]) -> bool:
    return labels.items() <= device.labels.items()


def _how_many(terms: RoundTerms, policy: AggregationPolicy, candidates: int) -> int:
    if terms.selection == Selection.ALL:
        return candidates
    if terms.target_updates is not None:
        wanted = math.ceil(terms.target_updates * terms.over_selection)
    else:
        wanted = math.ceil((terms.selection_fraction or 1.0) * candidates)
    return min(max(wanted, policy.minimum_updates), candidates)


def _ordered(federation: Federation, candidates: Sequence[Device], chance: random.Random) -> list[Device]:
    """Return the candidates in the order of the terms; chance decides among equals."""
    shuffled = chance.sample(list(candidates), len(candidates))
    if federation.selection == Selection.LEAST_RECENT:
        last_round = _latest_of(federation, "round__number")
        return sorted(shuffled, key=lambda device: last_round.get(device.id, 0))
    if federation.selection == Selection.HIGHEST_LOSS:
        losses = _latest_of(federation, "loss", loss__isnull=False)
        # A device whose loss nobody knows comes first: it would otherwise never be heard.
        return sorted(shuffled, key=lambda device: losses.get(device.id, math.inf), reverse=True)
    return shuffled


def _latest_of(federation: Federation, column: str, **narrowed: Any) -> dict[uuid.UUID, Any]:
    """Return a value of each device's latest part that has one."""
    last = federation.rounds.order_by("-number").values_list("number", flat=True).first() or 0
    recent = Participation.objects.filter(
        round__federation=federation, round__number__gt=last - RECENT_ROUNDS, **narrowed
    )
    return dict(recent.order_by("round__number").values_list("device_id", column))
