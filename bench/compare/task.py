"""What the platforms train, and the figures that are taken of each."""

from dataclasses import dataclass, field
from typing import Any

DIGITS = "edge_client.examples.digits:DigitsTrainer"
WIDE = "bench.compare.wide_model:WideTrainer"


@dataclass(frozen=True)
class Task:
    """Devices, rounds, and the training code with its parameters.

    `wide` is a model of 50 MB that costs no training to speak of; else the digits are learnt.
    """

    devices: int
    rounds: int
    wide: bool = False

    @property
    def trainer(self) -> str:
        """The training code, `module:Class`."""
        return WIDE if self.wide else DIGITS

    @property
    def parameters(self) -> dict[str, Any]:
        """Return what every device's training code is given."""
        if self.wide:
            return {"values": 12_500_000}
        return {
            "seed": 1, "shards": self.devices, "alpha": 0.5, "local_steps": 150, "learning_rate": 0.2, "batch_size": 32,
        }  # fmt: skip


@dataclass
class Figures:
    """One platform's run.

    - round_seconds: of each round, from its start to the start of the next, the last one to its new model.
    - accuracies: of each round's model, as its platform or the bench evaluated it.
    - cpu_seconds: of all processes, servers and devices, from the first start to the last end.
    - peak_bytes: most memory (PSS) of all processes together, and of one device with all it starts.
    """

    platform: str
    version: str
    round_seconds: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    total_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    peak_device_bytes: int = 0
    wire_bytes: int = 0

    @property
    def warm_round_seconds(self) -> float:
        """The mean over all rounds but the first, which starts processes and imports code."""
        return sum(self.round_seconds[1:]) / max(1, len(self.round_seconds) - 1)

    def seconds_to(self, accuracy: float) -> float | None:
        """Return how long rounds took together until the model was this accurate; None where it never was."""
        taken = 0.0
        for seconds, reached in zip(self.round_seconds, self.accuracies, strict=True):
            taken += seconds
            if reached >= accuracy:
                return taken
        return None
