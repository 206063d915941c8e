"""The colour that goes with each state, everywhere the same; the word is always shown beside it."""

from collections.abc import Mapping

STATE_TONES: Mapping[str, str] = {
    # devices, federations, sessions
    "active": "success",
    "suspended": "warning",
    "revoked": "danger",
    "paused": "warning",
    "finished": "info",
    "ended": "neutral",
    # rounds
    "pending": "info",
    "open": "info",
    "aggregating": "info",
    "completed": "success",
    "failed": "danger",
    "cancelled": "warning",
    # participations
    "invited": "neutral",
    "downloaded": "info",
    "submitted": "info",
    "accepted": "success",
    "rejected": "danger",
    # tokens
    "unused": "info",
    "used": "success",
    "expired": "neutral",
    # health and appraisal tiers
    "ok": "success",
    "degraded": "warning",
    "affirming": "success",
    "warning": "warning",
    # incidents, their severity, answers and messages
    "acknowledged": "warning",
    "closed": "neutral",
    "info": "info",
    "critical": "danger",
    "due": "info",
    "done": "success",
    "undone": "neutral",
    "waiting": "info",
    "delivered": "success",
    # approvals by a second person; those that are pending and expired are above
    "approved": "success",
    "refused": "danger",
    "withdrawn": "neutral",
    # keys and enclaves
    "live": "success",
    "retired": "neutral",
}
"""Values are `success`, `info`, `warning`, `danger` and `neutral`."""


def tone_of(state: str) -> str:
    """Return the tone of a state; one that is not listed is neutral."""
    return STATE_TONES.get(state, "neutral")
