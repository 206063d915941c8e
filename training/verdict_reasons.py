"""Why an update is not in the model, as people read it."""

from qflare_protocol.errors import CATALOGUE
from qflare_protocol.round_verdicts import SCREENING_REASONS
from training.services.quarantine import QUARANTINED


def explained_reason(reason: str) -> str:
    """Return the sentence that goes with a reason code; a device's own words, or none, stay as they are."""
    if reason == QUARANTINED:
        return "An operator took the update out of the round."
    if reason in SCREENING_REASONS:
        return SCREENING_REASONS[reason]
    return CATALOGUE[reason].title if reason in CATALOGUE else reason
