"""When a device without work is told to ask again: often enough to join, rarely enough for the fleet.

The operator sets how many such asks a second the site is sized for (`QFLARE_ASKS_PER_SECOND`). In a small fleet a
device asks sixty times in the shortest round it may be in. In a large one it asks as rarely as keeps the rate, but six
times in that round, and once an hour.
"""

SHORTEST_SECONDS, USUAL_SECONDS, LONGEST_SECONDS = 1, 30, 3600
GAP_SECONDS = 2
ASKS_PER_ROUND, LEAST_ASKS_PER_ROUND = 60, 6
LATE_SECONDS = 90
"""How late a device may ask and still counts as present: its clock drifts, it retries, it is noted to half a minute."""


def usual_seconds(shortest_round_seconds: int | None, *, between_buffers: bool = False) -> int:
    """Return what a device of a small fleet is told: 1 to 30 seconds.

    `shortest_round_seconds` is of the rounds it may be in, None where there are none; `between_buffers` says whether
    an asynchronous federation is about to open its next one.
    """
    if between_buffers:  # the next buffer opens as soon as the last one is aggregated
        return GAP_SECONDS
    if shortest_round_seconds is None:
        return USUAL_SECONDS
    return min(max(shortest_round_seconds // ASKS_PER_ROUND, SHORTEST_SECONDS), USUAL_SECONDS)


def fleet_seconds(active_devices: int, asks_per_second: int, shortest_round_seconds: int | None) -> int:
    """Return how long the fleet's size wants a device to wait: 0 to 3,600 seconds, at most a sixth of the round."""
    seconds = min(-(-active_devices // asks_per_second), LONGEST_SECONDS)
    return seconds if shortest_round_seconds is None else min(seconds, shortest_round_seconds // LEAST_ASKS_PER_ROUND)


def present_seconds(active_devices: int, asks_per_second: int, shortest_round_seconds: int | None) -> int:
    """Return how long a silent device counts as present: the longest that it may be told to wait, and a while more."""
    told = fleet_seconds(active_devices, asks_per_second, shortest_round_seconds)
    return max(told, USUAL_SECONDS) + LATE_SECONDS
