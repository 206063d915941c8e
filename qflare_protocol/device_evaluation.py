"""What a model version is worth on the data that one device holds out: the report of `POST /api/evaluation`."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_bytes, exact_map, whole_number
from qflare_protocol.manifest import MAX_SAMPLE_COUNT, checked_metrics

_WHAT = "evaluation"


@dataclass(frozen=True)
class DeviceEvaluation:
    """One device's report on one version; no samples and no metrics where it holds no data out.

    Raises `Refusal`: "malformed-message", "sample-count-refused".
    """

    federation_id: bytes
    version: int
    sample_count: int
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        exact_bytes(self.federation_id, 16, what=f"federation_id of the {_WHAT}")
        whole_number(self.version, 0, 2**31 - 1, what=f"version of the {_WHAT}")
        whole_number(self.sample_count, 0, MAX_SAMPLE_COUNT, what="sample count", code="sample-count-refused")
        object.__setattr__(self, "metrics", checked_metrics(self.metrics))
        if bool(self.metrics) != bool(self.sample_count):
            raise Refusal("malformed-message", "Metrics come with the samples they were measured on, or neither.")

    def to_map(self) -> dict[str, Any]:
        """Return the map that is sent."""
        return asdict(self)

    @classmethod
    def from_map(cls, value: object) -> "DeviceEvaluation":
        """Read a report strictly; raises as the class does."""
        return cls(**exact_map(value, _MEMBERS, what=_WHAT))


_MEMBERS = frozenset(member.name for member in fields(DeviceEvaluation))
