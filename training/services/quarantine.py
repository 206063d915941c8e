"""Taking one update out of a round by hand, while it is open."""

from datetime import datetime

from django.db import transaction
from django.db.models import F

from audit.services import record_event
from qflare_protocol.errors import Refusal
from training.models import Participation, ParticipationState, Round, RoundState
from training.services.rounds import event_payload

QUARANTINED = "quarantined-by-operator"
"""The reason that the participation of an update has which an operator took out."""


@transaction.atomic
def quarantine_update(participation_id: int, *, reason: str, actor: str, now: datetime) -> Participation:
    """Take a submitted update out of its open round: the enclave is never given it.

    The device is not asked again in this round. The update, its receipt and the event stay, so that whoever holds
    the receipt can see that the update was taken out, by whom and why. Raises `Refusal`: "not-found", "conflict"
    without a reason, for an update that was not handed in, and once the round is not open any more.
    """
    if not reason.strip():
        raise Refusal("conflict", "State the reason; it is kept in the audit log.")
    part = Participation.objects.select_related("round__federation", "device").filter(id=participation_id).first()
    if part is None:
        raise Refusal("not-found", "There is no such update.")
    # The round's row first, as a submission takes it: from here on the round is open until this is committed.
    open_round = Round.objects.filter(id=part.round_id, state=RoundState.OPEN)
    if not open_round.update(failures=F("failures") + 1):
        raise Refusal("conflict", "The round is not open any more; its enclave has the updates, and screens them.")
    submitted = Participation.objects.filter(id=part.id, state=ParticipationState.SUBMITTED)
    if not submitted.update(state=ParticipationState.REJECTED, reason=QUARANTINED):
        raise Refusal(
            "conflict", f"The device's part is {part.get_state_display().lower()}; there is no update to take out."
        )
    open_round.update(submissions=F("submissions") - 1)
    payload = event_payload(part.round) | {"device": part.device.name, "reason": reason.strip()}
    record_event("update.quarantined", actor=actor, payload=payload)
    part.refresh_from_db()
    return part
