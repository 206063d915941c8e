"""A device: the same training code on the same shard."""

import json

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from edge_client.trainer import load_trainer

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train from the given arrays and answer with new ones."""
    parameters = json.loads(str(context.run_config["parameters"]).replace("|", '"'))
    shard = str(context.node_config["partition-id"])
    trainer = load_trainer(str(context.run_config["trainer"]), parameters, {"shard": shard})
    arrays = message.content["arrays"]
    model = {name: value.numpy() for name, value in arrays.items()}
    outcome = trainer.train(model, int(message.content["config"]["server-round"]))
    metrics = MetricRecord({"num-examples": outcome.sample_count, **outcome.metrics})
    from flwr.app import Array

    trained = ArrayRecord({name: Array(value) for name, value in outcome.model.items()})
    return Message(content=RecordDict({"arrays": trained, "metrics": metrics}), reply_to=message)
