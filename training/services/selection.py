"""Whom a round invites: of the members that bear the labels, as many as the terms say, in the order they say."""

import itertools
import math
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import F, Max, Q, QuerySet, Window
from django.db.models.functions import RowNumber

from devices.models import Device
from enclave.core.channel import MAX_DEVICES_OF_A_ROUND
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal
from training.models import Federation, Participation
from training.terms import RoundTerms, Selection

RECENT_ROUNDS = 200
"""How far back an order looks: a device without a part in these counts as one that never had any."""
LAST_PARTS = 3
"""In how many parts, one after the other, a device may leave its loss unsaid before it loses its place in the order."""

Standing = tuple[int, float]
"""A device's place in the order of losses: its kind, and within that the smaller number first."""
TOLD, SILENT = 1, 2
NEVER_ASKED: Standing = (0, 0.0)


@dataclass(frozen=True)
class Invited:
    """The devices that a round invites, by id, and with how many updates it closes."""

    devices: list[Device]
    target: int


def select_devices(federation: Federation, *, chance: random.Random, idle: QuerySet[Device] | None = None) -> Invited:
    """Return whom the next round of a federation invites: of its members, or of the `idle` ones alone.

    With a target t, t times the over-selection are invited, else the fraction, else all; never fewer than
    the policy's minimum, and never more than a round can name (by the order of the terms, or by chance). The device of
    the policy's root of trust is always among them. "highest-loss" is
    the order of power-of-choice (Cho, Wang, Joshi 2020) over what devices report of themselves.
    Raises `Refusal("too-few-updates")` where fewer devices can be invited than the policy needs.
    """
    policy = federation.aggregation_policy()
    here, state = (federation.members(), "active") if idle is None else (idle, "idle")
    members = list(here.only("id", "labels").order_by("id"))  # no keys: few of many may be chosen
    labels, root = federation.selection_labels, policy.root_device
    candidates = [device for device in members if _may_be_invited(device.id, device.labels, labels, root)]
    if root and root not in (device.id.hex for device in candidates):
        raise Refusal("too-few-updates", f"The root device, whose update all are compared with, is not {state} here.")
    if len(candidates) < policy.minimum_updates:
        raise Refusal("too-few-updates", _too_few(f"{len(members)} devices are {state}", members, candidates, policy))
    wanted = min(_how_many(federation, policy, len(candidates)), MAX_DEVICES_OF_A_ROUND)
    ordered = candidates if wanted == len(candidates) else _ordered(federation, candidates, chance)
    # The sort is stable: the root of trust comes to the front of an order that stays as it is.
    chosen = sorted(ordered, key=lambda device: device.id.hex != root)[:wanted]
    target = min(federation.target_updates or len(chosen), len(chosen))
    return Invited(sorted(chosen, key=lambda device: device.id), target)


def _too_few(there_are: str, members: list[Device], candidates: list[Device], policy: AggregationPolicy) -> str:
    bearing = "" if len(members) == len(candidates) else f", {len(candidates)} of them bear the labels"
    return f"{there_are}{bearing}; the policy needs updates of {policy.minimum_updates}. Enrol more."


def has_candidates(federation: Federation, devices: QuerySet[Device], wanted: int) -> bool:
    """Say whether a round could invite so many of these devices, and the policy's minimum.

    Where there are enough it reads no further. The device of the policy's root of trust has to be one of them.
    """
    policy, labels = federation.aggregation_policy(), federation.selection_labels
    least, root = max(wanted, policy.minimum_updates), policy.root_device
    if root and not devices.filter(id=uuid.UUID(hex=root)).exists():
        return False
    if not labels:
        return devices.order_by()[:least].count() >= least
    bearing = (
        device_id
        for device_id, borne in devices.order_by().values_list("id", "labels").iterator()
        if _may_be_invited(device_id, borne, labels, root)
    )
    return sum(1 for _ in itertools.islice(bearing, least)) >= least


def _may_be_invited(device_id: uuid.UUID, borne: dict[str, str], labels: dict[str, str], root: str | None) -> bool:
    """The root of trust may whatever its labels are."""
    return labels.items() <= borne.items() or device_id.hex == root


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
        last_round = _last_invitations(federation)
        return sorted(shuffled, key=lambda device: last_round.get(device.id, 0))
    if federation.selection == Selection.HIGHEST_LOSS:
        standing = _standings(federation)
        return sorted(shuffled, key=lambda device: standing.get(device.id, NEVER_ASKED))
    return shuffled


def _recent_parts(federation: Federation) -> QuerySet[Participation]:
    last = federation.rounds.order_by("-number").values_list("number", flat=True).first() or 0
    return Participation.objects.filter(round__federation=federation, round__number__gt=last - RECENT_ROUNDS)


def _last_invitations(federation: Federation) -> dict[uuid.UUID, int]:
    """Return the number of the latest round that each device was invited to."""
    invited = _recent_parts(federation).order_by().values("device_id").annotate(latest=Max("round__number"))
    return dict(invited.values_list("device_id", "latest"))


def _standings(federation: Federation) -> dict[uuid.UUID, Standing]:
    """Return where each device stands by its last parts: by its loss, or behind where it told none in any of them.

    Who was never asked comes before all others, since it would otherwise never be heard; who was asked and is silent
    would come first for ever, and comes last, the one that was asked longest ago first. A round that never opened
    asked nobody.
    """
    asked = _recent_parts(federation).filter(Q(loss__isnull=False) | Q(round__opened_at__isnull=False))
    latest_first = Window(RowNumber(), partition_by=F("device_id"), order_by=F("round__number").desc())
    parts = asked.annotate(place=latest_first).filter(place__lte=LAST_PARTS).order_by("-place")
    standings: dict[uuid.UUID, Standing] = {}
    for device_id, number, loss in parts.values_list("device_id", "round__number", "loss"):
        if loss is not None:
            standings[device_id] = (TOLD, -loss)
        elif standings.get(device_id, NEVER_ASKED)[0] != TOLD:
            standings[device_id] = (SILENT, number)
    return standings
