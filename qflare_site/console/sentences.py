"""Rounds in plain sentences: what an operator would say of them."""

from collections.abc import Mapping

from training.models import RoundState


def round_sentence(
    number: int,
    state: str,
    *,
    invited: int,
    returned: int,
    rejected: Mapping[str, int],
    end_reason: str = "",
) -> str:
    """Return what became of a round, such as "Round 7 aggregated, 4 of 5 devices returned, 1 rejected: norm".

    - invited, returned: how many devices were asked, and how many handed in an update.
    - rejected: how many updates the enclave rejected, by reason.
    - end_reason: why it failed or was cancelled.
    """
    returning = f"{returned} of {_devices(invited)} returned"
    match state:
        case RoundState.PENDING:
            return f"Round {number} is being prepared for {_devices(invited)}."
        case RoundState.OPEN:
            return f"Round {number} is open, {returning} so far."
        case RoundState.AGGREGATING:
            return f"Round {number} is being aggregated, {returning}."
        case RoundState.COMPLETED:
            return f"Round {number} aggregated, {returning}, {_rejections(rejected)}."
        case RoundState.FAILED:
            return f"Round {number} failed, {returning}: {end_reason.rstrip('.')}."
        case _:
            return f"Round {number} was cancelled: {end_reason.rstrip('.')}."


def _rejections(rejected: Mapping[str, int]) -> str:
    if not rejected:
        return "none rejected"
    if len(rejected) == 1:
        [(reason, count)] = rejected.items()
        return f"{count} rejected: {in_words(reason)}"
    told = ", ".join(f"{count} {in_words(reason)}" for reason, count in sorted(rejected.items()))
    return f"{sum(rejected.values())} rejected: {told}"


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def in_words(reason: str) -> str:
    """Return an enclave's reason code, such as "norm-too-large", as words."""
    return reason.replace("-", " ") or "no reason given"
