"""A Flower client as its users write it: linear regression by gradient descent, and a counter of whole numbers."""

from typing import Any

import numpy as np
from flwr.client import NumPyClient


class LineClient(NumPyClient):
    """Fits y = 3 x + 1."""

    def __init__(self, partition: int = 0) -> None:
        generator = np.random.default_rng(partition)
        self.x = generator.normal(size=20)
        self.y = 3 * self.x + 1
        self.weights = [np.zeros(1), np.zeros((), dtype=np.float32), np.zeros(1, dtype=np.int64)]

    def get_parameters(self, config: dict[str, Any]) -> list[Any]:
        return self.weights

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
        slope, offset, batches = parameters
        assert batches.dtype == np.int64 and slope.dtype == np.float64
        for _ in range(int(config["steps"])):
            error = slope * self.x + offset - self.y
            slope = slope - 0.1 * (error * self.x).mean()
            offset = offset - 0.1 * error.mean()
        metrics = {"error": float(np.abs(error).mean()), "round": config["server_round"], "note": "not a number"}
        return [slope, np.asarray(offset), batches + 1], len(self.x), metrics

    def evaluate(self, parameters: list[Any], config: dict[str, Any]) -> tuple[float, int, dict[str, Any]]:
        slope, offset, _ = parameters
        return (
            float(((slope * self.x + offset - self.y) ** 2).mean()),
            len(self.x),
            {
                "slope": float(slope[0]),
                "round": config["server_round"],
            },
        )


class GivenClient(LineClient):
    """Trains what it is given and has no parameters of its own to give."""

    get_parameters = NumPyClient.get_parameters

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
        return [array + 1 for array in parameters], len(self.x), {}


client = LineClient()


def client_fn(context: Any) -> Any:
    """Make the client of one partition."""
    assert context.run_config["steps"] == 50
    return LineClient(int(context.node_config["partition-id"])).to_client()


def configured(context: Any) -> Any:
    """Make a client that has the values of its node."""
    made = LineClient()
    made.node_config = context.node_config  # type: ignore[attr-defined]
    return made


def nobody(context: Any) -> str:
    """Make no client."""
    return "nobody"
