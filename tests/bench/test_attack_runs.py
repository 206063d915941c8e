"""A run is reproducible, attackers reach what they aim at, and what the enclave refuses is left out."""

import numpy as np
import pytest

from bench.attacks import __main__ as command
from bench.attacks import experiments
from bench.attacks.attacks import BY_NAME, NONE, View
from bench.attacks.data import load_digits
from bench.attacks.pipelines import BY_NAME as PIPELINES
from bench.attacks.pipelines import CANDIDATES, DEFAULT, RULES
from bench.attacks.published import FEDERATION, MOMENTUM, RADIUS, WithoutMomentum, comparison, pipeline
from bench.attacks.run import Attackers, Federation, History, Outcome, run
from bench.attacks.training import LocalTraining
from enclave.core.rules.pipeline import Pipeline as EnclavePipeline
from qflare_protocol.aggregation_policy import AggregationPolicy

SMALL = Federation(devices=10, attackers=2, rounds=3, hidden=4, training=LocalTraining(2, 8, 0.1))


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.mark.parametrize("name", [DEFAULT, "mean"])
def test_the_same_seed_gives_the_same_outcome_and_another_one_another(digits, name):
    def outcome(seed):
        return run(digits, SMALL, BY_NAME["sign flip"], PIPELINES[name].aggregate(SMALL), seed)

    assert outcome(1) == outcome(1)
    assert outcome(1) != outcome(2)


def test_a_model_gone_to_infinity_counts_as_a_guess(digits):
    def aggregate(deltas, sample_counts, seed):
        return np.full(deltas.shape[1], np.float32(3e38))

    assert run(digits, SMALL, NONE, aggregate, 0) == Outcome(0.1, 0.0)


def test_attackers_steer_the_averages_that_the_history_keeps():
    generator = np.random.default_rng(0)
    attackers, enclave = Attackers(2, BY_NAME["inner product 2"], 0.9, generator), History(0.9)
    for _ in range(3):
        sent = attackers.tamper(generator.normal(size=(8, 5)).astype(np.float32))
        averages = enclave.take(sent)
        assert averages[8] == pytest.approx(-2 * averages[:8].mean(axis=0), abs=1e-5)


def test_an_attack_that_takes_nothing_from_the_own_training_does_without_it():
    parts = ["data"] * 10
    generator = np.random.default_rng(0)
    assert len(Attackers(2, BY_NAME["ALIE"], 0.0, generator).trained(parts)) == 8
    assert len(Attackers(2, BY_NAME["sign flip"], 0.0, generator).trained(parts)) == 10


@pytest.mark.parametrize("pipeline", [*RULES, *CANDIDATES], ids=lambda pipeline: pipeline.name)
def test_every_pipeline_is_one_the_enclave_accepts_for_a_fifth_of_attackers(pipeline):
    assert not pipeline.refused(Federation())


def test_what_cannot_stand_so_many_attackers_is_left_out_and_named(capsys):
    jobs = experiments.jobs_of(["non-iid, f = 6"], ["bulyan", "median"], ["ALIE"], 2)
    assert jobs == [("non-iid, f = 6", "median", attack, seed) for attack in ("none", "ALIE") for seed in (0, 1)]
    assert "refuses bulyan" in capsys.readouterr().err


def test_the_quick_run_is_a_part_of_the_whole():
    quick, whole = command._options(["--quick"]), command._options([])
    assert set(quick.attacks) < set(whole.attacks)
    assert set(quick.settings) < set(whole.settings)
    assert quick.rules == whole.rules == list(PIPELINES)
    assert DEFAULT in PIPELINES


def test_what_is_called_the_default_here_is_the_default_of_the_policy():
    here, there = (EnclavePipeline.of(policy) for policy in (PIPELINES[DEFAULT].policy(20, 4), AggregationPolicy()))
    for part in ("filters", "pre_aggregation", "rule", "server_optimiser", "noise"):
        assert getattr(here, part) == getattr(there, part), part
    assert here.policy.history == there.policy.history


def test_the_finalists_run_on_several_seeds():
    finalists = command._options(["--finalists"])
    assert DEFAULT in finalists.rules
    assert set(finalists.rules) < set(PIPELINES)
    assert finalists.seeds > command._options([]).seeds


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--processes", "0"], ["--rules", "voodoo"]])
def test_nonsense_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        command._options(arguments)
    assert "error" in capsys.readouterr().err


def test_the_published_experiment_is_the_papers_in_the_enclaves_terms():
    """The paper's sum of gradients m and the enclave's average of steps e: e = -(1 - beta) lr m, all else alike."""
    ours, rate = pipeline(), FEDERATION.training.learning_rate
    gradients = np.random.default_rng(0).normal(size=(4, 25, 30)).astype(np.float32) * 20
    aggregate = ours.aggregate(FEDERATION)
    momenta, centre = np.zeros((25, 30)), np.zeros(30)
    for number, of_round in enumerate(gradients):
        # The enclave's average begins with the first step itself, so the paper's sum begins ten times as large.
        momenta = of_round / (1 - MOMENTUM) if number == 0 else MOMENTUM * momenta + of_round
        for _ in range(3):
            lengths = np.linalg.norm(momenta - centre, axis=1, keepdims=True)
            centre = centre + ((momenta - centre) * np.minimum(1, RADIUS / lengths)).mean(axis=0)
        change = aggregate(-np.float32(rate) * of_round, [1] * 25, bytes(32))
        assert change == pytest.approx(-rate * centre, rel=1e-3, abs=1e-5)


def test_the_authors_flippers_send_their_gradient_without_momentum():
    generator, trained, craft = np.random.default_rng(0), History(MOMENTUM), WithoutMomentum(-1)
    for number in range(3):
        steps = generator.normal(size=(2, 5)).astype(np.float32)
        own = trained.take(steps)
        sent = craft(View(np.zeros((3, 5), np.float32), own, generator))
        assert sent == pytest.approx(-(1 - MOMENTUM) * steps, abs=1e-6), number


def test_the_comparison_stands_beside_what_was_published():
    text = comparison({"no attack": [0.98, 0.96], "bit flip": [0.95, 0.95]})
    assert text.splitlines()[2:] == ["| no attack |  | 97.0 ± 1.4 | +0.0 |", "| bit flip | 97.8 | 95.0 ± 0.0 | -2.0 |"]
