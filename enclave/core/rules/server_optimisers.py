"""Server optimisers: what is done with a round's aggregate before it is added to the model.

They follow Algorithm 2 of Reddi et al. with the aggregate as pseudo-gradient, and FedAvgM. Their
state is one or two rows as long as the model, carried from round to round under the enclave's seal.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from enclave.core.rules.part import Need, Part, Registry, parameter

Float32 = NDArray[np.float32]


class ServerOptimiser(Part):
    """An elementwise step; `state` names the rows it carries, all of which begin at `initial`."""

    needs = Need.COORDINATES
    state: ClassVar[tuple[str, ...]] = ()

    @property
    def initial(self) -> dict[str, float]:
        """What each row of the state holds before the first round."""
        return dict.fromkeys(self.state, 0.0)

    def step(self, aggregate: Float32, state: dict[str, Float32]) -> Float32:
        """Return what is added to the model and write the state's new values into its rows."""
        raise NotImplementedError

    def tolerates(self, rows: int) -> int:
        """Return all: it sees the aggregate only."""
        return rows


SERVER_OPTIMISERS: Registry[ServerOptimiser] = Registry("server optimiser")


@SERVER_OPTIMISERS.register
@dataclass(frozen=True)
class NoOptimiser(ServerOptimiser):
    """Adds the aggregate as it is."""

    name = "none"
    source = "McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning, AISTATS 2017"
    needs = Need.NOTHING

    def step(self, aggregate: Float32, state: dict[str, Float32]) -> Float32:
        """Return the aggregate."""
        return aggregate


@SERVER_OPTIMISERS.register
@dataclass(frozen=True)
class FedAvgM(ServerOptimiser):
    """Momentum on the server: m ← βm + Δ, x ← x + ηm."""

    name = "fedavgm"
    source = "Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution, 2019"
    state = ("momentum",)

    learning_rate: float = parameter(1.0, 1e-9, 1e3)
    momentum: float = parameter(0.9, 0.0, 0.999)

    def step(self, aggregate: Float32, state: dict[str, Float32]) -> Float32:
        """Return ηm."""
        state["momentum"] *= np.float32(self.momentum)
        state["momentum"] += aggregate
        return state["momentum"] * np.float32(self.learning_rate)


@dataclass(frozen=True)
class _Adaptive(ServerOptimiser):
    """What the adaptive optimisers share: x ← x + η m / (√v + τ), with v beginning at τ²."""

    source = "Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: Adaptive Federated Optimization, 2021"
    state = ("momentum", "second-moment")

    learning_rate: float = parameter(0.1, 1e-9, 1e3)
    beta1: float = parameter(0.9, 0.0, 0.999)
    beta2: float = parameter(0.99, 0.0, 0.99999)
    tau: float = parameter(1e-3, 1e-12, 1e3)

    @property
    def initial(self) -> dict[str, float]:
        """The momentum begins at zero, the second moment at τ²."""
        return {"momentum": 0.0, "second-moment": self.tau**2}

    def step(self, aggregate: Float32, state: dict[str, Float32]) -> Float32:
        """Return η m / (√v + τ)."""
        momentum, second = state["momentum"], state["second-moment"]
        momentum *= np.float32(self.beta1)
        momentum += np.float32(1.0 - self.beta1) * aggregate
        self._advance(second, aggregate * aggregate)
        step = np.float32(self.learning_rate) * momentum / (np.sqrt(second) + np.float32(self.tau))
        return step.astype(np.float32, copy=False)

    def _advance(self, second: Float32, square: Float32) -> None:
        raise NotImplementedError


@SERVER_OPTIMISERS.register
@dataclass(frozen=True)
class FedAdagrad(_Adaptive):
    """v ← v + Δ²."""

    name = "fedadagrad"

    def _advance(self, second: Float32, square: Float32) -> None:
        second += square


@SERVER_OPTIMISERS.register
@dataclass(frozen=True)
class FedYogi(_Adaptive):
    """v ← v - (1 - β₂) Δ² sign(v - Δ²)."""

    name = "fedyogi"

    def _advance(self, second: Float32, square: Float32) -> None:
        second -= np.float32(1.0 - self.beta2) * (square * np.sign(second - square))


@SERVER_OPTIMISERS.register
@dataclass(frozen=True)
class FedAdam(_Adaptive):
    """v ← β₂v + (1 - β₂) Δ²."""

    name = "fedadam"

    def _advance(self, second: Float32, square: Float32) -> None:
        second *= np.float32(self.beta2)
        second += np.float32(1.0 - self.beta2) * square
