"""What a device says of its training while a round waits for its update."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_bytes, exact_map, finite_number, short_text
from qflare_protocol.manifest import checked_metrics

TRAINING, FAILED = "training", "failed"
MAX_REASON = 200
LARGEST_LOSS = 1e12

_WHAT = "progress report"


@dataclass(frozen=True)
class ProgressReport:
    """One report: `fraction` of the training done from 0 to 1, the last `loss`, the metrics as a manifest has them.

    `reason` says in at most 200 printable characters why a training that `failed` did; it may be empty.
    Raises `Refusal("malformed-message")` for every member out of form.
    """

    round_id: bytes
    state: str
    fraction: float
    loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    def __post_init__(self) -> None:
        exact_bytes(self.round_id, 16, what=f"round_id of the {_WHAT}")
        if self.state not in (TRAINING, FAILED):
            raise Refusal("malformed-message", f"The state of the {_WHAT} is {TRAINING!r} or {FAILED!r}.")
        object.__setattr__(self, "fraction", finite_number(self.fraction, 0, 1, what=f"fraction of the {_WHAT}"))
        if self.loss is not None:
            loss = finite_number(self.loss, -LARGEST_LOSS, LARGEST_LOSS, what=f"loss of the {_WHAT}")
            object.__setattr__(self, "loss", loss)
        object.__setattr__(self, "metrics", checked_metrics(self.metrics))
        if self.reason != "":
            short_text(self.reason, MAX_REASON, what=f"reason of the {_WHAT}")

    def to_map(self) -> dict[str, Any]:
        """Return the map that is sent."""
        return asdict(self)

    @classmethod
    def from_map(cls, value: object) -> "ProgressReport":
        """Read a report strictly; raises as the class does."""
        return cls(**exact_map(value, _MEMBERS, what=_WHAT))


_MEMBERS = frozenset(member.name for member in fields(ProgressReport))
