"""Run an unchanged Flower client as training code: `qflare-edge run --app flower:module:client`.

`module:client` names what Flower code has: a `NumPyClient` or `Client` (class or object), or the
`client_fn` that makes one from a `Context`. Arrays travel by their place in Flower's list, as float32
tensors `parameter.0000`, `parameter.0001`, ...; the client sees them in the types that its own have.

- `fit(parameters, config)` and `evaluate(parameters, config)` get the federation's trainer parameters as
  `config`, with `server_round` and the device's options beside them, as `run_config` of the context too.
  In `evaluate` it is the number of the version, where that is known, and else 0.
- Node options: `--option partition-id=0 --option lr=0.1` stand in the context's `node_config`, read as Flower's own
  `--node-config` is: as TOML's numbers, booleans and quoted texts, and whatever is none of these as the text it is.
- The context's `state` is empty at the beginning of every round.
"""

import inspect
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edge_client.trainer import EvaluationOutcome, Tensors, Trainer, TrainingOutcome, imported
from qflare_protocol.errors import Refusal

PREFIX = "flower:"
NAME = "parameter.{:04d}"
Scalar = bool | float | int | str


class FlowerTrainer(Trainer):
    """Training code that asks a Flower client; subclasses made by `flower_trainer` say which."""

    app: Any = None

    def __init__(self, parameters: Mapping[str, Any], options: Mapping[str, str]) -> None:
        super().__init__(parameters, options)
        self._values = {name: _value_of(text) for name, text in options.items()}
        self._client = _client_of(self.app, parameters, self._values)

    def initial_model(self) -> Tensors:
        """Return the client's own parameters."""
        own = self._own_parameters()
        if own is None:
            raise Refusal("not-found", "The Flower client has no get_parameters; write the initial model by hand.")
        return _tensors_of(own)

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        """Let the client fit the given parameters."""
        import flwr.common as flower

        arrays, config = self._arrays_of(model), self._config(round_number)
        answer = _held_good(self._client.fit(flower.FitIns(flower.ndarrays_to_parameters(arrays), config)))
        trained = flower.parameters_to_ndarrays(answer.parameters)
        return TrainingOutcome(_tensors_of(trained), answer.num_examples, _numbers(answer.metrics))

    def evaluate(self, model: Tensors) -> dict[str, float]:
        """Let the client evaluate the given parameters."""
        return self.evaluate_here(model).metrics

    def evaluate_here(self, model: Tensors) -> EvaluationOutcome:
        """Let the client evaluate the given parameters on its own data."""
        import flwr.common as flower

        parameters = flower.ndarrays_to_parameters(self._arrays_of(model))
        answer = _held_good(self._client.evaluate(flower.EvaluateIns(parameters, self._config(self.version))))
        return EvaluationOutcome(answer.num_examples, {"loss": float(answer.loss)} | _numbers(answer.metrics))

    def _config(self, round_number: int) -> dict[str, Any]:
        return {**self._values, **self.parameters, "server_round": round_number}

    def _own_parameters(self) -> list[Any] | None:
        """Return the client's own parameters; None where it has no `get_parameters`."""
        import flwr.common as flower

        answer = self._client.get_parameters(flower.GetParametersIns({}))
        if answer.status.code == flower.Code.GET_PARAMETERS_NOT_IMPLEMENTED:
            return None
        arrays: list[Any] = flower.parameters_to_ndarrays(_held_good(answer).parameters)
        return arrays

    def _arrays_of(self, model: Tensors) -> list[Any]:
        """Return the arrays in Flower's order, with the types of those that the client itself gives."""
        arrays = [np.array(model[name]) for name in sorted(model)]
        own = self._own_parameters()
        if own is None or [np.shape(array) for array in own] != [array.shape for array in arrays]:
            return arrays
        return [array.astype(like.dtype) for array, like in zip(arrays, own, strict=True)]


def flower_trainer(spec: str) -> type[Trainer]:
    """Return the training code for a Flower app named `flower:module:client`.

    Raises `Refusal("not-found")` saying what is missing.
    """
    try:
        import flwr.client  # noqa: F401 - what is missing shows here and not in a round
    except ImportError as error:
        raise Refusal("not-found", 'Flower is not installed; pip install "qflare[flower]".') from error
    return type("FlowerTrainer", (FlowerTrainer,), {"app": staticmethod(imported(spec.removeprefix(PREFIX)))})


def _client_of(app: Any, parameters: Mapping[str, Any], node: dict[str, Scalar]) -> Any:
    from flwr.client import Client, NumPyClient

    made = app
    if inspect.isclass(app):
        made = app()
    elif not isinstance(app, Client | NumPyClient):
        made = _called(app, parameters, node)
    if not isinstance(made, Client | NumPyClient):
        raise Refusal("not-found", f"The app is no Flower client and makes none, but a {type(made).__name__}.")
    return made.to_client()


def _called(client_fn: Callable[[Any], Any], parameters: Mapping[str, Any], node: dict[str, Scalar]) -> Any:
    from flwr.app import Context, RecordDict

    return client_fn(Context(0, 0, node_config=node, state=RecordDict(), run_config=dict(parameters)))


def _value_of(text: str) -> Scalar:
    """Return the number, boolean or text that TOML reads; the text as it is where that is no scalar of TOML."""
    try:
        members = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = members.get("value")
    return value if len(members) == 1 and isinstance(value, bool | float | int | str) else text


def _held_good(answer: Any) -> Any:
    from flwr.common import Code

    if answer.status.code != Code.OK:
        raise RuntimeError(f"the Flower client answered {answer.status.code.name}")
    return answer


def _tensors_of(arrays: list[Any]) -> Tensors:
    return {NAME.format(place): np.asarray(array, dtype=np.float32) for place, array in enumerate(arrays)}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are numbers: Flower allows texts and bytes, which no mean can be taken of."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
