"""An unchanged Flower client is training code like any other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_client.cli import main
from edge_client.tensor_files import map_tensor_file, write_tensor_file
from edge_client.trainer import load_trainer
from edge_client.training import TrainingTask
from edge_client.training_folder import TrainingFolder
from edge_client.training_process import TrainingProcess
from qflare_protocol.errors import Refusal

pytest.importorskip("flwr", reason="Flower is not installed (pip install flwr)")
APP = "flower:tests.edge.flower_app"
PARAMETERS = {"steps": 50}


@pytest.mark.parametrize("app", ["client", "LineClient", "client_fn"])
def test_it_fits_and_evaluates_whatever_form_the_app_has(app: str) -> None:
    trainer = load_trainer(f"{APP}:{app}", PARAMETERS, {"partition-id": "2"})
    model = trainer.initial_model()
    assert {name: value.shape for name, value in model.items()} == {
        "parameter.0000": (1,),
        "parameter.0001": (),
        "parameter.0002": (1,),
    }
    for round_number in (1, 2, 3):
        outcome = trainer.train(model, round_number)
        model = outcome.model
    assert outcome.sample_count == 20
    assert outcome.metrics["round"] == 3 and "note" not in outcome.metrics
    assert all(value.dtype == np.float32 for value in model.values())
    assert model["parameter.0000"][0] == pytest.approx(3, abs=0.05)
    assert model["parameter.0002"][0] == 3
    evaluation = trainer.evaluate_here(model)
    assert evaluation is not None
    assert evaluation.sample_count == 20 and evaluation.metrics["loss"] < 0.01


def test_a_client_without_parameters_of_its_own_trains_what_it_is_given() -> None:
    trainer = load_trainer(f"{APP}:GivenClient", PARAMETERS, {})
    model = {"parameter.0000": np.zeros(3, np.float32)}
    assert trainer.train(model, 1).model["parameter.0000"].tolist() == [1, 1, 1]
    with pytest.raises(Refusal, match="no get_parameters"):
        trainer.initial_model()


def test_the_partition_comes_from_the_devices_own_options() -> None:
    losses = {
        partition: load_trainer(f"{APP}:client_fn", PARAMETERS, {"partition-id": partition}).evaluate(
            load_trainer(f"{APP}:client", PARAMETERS, {}).initial_model()
        )["loss"]
        for partition in ("0", "1")
    }
    assert losses["0"] != losses["1"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-1", -1), ("0.1", 0.1), ("1e-3", 0.001), ("true", True), ("false", False), ('"7"', "7"),
        ("adam", "adam"), ("007", "007"), ("", ""), ("2024-01-31", "2024-01-31"), ("[1, 2]", "[1, 2]"),
        ("1\nother = 2", "1\nother = 2"), ("/data/a=b", "/data/a=b"),
    ],
)  # fmt: skip
def test_options_are_the_values_that_flower_itself_would_read(text: str, value: object) -> None:
    made: Any = load_trainer(f"{APP}:configured", PARAMETERS, {"option": text})
    found = made._client.numpy_client.node_config["option"]
    assert (type(found), found) == (type(value), value)
    assert made._config(1)["option"] == value


def test_an_evaluation_knows_the_number_of_the_version(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    folder.begin()
    write_tensor_file(folder.base, load_trainer(f"{APP}:client", PARAMETERS, {}).initial_model())
    process = TrainingProcess(f"{APP}:client", {})
    outcome = process.evaluate(TrainingTask(PARAMETERS, 0, version=7), folder)
    process.close()
    assert outcome is not None and outcome.metrics["round"] == 7


@pytest.mark.parametrize(("app", "said"), [("nobody", "makes none"), ("absent", "has no absent")])
def test_what_is_no_flower_client_is_refused(app: str, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        load_trainer(f"{APP}:{app}", PARAMETERS, {})


def test_the_command_line_writes_its_initial_model_and_trains_it_in_a_process(tmp_path: Path) -> None:
    model = tmp_path / "initial"
    assert main(["initial-model", "--app", f"{APP}:client", "--output", str(model)]) == 0
    folder = TrainingFolder(tmp_path)
    folder.begin()
    write_tensor_file(folder.base, map_tensor_file(model))
    process = TrainingProcess(f"{APP}:client", {})
    assert process.train(TrainingTask(PARAMETERS, 1), folder, lambda progress: None).sample_count == 20
    process.close()
    assert map_tensor_file(folder.trained)["parameter.0002"][0] == 1
