"""The server: federated averaging, evaluated after each round where that is asked for, with the seconds of each."""

import json
import time
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from edge_client.trainer import load_trainer

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds and write the report."""
    parameters = json.loads(str(context.run_config["parameters"]).replace("|", '"'))
    devices, rounds = int(context.run_config["devices"]), int(context.run_config["rounds"])
    trainer = load_trainer(str(context.run_config["trainer"]), parameters, {})
    moments: list[float] = []
    accuracies: list[float] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if not context.run_config["evaluated"]:
            moments.append(time.time())
            return None
        accuracies.append(trainer.evaluate({name: value.numpy() for name, value in arrays.items()})["accuracy"])
        moments.append(time.time())
        return MetricRecord({"accuracy": accuracies[-1]})

    while len(list(grid.get_node_ids())) < devices:
        time.sleep(0.1)
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=devices, min_available_nodes=devices)
    initial = ArrayRecord({name: Array(value) for name, value in trainer.initial_model().items()})
    strategy.start(grid=grid, initial_arrays=initial, num_rounds=rounds, evaluate_fn=evaluate)
    seconds = [after - before for before, after in zip(moments, moments[1:], strict=False)]
    report = Path(str(context.run_config["report"]))
    report.with_suffix(".draft").write_text(json.dumps({"round_seconds": seconds, "accuracies": accuracies[1:]}))
    report.with_suffix(".draft").replace(report)
