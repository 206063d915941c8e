"""Training code is named module:Class, and a wrong name says what is wrong."""

import math

import pytest

from edge_client.trainer import Progress, find_trainer, load_trainer
from qflare_protocol.errors import Refusal
from tests.edge.trainers import SmallTrainer


def test_a_trainer_is_found_by_name_and_given_its_parameters_and_options() -> None:
    trainer = load_trainer("tests.edge.trainers:SmallTrainer", {"step": 2.0}, {"samples": "7"})
    assert isinstance(trainer, SmallTrainer)
    outcome = trainer.train(trainer.initial_model(), 1)
    assert float(outcome.model["w"][0, 0]) == 2.0
    assert outcome.sample_count == 7


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("tests.edge.trainers", "no colon"),
        ("tests.edge.nowhere:SmallTrainer", "cannot be imported"),
        ("tests.edge.trainers:Nobody", "no Nobody"),
        ("tests.edge.trainers:NotATrainer", "not a subclass"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(spec: str, complaint: str) -> None:
    with pytest.raises(Refusal, match=complaint) as refused:
        find_trainer(spec)
    assert refused.value.code == "not-found"


@pytest.mark.parametrize(("told", "taken"), [(math.nan, 0.0), (-1, 0.0), (0.25, 0.25), (7, 1.0), (math.inf, 1.0)])
def test_a_fraction_is_from_0_to_1_whatever_is_told(told: float, taken: float) -> None:
    trainer, heard = load_trainer("tests.edge.trainers:SmallTrainer", {}, {}), list[Progress]()
    trainer.watch(heard.append)
    trainer.report(told)
    assert heard == [Progress(taken)]
