"""The accounting against Google's numerical composition, and a budget in releases."""

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal
from tests.docs.reading import ROOT
from training import privacy

DELTA = 1e-5


def composed_numerically(multipliers):
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    for multiplier in multipliers:
        accountant.compose(GaussianDpEvent(multiplier))
    return accountant.get_epsilon(DELTA)


@pytest.mark.parametrize(
    "multipliers", [[4.0], [4.0] * 5, [2.0, 8.0, 3.0], [20.0] * 30], ids=["one", "five", "unequal", "thirty"]
)
def test_the_closed_form_is_what_google_composes_numerically(multipliers):
    numerical = composed_numerically(multipliers)  # from above, by the width of its buckets for each release
    assert privacy.epsilon_of(multipliers, DELTA) == pytest.approx(numerical, abs=1e-4 * (len(multipliers) + 1))


def test_releases_of_one_noise_are_one_of_that_noise_over_the_root_of_their_number():
    assert privacy.composed([6.0] * 9) == pytest.approx(2.0)
    assert privacy.epsilon_of([6.0] * 9, DELTA) == pytest.approx(privacy.epsilon_of([2.0], DELTA))


def test_epsilon_is_that_of_balle_and_wang():
    """delta(epsilon) of theorem 8 in ICML 2018, put in."""
    epsilon = privacy.epsilon_of([1.5], DELTA)

    def phi(x):
        return math.erfc(-x / math.sqrt(2)) / 2

    half, rest = 1 / (2 * 1.5), epsilon * 1.5
    assert phi(half - rest) - math.exp(epsilon) * phi(-half - rest) == pytest.approx(DELTA, rel=1e-6)


def test_nothing_released_has_spent_nothing():
    assert privacy.epsilon_of([], DELTA) == 0.0


def test_more_releases_and_less_noise_spend_more():
    assert privacy.epsilon_of([4.0], DELTA) < privacy.epsilon_of([4.0] * 2, DELTA) < privacy.epsilon_of([2.0], DELTA)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 8.0])
def test_a_budget_is_spent_by_one_release_of_its_least_noise_and_not_exceeded(epsilon):
    spent = privacy.epsilon_of([privacy.least_noise(epsilon, DELTA)], DELTA)
    assert epsilon * (1 - 1e-6) < spent <= epsilon


@pytest.mark.parametrize("releases", [1, 2, 3, 7, 30, 1000])
def test_the_noise_for_a_number_of_releases_fits_just_that_number(releases):
    least = privacy.least_noise(3.0, DELTA)
    noise = privacy.noise_for(releases, 3.0, DELTA)
    assert privacy.releases_left([], noise, least) == releases
    assert privacy.releases_left([noise] * releases, noise, least) == 0
    assert privacy.epsilon_of([noise] * releases, DELTA) <= 3.0


def test_each_release_leaves_one_less():
    left = [privacy.releases_left([4.0] * spent, 4.0, 1.5) for spent in range(10)]
    assert left == [7, 6, 5, 4, 3, 2, 1, 0, 0, 0]


def noised(multiplier=4.0):
    return SimpleNamespace(noise=SimpleNamespace(name="gaussian", parameters={"noise_multiplier": multiplier}))


def test_the_noise_is_that_of_the_policys_stage():
    assert privacy.noise_multiplier_of(noised(2.5)) == 2.5
    assert privacy.noise_multiplier_of(SimpleNamespace(noise=SimpleNamespace(name="none", parameters={}))) is None
    assert privacy.noise_multiplier_of(AggregationPolicy()) is None


@pytest.mark.parametrize("terms", [(None, DELTA), (8.0, DELTA), (0.01, 1e-15)])
def test_noise_goes_with_a_delta_and_perhaps_a_budget(terms):
    privacy.check_terms(noised(), *terms)


@pytest.mark.parametrize(
    ("policy", "epsilon", "delta", "because"),
    [
        (AggregationPolicy(), 8.0, DELTA, "adds noise"),
        (AggregationPolicy(), None, DELTA, "adds noise"),
        (noised(), None, None, "needs a delta"),
        (noised(), 8.0, None, "needs a delta"),
        (noised(), 8.0, 0.5, "needs a delta"),
        (noised(), 8.0, 0.0, "needs a delta"),
        (noised(), 8.0, float("nan"), "needs a delta"),
        (noised(), 0.0, DELTA, "epsilon of"),
        (noised(), -1.0, DELTA, "epsilon of"),
        (noised(), float("inf"), DELTA, "epsilon of"),
        (noised(), float("nan"), DELTA, "epsilon of"),
    ],
)
def test_terms_that_do_not_fit_are_refused(policy, epsilon, delta, because):
    with pytest.raises(Refusal, match=because) as caught:
        privacy.check_terms(policy, epsilon, delta)
    assert caught.value.code == "policy-refused"


def test_a_web_process_never_imports_the_accounting():
    code = (
        "import sys, django; django.setup(); import qflare_site.urls, training.admin, training.dispatch;"
        "sys.exit('dp_accounting' in sys.modules)"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": ":".join([str(ROOT), *sys.path])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
