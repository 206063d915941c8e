"""What a demo run is asked to do, and what it must show to succeed."""

from dataclasses import dataclass
from typing import Any

from qflare_protocol.aggregation_policy import AggregationPolicy, Stage

NEEDED_ACCURACY = 0.85
HONEST_REJECTIONS_ALLOWED = 1
HONEST_TRAINER = "edge_client.examples.digits:DigitsTrainer"
POISONED_TRAINER = "edge_client.examples.poisoned_digits:SignFlippedDigitsTrainer"
ROUND_SECONDS = 180  # a round ends when all have submitted; devices ask for work sixty times in it
OPEN_EVERY_SECONDS = 1
FEDERATION = "handwritten-digits"
# Local training steps of a round: few rounds need longer ones to reach the accuracy.
MANY_ROUNDS, MANY_ROUNDS_STEPS, FEW_ROUNDS_STEPS = 4, 150, 250


@dataclass(frozen=True)
class DemoSettings:
    """The command line's numbers. Raises `ValueError` for a fleet in which no honest majority is left."""

    devices: int = 10
    poisoned: int = 2
    rounds: int = 5
    seed: int = 1
    qkd: bool = False

    def __post_init__(self) -> None:
        if not 3 <= self.devices <= 100:
            raise ValueError("The demo runs between 3 and 100 devices.")
        if not 0 <= self.poisoned <= (self.devices - 1) // 4 or self.devices - self.poisoned < 3:
            raise ValueError(
                f"Of {self.devices} devices at most {self.most_poisoned} may be poisoned; no defence holds beyond."
            )
        if not 3 <= self.rounds <= 100:
            raise ValueError(f"The demo runs between 3 and 100 rounds; fewer seldom reach {NEEDED_ACCURACY}.")

    @property
    def most_poisoned(self) -> int:
        """The largest minority of attackers that the demo's defence is built for: less than a quarter."""
        return min((self.devices - 1) // 4, self.devices - 3)

    @property
    def trainer_parameters(self) -> dict[str, Any]:
        """What the federation passes to every device's training code."""
        return {
            "seed": self.seed,
            "shards": self.devices,
            "alpha": 0.5,
            "local_steps": MANY_ROUNDS_STEPS if self.rounds >= MANY_ROUNDS else FEW_ROUNDS_STEPS,
            "learning_rate": 0.2,
            "batch_size": 32,
        }

    @property
    def policy(self) -> AggregationPolicy:
        """The policy the enclave measures and enforces.

        Both filters stand in front, so that the table can name whom they leave out. They cost accuracy
        where data differ from device to device, which is why the default has none.
        """
        return AggregationPolicy(
            minimum_updates=max(3, (self.devices - self.poisoned) // 2),
            tolerated_fraction=0.25,
            filters=(Stage("norm-bound"), Stage("consensus-cosine")),
            server_optimiser=Stage("none"),
            maximum_sample_count=10_000,
        )

    def device_names(self) -> list[str]:
        """Return the fleet's names; the poisoned ones come last and are named for what they do."""
        honest = [f"device-{number:02d}" for number in range(1, self.devices - self.poisoned + 1)]
        return honest + [f"poisoned-{number:02d}" for number in range(1, self.poisoned + 1)]


def is_poisoned(name: str) -> bool:
    """Return whether a device of the demo is one of its simulated attackers."""
    return name.startswith("poisoned-")
