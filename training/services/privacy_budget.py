"""The budget that stops a federation's further releases; apart from the ledger, because opening a round asks it too."""

from qflare_protocol.errors import Refusal
from training import privacy
from training.models import Federation


def require_budget(federation: Federation, noise_multiplier: float | None) -> None:
    """Return when the next release still fits the federation's budget, under the lock of the caller's transaction.

    Raises `Refusal("privacy-budget-spent")`.
    """
    if noise_multiplier is None or federation.privacy_least_noise is None:
        return
    spent = federation.noise_of_releases()
    if not privacy.releases_left(spent, noise_multiplier, federation.privacy_least_noise):
        raise Refusal(
            "privacy-budget-spent",
            f"{len(spent)} releases have been made; another would spend more than epsilon "
            f"{federation.privacy_budget_epsilon:g} at delta {federation.privacy_delta:g}.",
        )


def privacy_statement(federation: Federation) -> str:
    """Return in one sentence what of a federation's budget is spent, and how many releases are left."""
    if federation.privacy_delta is None:
        return "No noise is added: the global models say what they say of each device's data."
    releases = list(federation.privacy_releases.order_by("number"))
    spent = releases[-1].epsilon_spent if releases else 0.0
    count = f"{len(releases)} release{'' if len(releases) == 1 else 's'}"
    if federation.privacy_least_noise is None:
        return f"Epsilon {spent:.3g} spent at delta {federation.privacy_delta:g} in {count}; there is no budget."
    noise = privacy.noise_multiplier_of(federation.aggregation_policy())
    left = (
        0
        if noise is None
        else privacy.releases_left(
            [release.noise_multiplier for release in releases], noise, federation.privacy_least_noise
        )
    )
    return (
        f"Epsilon {spent:.3g} of {federation.privacy_budget_epsilon:g} spent at delta {federation.privacy_delta:g} "
        f"in {count}; {left} more fit."
    )
