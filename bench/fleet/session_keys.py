"""How often a device that asks all day opens a session and renews its keys: by the client's own rules."""

from qflare_protocol.epochs import SessionLimits, bucket_of

DAY = 86_400
DAYS = 20
"""So many are followed that the moment within an epoch at which a session opens is any of them."""


def keys_a_day(ask_seconds: float, limits: SessionLimits | None = None) -> tuple[float, float]:
    """Return how many sessions and rekeys a day come of asking every so many seconds, of one request each."""
    limits = limits or SessionLimits()
    sessions = rekeys = requests = 0
    opened_at, first_epoch = float("-inf"), 0
    for ask in range(int(DAYS * DAY / ask_seconds)):
        now = ask * ask_seconds
        used_epochs = bucket_of(now) - first_epoch
        if now - opened_at >= limits.lifetime_seconds or used_epochs > limits.epochs:
            sessions, requests, opened_at, first_epoch = sessions + 1, 1, now, bucket_of(now)  # one is the cosignature
        elif used_epochs == limits.epochs or requests >= limits.requests:
            rekeys, requests, first_epoch = rekeys + 1, 0, bucket_of(now)
        requests += 1
    return sessions / DAYS, rekeys / DAYS
